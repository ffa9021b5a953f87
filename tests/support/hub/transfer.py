"""Files on their way: how the client shall send them, commits, and downloads."""

import base64
import json

from support.hub.answers import REPO, REVISION, Answer, Call, Refusal, as_json, route
from support.hub.discussions import propose
from support.hub.lfs import signed
from support.hub.rights import readable, writable, writer
from support.hub.store import Files, Repo


@route("POST", rf"/api/models/{REPO}/preupload/{REVISION}")
def preupload(call: Call, repo_id: str, revision: str) -> Answer:
    """For each file, whether it goes to LFS, or .gitignore keeps it out, and the hash of what lies there already."""
    repo = writable(call, repo_id, proposal=call.flag("create_pr") or revision.startswith("refs/pr/"))
    files, store = repo["commits"][call.hub.store.find(repo, revision)]["files"], call.hub.store
    answer = []
    for sent in call.json["files"]:
        large = store.in_lfs(files, sent["path"], sent["size"], base64.b64decode(sent["sample"]))
        mode = {"path": sent["path"], "uploadMode": "lfs" if large else "regular"}
        mode["shouldIgnore"] = store.ignored(files, sent["path"])
        if old := files.get(sent["path"]):
            mode["oid"] = old["sha256"] or old["oid"]
        answer.append(mode)
    return as_json({"files": answer})


@route("POST", rf"/api/models/{REPO}/commit/{REVISION}")
def commit(call: Call, repo_id: str, revision: str) -> Answer:
    """A commit on a branch or a pull request, or, with `create_pr`, on a new pull request from there.

    Like the real one, it makes a commit that changes nothing where a client asks for it: the official client does not.
    """
    new = call.flag("create_pr")
    repo = writable(call, repo_id, proposal=new or revision.startswith("refs/pr/"))
    lines = [json.loads(line) for line in call.body.splitlines()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    head = call.hub.store.find(repo, revision)
    ref = revision if revision.startswith(("refs/heads/", "refs/pr/")) else f"refs/heads/{revision}"
    if ref not in repo["refs"]:
        raise Refusal(404, f"Invalid rev id: {revision} is not a branch", "RevisionNotFound")
    if parent := header.get("parentCommit"):
        if not new and not head.startswith(parent):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        head = call.hub.store.find(repo, parent)
    files = dict(repo["commits"][head]["files"])
    for line in lines:
        if line["key"] != "header":
            change(call, repo, files, line["key"], line["value"])
    answer = {"success": True, "hookOutput": ""}
    if new:
        number = propose(call, repo, header["summary"], header["description"], head)
        ref = f"refs/pr/{number}"
        answer["pullRequestUrl"] = f"{call.hub.url}/{repo_id}/discussions/{number}"
    author = writer(call).name
    sha = call.hub.store.commit(repo, ref, files, header["summary"], header["description"], author)
    return as_json(answer | {"commitOid": sha, "commitUrl": f"{call.hub.url}/{repo_id}/commit/{sha}"})


def change(call: Call, repo: Repo, files: Files, key: str, value: dict[str, str]) -> None:
    """What one line of a commit does to `files`."""
    path, store = value["path"], call.hub.store
    if {"", ".", "..", ".git"}.intersection(path.removesuffix("/").split("/")):
        raise Refusal(400, f"Invalid path: {path}")
    if key == "file":
        content = base64.b64decode(value["content"])
        if b"\0" in content:
            raise Refusal(400, f"{path}: a binary file must be sent by LFS")
        files[path] = store.regular(content)
    elif key == "lfsFile":
        files[path] = store.large(repo, value["oid"])
    else:
        inside = f"{path.rstrip('/')}/" if key == "deletedFolder" else path
        gone = [name for name in files if name == path or (key == "deletedFolder" and name.startswith(inside))]
        if not gone:
            raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        for name in gone:
            del files[name]


@route("GET", rf"/{REPO}/resolve/{REVISION}/(?P<path>.+)")
def resolve(call: Call, repo_id: str, revision: str, path: str) -> Answer:
    """A file; one in LFS is at the storage, and only its size and hash are told here."""
    repo = readable(call, repo_id)
    sha = call.hub.store.find(repo, revision)
    file = repo["commits"][sha]["files"].get(path)
    headers = {"X-Repo-Commit": sha}
    if not file:
        raise Refusal(404, "Entry not found", "EntryNotFound", headers=headers)
    if not file["sha256"]:
        return Answer(call.hub.store.content(file), headers={**headers, "ETag": f'"{file["oid"]}"'})
    headers |= {"X-Linked-Size": str(file["size"]), "X-Linked-ETag": f'"{file["sha256"]}"', "ETag": f'"{file["sha256"]}"'}
    location = signed(call, "GET", f"/lfs/{repo_id}/{file['sha256']}", name=path)
    return Answer(status=302, headers={**headers, "Location": location})
