"""What the hub holds, in a folder: repositories with their commits and refs, contents by their hash, collections."""

import fnmatch
import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.hub.answers import Refusal

Repo = dict[str, Any]  # as it lies in the folder: id, private, created, refs, commits, lfs, discussions
Files = dict[str, dict[str, Any]]  # of a commit: path -> oid (git's), size, sha256 (of an LFS file, else None)
LFS_PATTERNS = (
    "*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz *.onnx *.ot"
    " *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar *.tflite *.tgz *.wasm *.xz"
    " *.zip *.zst *tfevents*"
)  # what a new repository's .gitattributes keeps in LFS
REGULAR = 10_000_000  # bytes; a larger file goes to LFS, whatever its name


def git_oid(content: bytes) -> str:
    """Git's hash of a file's content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """What git holds of an LFS file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def attributes(patterns: list[str]) -> bytes:
    """Lines of a .gitattributes file that keep `patterns` in LFS."""
    return "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in patterns).encode()


class Store:
    """All state is in `folder`: a hub that is started again there goes on. `lock` is held by whoever reads or changes it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lock = threading.RLock()
        for name in ("objects", "repos"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def save(self, name: str, value: object) -> None:
        """Write `value` as the file `name`, in one step."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(value))
        os.replace(scratch, path)

    def read(self, name: str) -> Any:
        """What `save` wrote; None where it did not."""
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else None

    def object(self, key: str) -> Path:
        """The file of a content: by its sha256 where LFS holds it, else by git's hash."""
        return self.folder / "objects" / key

    def scratch(self) -> Path:
        """A new empty file, which `keep` may take."""
        handle, name = tempfile.mkstemp(dir=self.folder)
        os.close(handle)
        return Path(name)

    def keep(self, repo: Repo, file: Path, sha256: str) -> None:
        """Take an LFS file that was sent to a repository; equal contents lie here once."""
        os.replace(file, self.object(sha256))
        repo["lfs"] = sorted({*repo["lfs"], sha256})
        self.save_repo(repo)

    def delete(self, repo_id: str) -> None:
        """A repository is gone."""
        (self.folder / self.name(repo_id)).unlink()

    def name(self, repo_id: str) -> str:
        """The repository's file."""
        return f"repos/{repo_id.replace('/', '--')}.json"

    def repo(self, repo_id: str) -> Repo | None:
        """The repository; None where it is not."""
        return self.read(self.name(repo_id))

    def save_repo(self, repo: Repo) -> None:
        """Write a repository that was changed."""
        self.save(self.name(repo["id"]), repo)

    def create(self, repo_id: str, private: bool) -> Repo:
        """A repository as the hub creates it: one commit, with .gitattributes."""
        repo = {"id": repo_id, "private": private, "created": now(), "refs": {}, "commits": {}, "lfs": [], "discussions": []}
        first = {".gitattributes": self.regular(attributes(LFS_PATTERNS.split()))}
        self.commit(repo, "refs/heads/main", first, "initial commit")
        return repo

    def regular(self, content: bytes) -> dict[str, Any]:
        """A file that git holds itself."""
        oid = git_oid(content)
        if not self.object(oid).exists():  # it may be on its way to a client
            self.object(oid).write_bytes(content)
        return {"oid": oid, "size": len(content), "sha256": None}

    def large(self, repo: Repo, sha256: str) -> dict[str, Any]:
        """A file in LFS; it must have been sent to this repository."""
        if sha256 not in repo["lfs"]:
            raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {sha256}")
        size = self.object(sha256).stat().st_size
        return {"oid": git_oid(pointer(sha256, size)), "size": size, "sha256": sha256}

    def content(self, file: dict[str, Any]) -> Path:
        """Where the content of a commit's file lies."""
        return self.object(file["sha256"] or file["oid"])

    def commit(self, repo: Repo, ref: str, files: Files, message: str, description: str = "", author: str = "hub") -> str:
        """A new commit on `ref`, which holds `files` and nothing else; its sha."""
        for path, file in files.items():
            if file["sha256"] and not self.tracked(files, path):  # the hub notes it there, as git needs it
                before = self.content(files[".gitattributes"]).read_bytes() if ".gitattributes" in files else b""
                files = {**files, ".gitattributes": self.regular(before + attributes([path.replace(" ", "[[:space:]]")]))}
        commit = {"parent": repo["refs"].get(ref), "files": files, "date": now()}
        commit |= {"message": message, "description": description, "author": author}
        sha = hashlib.sha1(json.dumps([commit, time.time_ns()]).encode()).hexdigest()
        repo["commits"][sha] = commit
        repo["refs"][ref] = sha
        self.save_repo(repo)
        return sha

    def tracked(self, files: Files, path: str) -> bool:
        """Whether .gitattributes among `files` keeps `path` in LFS."""
        lines = self.content(files[".gitattributes"]).read_text().splitlines() if ".gitattributes" in files else []
        patterns = [line.split(" ")[0].replace("[[:space:]]", " ") for line in lines if "filter=lfs" in line]
        return any(fnmatch.fnmatchcase(name, pattern) for name in (path, path.rsplit("/", 1)[-1]) for pattern in patterns)

    def ignored(self, files: Files, path: str) -> bool:
        """Whether a line of .gitignore among `files` is a pattern of `path`'s name."""
        lines = self.content(files[".gitignore"]).read_text().splitlines() if ".gitignore" in files else []
        return any(fnmatch.fnmatchcase(path.rsplit("/", 1)[-1], line) for line in lines)

    def in_lfs(self, files: Files, path: str, size: int, sample: bytes) -> bool:
        """Whether the hub keeps a file in LFS, as it decides from its first bytes and its size in bytes."""
        return self.tracked(files, path) or size > REGULAR or b"\0" in sample

    def find(self, repo: Repo, revision: str) -> str:
        """The commit that a branch, a tag, a ref's full name or a commit's first 7 digits or more name."""
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in repo["refs"]:
                return repo["refs"][name]
        found = [sha for sha in repo["commits"] if len(revision) >= 7 and sha.startswith(revision)]
        if len(found) != 1:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def put(self, repo_id: str, files: Path | Mapping[str, Path | bytes], private: bool = False) -> str:
        """Give a repository exactly these files, as one commit on main; its sha. Names are taken as they are, even bad ones."""
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path for path in sorted(files.rglob("*")) if path.is_file()}
        with self.lock:
            repo = self.repo(repo_id) or self.create(repo_id, private)
            kept = {".gitattributes": repo["commits"][self.find(repo, "main")]["files"][".gitattributes"]}
            for path, content in files.items():
                data = content if isinstance(content, bytes) else content.read_bytes()
                if self.in_lfs(kept, path, len(data), data[:512]):
                    file, sha256 = self.scratch(), hashlib.sha256(data).hexdigest()
                    file.write_bytes(data)
                    self.keep(repo, file, sha256)
                    kept[path] = self.large(repo, sha256)
                else:
                    kept[path] = self.regular(data)
            return self.commit(repo, "refs/heads/main", kept, "Put by a test")


def now() -> str:
    """The time, as the hub writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
