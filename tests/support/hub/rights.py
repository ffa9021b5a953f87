"""Who may read and write which repository, and how the hub refuses the others."""

from support.hub.answers import Account, Call, Refusal
from support.hub.store import Repo


def readable(call: Call, repo_id: str) -> Repo:
    """The repository; one that is private is not there for strangers, and without a token the hub does not say which it is."""
    repo = call.hub.store.repo(repo_id)
    hidden = repo and repo["private"] and not (call.account and call.account.belongs_to(repo_id.split("/")[0]))
    if not repo or hidden:
        if call.account:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        raise Refusal(401, "Invalid username or password.", "RepoNotFound")
    return repo


def writer(call: Call) -> Account:
    """The account behind a request that changes something."""
    if not call.account:
        raise Refusal(401, "Invalid username or password.")
    if call.account.role != "write":
        raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
    return call.account


def writable(call: Call, repo_id: str, proposal: bool = False) -> Repo:
    """The repository, for its owners; a proposal (a pull request) may come from whoever can read it."""
    repo, account = readable(call, repo_id), writer(call)
    if not proposal and not account.belongs_to(repo_id.split("/")[0]):
        raise Refusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
    return repo
