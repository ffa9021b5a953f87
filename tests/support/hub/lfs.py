"""LFS: which contents a repository lacks, and the storage that takes and gives them at signed addresses."""

import hashlib
import hmac
import os
from urllib.parse import quote

from support.hub.answers import REPO, Answer, Call, Refusal, as_json, route
from support.hub.rights import readable, writable

SHA256 = r"(?P<sha256>[0-9a-f]{64})"


def signature(call: Call, method: str, path: str) -> str:
    """What an address needs for the storage to answer it."""
    return hmac.digest(call.hub.secret, f"{method} {path}".encode(), "sha256").hex()


def signed(call: Call, method: str, path: str, server: str = "", name: str = "") -> str:
    """An address at the storage, or at `server`; `name` is what a download is called, as the real one says it."""
    shown = "&response-content-disposition=" + quote(f'attachment; filename="{name}"') if name else ""
    return f"{server or call.hub.storage_url}{path}?X-Amz-Signature={signature(call, method, path)}{shown}"


def check(call: Call, method: str) -> None:
    """The storage knows nobody; it believes its own signature."""
    if call.query.get("X-Amz-Signature") != [signature(call, method, call.path)]:
        raise Refusal(403, "SignatureDoesNotMatch")


@route("POST", rf"/{REPO}\.git/info/lfs/objects/batch")
def batch(call: Call, repo_id: str) -> Answer:
    """For each object, where to send it; nothing where the repository has it. Parts are for what is larger than one."""
    ref = call.json.get("ref", {}).get("name", "")
    repo = writable(call, repo_id, proposal=not ref or ref.startswith("refs/pr/"))
    objects = []
    for wanted in call.json["objects"]:
        answer, path = dict(wanted), f"/lfs/{repo_id}/{wanted['oid']}"
        if wanted["oid"] not in repo["lfs"]:
            verify = {"href": f"{call.hub.url}/{repo_id}.git/info/lfs/objects/verify"}
            upload: dict[str, object] = {"href": signed(call, "PUT", path)}
            if wanted["size"] > call.hub.part and "multipart" in call.json["transfers"]:
                parts = range(1, -(-wanted["size"] // call.hub.part) + 1)
                header = {str(number): signed(call, "PUT", f"{path}/{number}") for number in parts}
                upload = {"href": signed(call, "POST", f"{path}/complete", call.hub.url)}
                upload["header"] = {"chunk_size": str(call.hub.part), **header}
            answer["actions"] = {"upload": upload, "verify": verify}
        objects.append(answer)
    return as_json({"transfer": "basic", "objects": objects})


@route("POST", rf"/{REPO}\.git/info/lfs/objects/verify")
def verify(call: Call, repo_id: str) -> Answer:
    """Whether an object arrived with the size that the client has in mind."""
    repo, sent = readable(call, repo_id), call.json
    if sent["oid"] not in repo["lfs"] or call.hub.store.object(sent["oid"]).stat().st_size != sent["size"]:
        raise Refusal(404, "The object did not arrive.")
    return as_json({})


@route("PUT", rf"/lfs/{REPO}/{SHA256}")
def put(call: Call, repo_id: str, sha256: str) -> Answer:
    """An object, whole."""
    check(call, "PUT")
    assert call.upload
    if call.sha256 != sha256:
        raise Refusal(400, "BadDigest")
    call.hub.store.keep(call.hub.store.repo(repo_id), call.upload, sha256)
    return Answer(headers={"ETag": f'"{sha256}"'})


@route("PUT", rf"/lfs/{REPO}/{SHA256}/(?P<number>\d+)")
def put_part(call: Call, repo_id: str, sha256: str, number: str) -> Answer:
    """A part of an object; it lies beside the others until all are there."""
    check(call, "PUT")
    assert call.upload
    os.replace(call.upload, call.hub.store.object(f"{sha256}.{number}"))
    return Answer(headers={"ETag": f'"{call.sha256}"'})


@route("POST", rf"/lfs/{REPO}/{SHA256}/complete")
def complete(call: Call, repo_id: str, sha256: str) -> Answer:
    """The parts become the object."""
    check(call, "POST")
    store, whole = call.hub.store, call.hub.store.scratch()
    with whole.open("wb") as file:
        for part in call.json["parts"]:
            file.write(store.object(f"{sha256}.{part['partNumber']}").read_bytes())
    if hashlib.sha256(whole.read_bytes()).hexdigest() != sha256:
        raise Refusal(400, "BadDigest")
    store.keep(store.repo(repo_id), whole, sha256)
    return as_json({"success": True})


@route("GET", rf"/lfs/{REPO}/{SHA256}")
def get(call: Call, repo_id: str, sha256: str) -> Answer:
    """An object."""
    check(call, "GET")
    return Answer(call.hub.store.object(sha256), headers={"ETag": f'"{sha256}"'})
