"""The tables of a model card: lists of Markdown lines, empty where there is nothing to show."""

from collections.abc import Iterable, Mapping, Sequence

from shim.artifact import Manifest
from shim.parity import Figures

LANGUAGES = {"und": "no language"}  # where a code says little


def key_of(manifest: Manifest) -> str:
    """What the precision of an artifact is called."""
    return f"{manifest.bits}bit"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; numbers stand right."""
    body = list(rows)
    right = [all(_number(row[place]) for row in body) for place in range(len(header))]
    lines = [header, ["---:" if each else ":---" for each in right], *body]
    return ["| " + " | ".join(line) + " |" for line in lines]


def files(precisions: Mapping[str, Manifest], default: str) -> list[str]:
    """What each precision weighs, and how near it is to the original, head by head."""
    several = any(len(manifest.model.heads) > 1 for manifest in precisions.values())
    header = ["Precision", "File", "Size", "Bits per weight", *["Head"] * several, "Worst", "1st percentile", "Mean"]
    rows = []
    for key, manifest in precisions.items():
        heads: Mapping[str, Figures | None] = manifest.parity.heads or {"": None}
        for place, (head, figures) in enumerate(heads.items()):
            bits = f"{manifest.quantization['bits_per_weight']:.2f}"
            what = [f"**{key}**" if key == default and len(precisions) > 1 else key, f"`{weights(manifest)}`"]
            what = [*what, f"{manifest.size / 1e6:.1f} MB", bits] if place == 0 else [""] * 4
            rows.append([*what, *[head] * several, *_cosines(figures)])
    lines = table(header, rows)
    if len(precisions) > 1:
        lines += ["", f"`shim` takes **{default}** where nobody says which. Sizes are of everything that a precision needs."]
    return lines


def languages(precisions: Mapping[str, Manifest]) -> list[str]:
    """The worst cosine of each language."""
    rows, found = [], dict[str, None]()
    for manifest in precisions.values():
        found |= dict.fromkeys(
            language for figures in (manifest.parity.heads or {}).values() for language in figures.by_language
        )
    several = any(len(manifest.model.heads) > 1 for manifest in precisions.values())
    for key, manifest in precisions.items():
        for head, figures in (manifest.parity.heads or {}).items():
            rows.append([key, *[head] * several, *(_cosine(figures.by_language.get(language)) for language in found)])
    if not rows or len(found) < 2:
        return []
    header = ["Worst, by language", *["Head"] * several, *(LANGUAGES.get(language, language) for language in found)]
    return table(header, rows)


def evaluation(precisions: Mapping[str, Manifest]) -> list[str]:
    """What parity means to a user: scores of the original and of the artifact, where they were measured."""
    header = ["Set", "Metric", "Precision", "Original", "Artifact", "Difference", "95 % interval", "n"]
    rows = []
    for key, manifest in precisions.items():
        for each in manifest.parity.evaluation or ():
            scores = [f"{100 * each.original:.2f}", f"{100 * each.artifact:.2f}", f"{100 * each.difference:+.2f}"]
            between = f"{100 * each.low:+.2f} to {100 * each.high:+.2f}"
            rows.append([each.set, each.metric, key, *scores, between, str(each.n)])
    told = "In points of 100: the original's, the artifact's, their difference and its bootstrap interval (`convert eval`)."
    return ["## What it scores", "", told, "", *table(header, sorted(rows, key=lambda row: (row[0], row[1])))] if rows else []


def weights(manifest: Manifest) -> str:
    """The file of the weights, or of the graph; a pattern where there are several."""
    suffix = ".onnx" if manifest.target == "onnx" else ".safetensors"
    names = [name for name in manifest.files if name.endswith(suffix) and name.split("/")[-1].startswith("model")]
    return names[0] if len(names) == 1 else f"model*{suffix}"


def _cosines(figures: Figures | None) -> list[str]:
    """Worst, first percentile, mean; empty cells of what was not measured."""
    return [f"{cosine:.5f}" for cosine in (figures.worst, figures.p01, figures.mean)] if figures else [""] * 3


def _cosine(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _number(text: str) -> bool:
    return not text or text.replace(".", "").removeprefix("+").removeprefix("-").removesuffix(" MB").isdigit()
