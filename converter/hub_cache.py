"""What the hub's cache on this machine holds of the recipes' models: originals, and ports to MLX and ONNX, ours and others'."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from converter import cache
from converter.recipe import Source
from converter.source.checkpoint import PICKLE, SAFETENSORS, read_json
from shim import artifact
from shim.errors import SealportError
from shim.jsons import JsonObject, read_manifest, table

WEIGHTS = (".safetensors", ".onnx", "_data")


@dataclass(frozen=True)
class Port:
    """A model in MLX's or ONNX's format.

    recipe: of its original. bits: None where nothing says it. verdict: as its manifest has it; `partial` where files of the
    manifest are missing or of another size, `broken` where it cannot be read, None for a port that is not ours and so has no
    proof. size: bytes that are here. repo, revision: of the hub; of an artifact that was made here, nothing.
    """

    name: str
    path: str
    recipe: str
    target: str
    bits: int | None
    verdict: str | None
    size: int
    repo: str = ""
    revision: str = ""


class HubCache:
    """The models in the hub's cache, and what `shim pull` laid beside our own."""

    def __init__(self) -> None:
        import huggingface_hub

        try:
            repos = huggingface_hub.scan_cache_dir().repos
        except huggingface_hub.CacheNotFound:
            repos = frozenset()
        self.models = {repo.repo_id.lower(): repo for repo in repos if repo.repo_type == "model"}

    def original(self, source: Source) -> tuple[str, int]:
        """(`cache`, `partial` or `hub`, bytes): whether the checkpoint is here whole, without some weights, or not at all."""
        repo = self.models.get(source.repo.lower())
        for revision in repo.revisions if repo else ():
            if source.revision in (revision.commit_hash, *revision.refs):
                return ("cache" if _whole(revision.snapshot_path) else "partial"), revision.size_on_disk
        return "hub", 0

    def ports(self, originals: Mapping[str, str]) -> list[Port]:
        """Every port of a model whose repository is in `originals`, {repository in lower case: recipe}, and all of ours."""
        found: list[Port] = []
        for repo in self.models.values():
            for revision in repo.revisions:
                where = (revision.snapshot_path, repo.repo_id, revision.commit_hash)
                if (revision.snapshot_path / artifact.MANIFEST).exists():
                    found += _ours(*where)
                else:
                    found += _others(*where, originals)
        for path in sorted((cache.folder() / "hub").glob(f"*/*/*/{artifact.MANIFEST}")):
            found += _ours(path.parent, path.parts[-4].replace("--", "/", 1), path.parts[-3])
        return sorted(found, key=lambda port: (port.repo.lower(), port.revision, port.path, port.bits or 0))


def _whole(folder: Path) -> bool:
    """Whether all of its weights are there; a link whose blob is gone is not."""
    for place in (folder, *folder.glob("*_Transformer")):
        for name in (SAFETENSORS, PICKLE):
            if (place / name).is_file():
                return True
            if (index := place / f"{name}.index.json").is_file():
                try:
                    shards = table(read_json(index), "weight_map").values()
                except (SealportError, TypeError):
                    return False
                return all((place / str(shard)).is_file() for shard in shards)
    return False


def _ours(folder: Path, repo: str, revision: str) -> Iterator[Port]:
    """Our published repository, of which each precision is a port; those of which no weights are here are left out."""
    path = str(folder)
    try:
        raw = read_manifest(folder / artifact.MANIFEST)
        for each in table(raw, "precisions").values() if "precisions" in raw else [raw]:
            manifest = artifact.parse(each, folder / artifact.MANIFEST)
            listed = {name: entry["size"] for name, entry in manifest.files.items()}
            here = {name: (folder / name).stat().st_size for name in listed if (folder / name).is_file()}
            if any(name.endswith(WEIGHTS) for name in here):
                verdict, about = manifest.verdict if here == listed else "partial", (manifest.recipe, manifest.target)
                yield Port(manifest.name, path, *about, manifest.bits, verdict, sum(here.values()), repo, revision)
    except (SealportError, TypeError):
        yield Port(repo, path, "", "", None, "broken", 0, repo, revision)


def _others(folder: Path, repo: str, revision: str, originals: Mapping[str, str]) -> Iterator[Port]:
    """What somebody else made of a model, by the model card's own word on its base, and ONNX files of the original's makers."""
    card = _card(folder)
    bases = card.get("base_model") or []
    named = [repo, *(bases if isinstance(bases, list) else [bases])]
    recipe = next((originals[str(base).lower()] for base in named if str(base).lower() in originals), None)
    if recipe is None:
        return
    tags = card.get("tags")
    mlx = card.get("library_name") == "mlx" or (isinstance(tags, list) and "mlx" in tags)
    for target, patterns in (("mlx", ("*.safetensors",) * mlx), ("onnx", ("*.onnx", "*.onnx_data"))):
        sizes = [path.stat().st_size for pattern in patterns for path in folder.rglob(pattern) if path.is_file()]
        if sizes:
            bits = _mlx_bits(folder) if target == "mlx" else None
            yield Port(repo, str(folder), recipe, target, bits, None, sum(sizes), repo, revision)


def _card(folder: Path) -> JsonObject:
    import huggingface_hub

    try:
        return huggingface_hub.metadata_load(folder / "README.md") or {}
    except Exception:  # no card, or one whose front matter is none: yaml raises its own
        return {}


def _mlx_bits(folder: Path) -> int | None:
    try:
        bits = table(read_json(folder / "config.json"), "quantization").get("bits")
    except (SealportError, TypeError):
        return None
    return bits if isinstance(bits, int) else None
