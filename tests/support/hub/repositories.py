"""Repositories and what they tell: their creation, their state at a revision, their files, branches and tags."""

from support.hub.answers import REPO, REVISION, Answer, Call, Refusal, as_json, route
from support.hub.cards import front_matter, problems
from support.hub.rights import readable, writable, writer
from support.hub.store import Repo, pointer


@route("POST", "/api/repos/create")
def create(call: Call) -> Answer:
    """A repository, in the account's own name or an organisation's."""
    asked, account = call.json, writer(call)
    namespace = asked.get("organization") or account.name
    repo_id = f"{namespace}/{asked['name']}"
    if not account.belongs_to(namespace):
        raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
    if asked.get("type", "model") != "model":
        raise Refusal(400, "This hub holds models.")
    address = {"url": f"{call.hub.url}/{repo_id}"}
    if call.hub.store.repo(repo_id):
        raise Refusal(409, "You already created this model repo", more=address)
    call.hub.store.create(repo_id, asked.get("visibility") == "private")
    return as_json({**address, "name": repo_id})


@route("DELETE", "/api/repos/delete")
def delete(call: Call) -> Answer:
    """It is gone."""
    repo_id = f"{call.json.get('organization') or writer(call).name}/{call.json['name']}"
    writable(call, repo_id)
    call.hub.store.delete(repo_id)
    return Answer()


@route("GET", rf"/api/models/{REPO}(?:/revision/{REVISION})?")
def info(call: Call, repo_id: str, revision: str) -> Answer:
    """A repository's state at a revision, main's if none is named."""
    repo = readable(call, repo_id)
    sha = call.hub.store.find(repo, revision or "main")
    commit = repo["commits"][sha]
    siblings = [{"rfilename": path, **(blob(file) if call.flag("blobs") else {})} for path, file in commit["files"].items()]
    answer = {"_id": sha[:24], "id": repo_id, "modelId": repo_id, "author": repo_id.split("/")[0], "sha": sha}
    answer |= {"private": repo["private"], "gated": False, "disabled": False, "downloads": 0, "likes": 0, "siblings": siblings}
    answer |= {"createdAt": repo["created"], "lastModified": commit["date"]}
    text = call.hub.store.content(commit["files"]["README.md"]).read_text() if "README.md" in commit["files"] else ""
    card = (front_matter(text) or {}) if not problems(text)[0] else {}
    answer |= {key: card[key] for key in ("pipeline_tag", "library_name") if key in card}
    return as_json(answer | {"tags": card.get("tags", []), "cardData": card})


def blob(file: dict[str, object]) -> dict[str, object]:
    """A file among the siblings, with its size and hashes."""
    told = {"size": file["size"], "blobId": file["oid"]}
    return told | {"lfs": {**lfs(file), "sha256": file["sha256"]}} if file["sha256"] else told


def lfs(file: dict[str, object]) -> dict[str, object]:
    """What is told of an LFS file."""
    size = len(pointer(str(file["sha256"]), int(str(file["size"]))))
    return {"size": file["size"], "pointerSize": size}


def listing(repo: Repo, sha: str) -> dict[str, dict[str, object]]:
    """Files and folders of a commit, by path."""
    entries: dict[str, dict[str, object]] = {}
    for path, file in sorted(repo["commits"][sha]["files"].items()):
        parts = path.split("/")
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end])
            entries.setdefault(folder, {"type": "directory", "oid": sha, "size": 0, "path": folder})
        entries[path] = {"type": "file", "oid": file["oid"], "size": file["size"], "path": path}
        if file["sha256"]:
            entries[path]["lfs"] = {**lfs(file), "oid": file["sha256"]}
    return entries


@route("GET", rf"/api/models/{REPO}/tree/{REVISION}(?:/(?P<folder>.+))?")
def tree(call: Call, repo_id: str, revision: str, folder: str) -> Answer:
    """Files and folders, all or those of one folder, in pages."""
    repo = readable(call, repo_id)
    entries = listing(repo, call.hub.store.find(repo, revision))
    if folder and folder not in entries:
        raise Refusal(404, "Entry not found", "EntryNotFound")
    prefix = f"{folder}/" if folder else ""
    found = [entry for path, entry in entries.items() if path.startswith(prefix)]
    if not call.flag("recursive"):
        found = [entry for entry in found if "/" not in str(entry["path"]).removeprefix(prefix)]
    start = int(call.query.get("cursor", ["0"])[0])
    end = start + call.hub.page
    headers = {}
    if end < len(found):
        recursive = "true" if call.flag("recursive") else "false"
        headers["Link"] = f'<{call.hub.url}{call.path}?recursive={recursive}&cursor={end}>; rel="next"'
    return as_json(found[start:end], **headers)


@route("POST", rf"/api/models/{REPO}/paths-info/{REVISION}")
def paths_info(call: Call, repo_id: str, revision: str) -> Answer:
    """Those files and folders among `paths` that are there."""
    repo = readable(call, repo_id)
    entries = listing(repo, call.hub.store.find(repo, revision))
    return as_json([entries[path] for path in call.form.get("paths", []) if path in entries])


@route("GET", rf"/api/models/{REPO}/commits/{REVISION}")
def commits(call: Call, repo_id: str, revision: str) -> Answer:
    """The commits that led to a revision, the last one first."""
    repo, found = readable(call, repo_id), []
    sha = call.hub.store.find(repo, revision)
    while sha:
        commit = repo["commits"][sha]
        told = {"id": sha, "date": commit["date"], "title": commit["message"], "message": commit["description"]}
        found.append(told | {"authors": [{"user": commit["author"]}]})
        sha = commit["parent"]
    return as_json(found)


@route("GET", rf"/api/models/{REPO}/refs")
def refs(call: Call, repo_id: str) -> Answer:
    """Branches, tags and pull requests."""
    kinds = {"refs/heads/": "branches", "refs/tags/": "tags", "refs/pr/": "pullRequests"}
    answer: dict[str, list[dict[str, str]]] = {kind: [] for kind in (*kinds.values(), "converts")}
    for ref, sha in readable(call, repo_id)["refs"].items():
        prefix = next(prefix for prefix in kinds if ref.startswith(prefix))
        answer[kinds[prefix]].append({"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha})
    return as_json(answer)


@route("POST", rf"/api/models/{REPO}/branch/(?P<name>[^/]+)")
def branch(call: Call, repo_id: str, name: str) -> Answer:
    """A branch, from a revision or main."""
    repo = writable(call, repo_id)
    if name.startswith("refs/"):
        raise Refusal(400, f"Invalid reference for a branch: {name}")
    return refer(call, repo, f"refs/heads/{name}", call.json.get("startingPoint", "main"))


@route("POST", rf"/api/models/{REPO}/tag/{REVISION}")
def tag(call: Call, repo_id: str, revision: str) -> Answer:
    """A tag on a revision."""
    return refer(call, writable(call, repo_id), f"refs/tags/{call.json['tag']}", revision)


def refer(call: Call, repo: Repo, ref: str, revision: str) -> Answer:
    """A new ref."""
    if ref in repo["refs"]:
        raise Refusal(409, f"Reference already exists: {ref}")
    repo["refs"][ref] = call.hub.store.find(repo, revision)
    call.hub.store.save_repo(repo)
    return as_json({})
