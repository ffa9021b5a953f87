"""What clients may ask for: a model by its manifest, whether it is loaded or not, and the names that it answers to."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shim.artifact import Manifest
from shim.errors import UsageError
from shim.jsons import JsonObject
from shim.model import Model, facts
from shim.nearest import meant
from shim.prompts import adapter_of, prompt_of
from shim.serve.faults import Kind, Refusal
from shim.serve.served_model import ServedModel

LATEST = ":latest"  # what Ollama's clients put behind a name that has no tag
Opener = Callable[[], Model]


@dataclass(eq=False)
class Listed:
    """A model that clients may ask for.

    stays: whether it is loaded at the start and never unloaded. served: while it is loaded. memory: bytes that it takes, or
    will at most when it is loaded; 0 where nobody counts.
    """

    name: str
    opener: Opener
    manifest: Manifest
    stays: bool = True
    served: ServedModel | None = None
    memory: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)  # while its thread is started anew, or ended

    def info(self) -> JsonObject:
        """As `Model.info`; what only the loaded model knows is None."""
        loaded = {} if self.served is None else self.served.model.info()
        absent: JsonObject = dict.fromkeys(("repository", "revision", "runtime", "device"))
        return absent | facts(self.manifest) | loaded | {"loaded": self.served is not None, "memory": self.memory or None}


class Names:
    """The names of the listed models: their own, those of their artifacts, recipes and originals, and aliases."""

    def __init__(self, listed: dict[str, Listed]):
        self._listed = listed
        self._known: dict[str, list[Listed]] = {}  # of each name, the first of each kind
        self.aliases: dict[str, list[Listed]] = {}  # that were asked for
        self.tasks: dict[str, str] = {}  # the task of a name, where a request names none

    def add(self, one: Listed) -> None:
        """Its artifact's, its recipe's and its original's names, where no model of its kind has them yet."""
        source = one.manifest.source
        for name in (one.manifest.name, one.manifest.recipe, source.get("base_model", source["repo"])):
            known = self._known.setdefault(name, [])
            if all(other.manifest.task != one.manifest.task for other in known):
                known.append(one)

    def alias(self, name: str, target: str) -> None:
        """Let `name` stand for `target`. Raises UsageError for a name that is another's, and for an unknown target."""
        self._free(name)
        found = self._all(target)
        if not found:
            raise UsageError(f"--alias {name}={target}: no model {target!r} is given; there is {', '.join(self._listed)}")
        self._known[name] = self.aliases[name] = found

    def one_for_all(self, name: str) -> None:
        """Let `name` stand for the only embedder and the only reranker. Raises UsageError where there are two of a kind."""
        self._free(name)
        kinds = [one.manifest.task for one in self._listed.values()]
        if len(set(kinds)) < len(kinds):
            raise UsageError("--served-model-name is for one model of a kind; give NAME=ARTIFACT, or --alias NAME=MODEL")
        self._known[name] = self.aliases[name] = list(self._listed.values())

    def task(self, name: str, task: str) -> None:
        """What a request by this name is for, where it does not say. Raises UsageError for one that the model has not."""
        found = [one for one in self._all(name) if one.manifest.task == "embed"]
        if not found:
            raise UsageError(f"--default-task {name}={task}: no embedding model {name!r} is given")
        for one in found:
            prompt_of(one.manifest.model, task)
            adapter_of(one.manifest.model, task)
        self.tasks |= dict.fromkeys([name] if name in self.aliases else [one.name for one in found], task)

    def find(self, name: str | None, kind: str, head: str = "") -> tuple[Listed, str | None]:
        """The model of that name and the task that goes with the name; where none is asked for, the first of the kind, embed or
        rerank, with that head. Raises Refusal."""
        if name is None:
            for one in self._listed.values():
                if one.manifest.task == kind and head in ("", *one.manifest.model.heads):
                    return one, self.tasks.get(one.name)
            raise Refusal(Kind.NO_MODEL, f"no {head} {kind} model is served here".replace("  ", " "), "model")
        for known in dict.fromkeys((name, name.removesuffix(LATEST))):
            if found := self._all(known):
                one = next((one for one in found if one.manifest.task == kind), found[0])
                return one, self.tasks.get(known, self.tasks.get(one.name))
        near = meant(name[:100], (*self.all(), *self._known))
        message = f"model {name[:100]!r} is not served here; there is {', '.join(map(self._with_short, self.all()))}{near}"
        raise Refusal(Kind.NO_MODEL, message, "model")

    def all(self) -> Iterable[str]:
        """The models' own names and the aliases."""
        return dict.fromkeys((*self._listed, *self.aliases))

    def _with_short(self, name: str) -> str:
        """The name, and the recipe's where that is the model's too."""
        one = self._listed.get(name)
        short = name if one is None else one.manifest.recipe
        return name if name == short or one not in self._all(short) else f"{name} (or {short})"

    def _all(self, name: str) -> list[Listed]:
        return [self._listed[name]] if name in self._listed else self._known.get(name, [])

    def _free(self, name: str) -> None:
        if name in self._listed or name in self.aliases:
            raise UsageError(f"the name {name} is given twice")
