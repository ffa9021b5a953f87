"""Pull requests."""

from support.hub.answers import REPO, Answer, Call, Refusal, as_json, route
from support.hub.rights import readable, writable, writer
from support.hub.store import Repo, now


def propose(call: Call, repo: Repo, title: str, description: str, start: str) -> int:
    """Open a pull request whose branch, refs/pr/N, starts at the commit `start`; its number."""
    number = len(repo["discussions"]) + 1
    opened = {"num": number, "title": title, "description": description, "author": {"name": writer(call).name}}
    repo["discussions"].append(opened | {"createdAt": now(), "status": "draft", "isPullRequest": True})
    repo["refs"][f"refs/pr/{number}"] = start
    call.hub.store.save_repo(repo)
    return number


@route("POST", rf"/api/models/{REPO}/discussions")
def open_one(call: Call, repo_id: str) -> Answer:
    """A pull request without a change yet."""
    repo, asked = writable(call, repo_id, proposal=True), call.json
    if not asked["pullRequest"]:
        raise Refusal(400, "This hub has pull requests, and no other discussions.")
    number = propose(call, repo, asked["title"], asked["description"], call.hub.store.find(repo, "main"))
    return as_json({"num": number})


@route("GET", rf"/api/models/{REPO}/discussions/(?P<number>\d+)")
def show(call: Call, repo_id: str, number: str) -> Answer:
    """One of them."""
    repo = readable(call, repo_id)
    if not 0 < int(number) <= len(repo["discussions"]):
        raise Refusal(404, "Discussion not found")
    more = {"repo": {"name": repo_id, "type": "model"}, "changes": {"base": "refs/heads/main"}}
    return as_json(repo["discussions"][int(number) - 1] | more | {"filesWithConflicts": [], "events": [], "diff": ""})
