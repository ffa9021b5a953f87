"""One repository of the hub, through huggingface_hub: what it holds, and one commit that changes it.

The token is huggingface_hub's own (`HF_TOKEN`, else its login). No error that leaves this file has it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shim.errors import SealportError, SourceError, UsageError

Progress = Callable[[str, int, int], None]  # stage, files done, all of them
AGAIN = "run the command again: what has arrived is kept"
STATUS = {
    401: "the hub does not accept the token; `hf auth login` or HF_TOKEN gives it another",
    403: "the hub refuses: this token may not do that",
    404: "the hub has no such repository or branch, or hides it from this token",
    409: f"it was changed meanwhile; {AGAIN}",
    412: f"it was changed meanwhile; {AGAIN}",
    429: f"the hub has had too many requests; wait, then {AGAIN}",
}


@dataclass(frozen=True)
class File:
    """A file of a commit: the SHA-256 of its content where it is in LFS, and the SHA-1 of its git blob."""

    sha256: str | None
    blob: str | None


@dataclass(frozen=True)
class State:
    """A repository at a revision. missing: there is no such branch yet, and this is the one that it would start from."""

    commit: str
    private: bool
    files: dict[str, File]
    missing: bool = False


@dataclass(frozen=True)
class Changes:
    """send: paths of what the repository has not, or has otherwise. delete: paths."""

    send: list[str]
    delete: list[str]

    @property
    def empty(self) -> bool:
        return not self.send and not self.delete


@dataclass(frozen=True)
class Commit:
    """What was done. pull_request: its address, where one was opened."""

    id: str
    pull_request: str | None


def repository_id(org: str, name: str) -> str:
    """ORG/NAME. Raises UsageError where the hub would not have one of that name."""
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(f"{org}/{name}")
    except ValueError as error:
        raise UsageError(f"{org}/{name}: not a repository's name ({str(error).rstrip('.')})") from None
    return f"{org}/{name}"


class Hub:
    """The repository `id`, on the branch `revision`. bars: the client shows its own. Raises SourceError without a token."""

    def __init__(self, id: str, revision: str, bars: bool):
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars, logging

        self.id, self.revision, self.token = id, revision, ""
        logging.set_verbosity_error()  # a failure is one line, and it is ours
        if not bars:
            disable_progress_bars()
        with self._errors():
            self.token = huggingface_hub.get_token() or ""
        if not self.token:
            raise SourceError(f"{id}: no token for the hub; `hf auth login` or HF_TOKEN gives one")
        self.api = huggingface_hub.HfApi(token=self.token)

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{self.id}"

    def state(self) -> State | None:
        """What is there on the branch; None where there is no repository."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        with self._errors():
            missing = False
            try:
                info = self.api.model_info(self.id, revision=self.revision, files_metadata=True)
            except RepositoryNotFoundError:
                return None
            except RevisionNotFoundError:
                info, missing = self.api.model_info(self.id, files_metadata=True), True
            files = {each.rfilename: File(each.lfs.sha256 if each.lfs else None, each.blob_id) for each in info.siblings or ()}
            return State(str(info.sha), bool(info.private), files, missing)

    def prepared(self, state: State | None, private: bool) -> State:
        """What is there after the repository, a `private` one if so, and the branch are made, where `state` lacks them.

        Raises SourceError where somebody else has put something there since.
        """
        if state is not None and not state.missing:
            return state
        with self._errors():
            if state is None:
                self.api.create_repo(self.id, private=private or None, exist_ok=True)
            if self.revision != "main":
                self.api.create_branch(self.id, branch=self.revision, exist_ok=True)
        made = self.state()
        if made is None or made.missing:
            raise SourceError(f"{self.id}: {STATUS[404]}")
        changed = made.commit != state.commit if state else any(not name.startswith(".") for name in made.files)
        if changed:
            raise SourceError(f"{self.id}: {STATUS[409]}")
        return made

    def fetch(self, names: list[str], commit: str) -> Path:
        """The folder of the hub's cache that has these files."""
        with self._errors():
            for name in names:
                path = self.api.hf_hub_download(self.id, name, revision=commit)
            return Path(path).parents[len(PurePosixPath(name).parts) - 1]

    def commit(
        self,
        folder: Path,
        changes: Changes,
        message: tuple[str, str],
        parent: str,
        create_pr: bool,
        progress: Progress,
    ) -> Commit:
        """Send files of the folder, then make all changes in one commit on `parent`, or in a pull request.

        message: title and description. Files go one by one, so that Ctrl-C ends at once, and content with two names goes once.
        The hub keeps what has arrived whole, so that a second try sends the rest.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with self._errors():
            adds = {name: CommitOperationAdd(name, folder.absolute() / name) for name in changes.send}
            for count, (name, add) in enumerate(adds.items(), 1):
                self.api.preupload_lfs_files(
                    additions=[add], free_memory=False, repo_id=self.id, revision=self.revision, create_pr=create_pr
                )
                if getattr(add, "_should_ignore", False):  # the client would leave it out without a word
                    raise SourceError(f"{self.id}: its .gitignore keeps {name} out; nothing was committed")
                progress("send", count, len(adds))
            done = self.api.create_commit(
                operations=[*adds.values(), *map(CommitOperationDelete, changes.delete)],
                commit_message=message[0],
                commit_description=message[1],
                parent_commit=parent,
                repo_id=self.id,
                revision=self.revision,
                create_pr=create_pr,
            )
            return Commit(done.oid, done.pr_url)

    def collect(self, title: str, private: bool) -> str:
        """Put the repository into its organisation's collection of this title, which is made if need be; its address."""
        with self._errors():
            namespace = self.id.split("/")[0]
            slug = self.api.create_collection(title, namespace=namespace, private=private, exists_ok=True).slug
            self.api.add_collection_item(slug, self.id, "model", exists_ok=True)
            return f"{self.api.endpoint}/collections/{slug}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever the client raises - its own errors, the network's, ValueError - as a SourceError of one line."""
        try:
            yield
        except SealportError:
            raise
        except Exception as error:
            raise SourceError(f"{self.id}: {self._reason(error)}") from None

    def _reason(self, error: Exception) -> str:
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__) is not None:
            causes.append(cause)
        answered = next((each for each in causes if getattr(each, "response", None) is not None), None)
        if answered is None:
            return f"{self._shown(str(causes[-1])) or type(causes[-1]).__name__}; {AGAIN}"
        status = answered.response.status_code  # type: ignore[attr-defined]
        told = self._shown(getattr(answered, "server_message", None) or "")
        reason = STATUS.get(status, f"the hub failed; {AGAIN}" if status >= 500 else "the hub refuses")
        return f"{reason} ({status}{': ' if told else ''}{told})"

    def _shown(self, text: str) -> str:
        """The first line, without the token."""
        line = next(iter(text.strip().splitlines()), "")
        return line.replace(self.token, "***") if self.token else line
