"""Results as a person reads them: plain text, one fact a line."""

import shlex
from collections import Counter
from typing import Any

from converter.matrix import Entry
from shim.artifact import Manifest, Record
from shim.parity import PARITY_TARGET, Evaluation, Spread, Witness

# How the input of a layer is rounded where products are in integers.
INPUTS = {
    "tensor": "8 bits, one scale",
    "token": "8 bits, a scale a token",
    "block": "8 bits, a scale a block",
    "none": "float32",
}


def summary(manifest: Manifest, path: str) -> str:
    """Name and verdict, then where it is, how large, and how near to the original."""
    lines = [f"{manifest.name}: {manifest.verdict}", f"  path     {path}", _size(manifest)]
    parity = manifest.parity
    for head, figures in (parity.heads or {}).items():
        lines.append(_cosines(head, figures))
        lines.append(f"  {'':8} worst by language: " + ", ".join(f"{k} {v:.5f}" for k, v in figures.by_language.items()))
        if figures.by_dimensions:
            cuts = ", ".join(f"{size} {worst:.5f}" for size, worst in figures.by_dimensions.items())
            lines.append(f"  {'':8} worst when cut to so many dimensions: {cuts}")
        if figures.centred:
            lines.append(_cosines("centred", figures.centred))
        if figures.said:
            lines.append(f"  {'':8} " + "; ".join(figures.said))
    if parity.heads:
        noun = "pairs" if manifest.task == "rerank" else "texts"
        lines.append(f"  measured {parity.texts} {noun} on {parity.runtime} ({parity.device}, {parity.kernels or '?'})")
        if packed := parity.packed_kernels:
            lines.append(f"  {'':8} {packed.kernels} kernels against these, {packed.texts} {noun}: worst {packed.worst:.5f}")
        if parity.witness:
            lines.append(f"  witness  {witness_line(parity.witness)}")
        lines += [f"  note     {note}" for note in parity.notes or ()]
    for name, other in (manifest.runtimes or {}).items():
        worst = ", ".join(f"{head} worst {cosine:.5f}" for head, cosine in other.worst.items())
        lines.append(f"  {name:8} {other.verdict} ({other.device}, {other.kernels}): {worst}")
    lines += evaluation(parity.evaluation) if parity.evaluation else []
    lines += [f"  override {key}: {reason}" for key, reason in manifest.source.get("overrides", {}).items()]
    return "\n".join(lines)


def _size(manifest: Manifest) -> str:
    """How large it is, and where its bits per weight come from."""
    bits, whole = manifest.quantization["bits_per_weight"], manifest.quantization.get("original_bits_per_weight")
    of = f", {bits / whole:.0%} of the original" if whole else ""
    counts = Counter(int(entry["bits"]) for entry in manifest.quantization["tensors"].values())
    parts = [f"{count} tensor{'s' * (count > 1)} at {width}" for width, count in sorted(counts.items())]
    why = f": {', '.join(parts)}, and scales" if parts else ""
    return f"  size     {_megabytes(manifest.size)}{of}; {bits:.2f} bits per weight{why}"


def next_step(manifest: Manifest, path: str) -> str:
    """The command for what one does now."""
    if manifest.verdict == "unverified":
        return f"convert verify {shlex.quote(path)}"
    promised = manifest.parity.promised
    option = "" if promised >= PARITY_TARGET else f" --min-parity {promised:g}"
    return f"shim serve {shlex.quote(path)}{option}" if manifest.verdict == "pass" else f"convert inspect {shlex.quote(path)}"


def duration(seconds: float) -> str:
    """51 s, 6 min 12 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def witness_line(witness: Witness) -> str:
    """Who reads the original as we do, how near, and what it was told of ours."""
    given = ", ".join(witness.given)
    return (
        f"{witness.library} {witness.version} reads the original in the same way: off by {witness.worst:.1e} at most "
        f"on {witness.texts} texts, tokens of {witness.tokens_of} the same" + (f"; it was given {given}" if given else "")
    )


def evaluation(records: list[Evaluation]) -> list[str]:
    """A table of figures in points of 100: the original's, the artifact's, their difference and its interval."""
    width = max(len(each.set) for each in records)
    lines = [f"  {'set':{width}}  {'metric':10}  original  artifact  difference  95 % interval         n"]
    for each in records:
        figures = f"{100 * each.original:8.2f}  {100 * each.artifact:8.2f}  {100 * each.difference:+10.2f}"
        interval = f"{100 * each.low:+.2f} to {100 * each.high:+.2f}"
        lines.append(f"  {each.set:{width}}  {each.metric:10}  {figures}  {interval}  {each.n:6}")
    return lines


def shortfall(manifest: Manifest) -> str:
    """Why the verdict is `fail`, in one line: the worst text, or the mean, of each head under the target, and by how much."""
    bar, heads = manifest.parity.bar, manifest.parity.heads or {}
    reasons = []
    for head, figures in heads.items():
        if (cosine := bar.figure(figures)) < bar.cosine:
            where = f" on text {figures.worst_text}" if bar.on == "worst" else ""
            reasons.append(f"{head} {cosine:.5f}{where} is {bar.cosine - cosine:.5f} short of {bar.cosine:g}")
    advice = "more --bits come nearer" if manifest.bits < 16 else "which is more than rounding does at these bits"
    if manifest.parity.runtime not in (None, manifest.target):
        advice = f"the artifact's own figures, on {manifest.target}, are as they were"
    what = f"{bar.on} cosine of {'; '.join(reasons)}; {advice}" if reasons else "; ".join(manifest.parity.notes or ())
    return f"{manifest.name} failed: {what}; kept, marked fail"


def tensors(manifest: Manifest, record: Record) -> str:
    """A table of the quantized tensors: name, bits, group size, and where the search recorded them, shares of size and error.

    record: what the artifact's `quantization.json` holds, which may be nothing.
    """
    rows, known = manifest.quantization["tensors"], record.get("tensors", {})
    width = max((len(name) for name in rows | known), default=0)
    lines = []
    for name, entry in (known or rows).items():
        group = f"group {entry['group_size']:3}" if "group_size" in entry else " " * 9
        line = f"  {name:{width}}  {entry['bits']:2} bits  {group}"
        if "input" in entry:
            mode, _, apart = entry["input"].partition("+")
            line += f"  input {INPUTS.get(mode, mode)}" + (f", {apart} channels in float32" if apart else "")
        if "share_of_error" in entry:
            whole = sum(other["bytes"] for other in known.values())
            line += f"  {entry['bytes'] / whole:6.1%} of size  {entry['share_of_error']:6.1%} of error"
        lines.append(line)
    return "\n".join(lines)


def curve(record: Record, points: int = 12) -> str:
    """How parity grows with size as the search predicted it, a line a point; the chosen one has an arrow."""
    chosen, every = record["predicted"], record["curve"]
    shown = every[:: -(-len(every) // points)]
    rows = sorted([*(point for point in shown if point != chosen), chosen], key=lambda point: float(point["bits_per_weight"]))
    lines = [
        f"  {point['bits_per_weight']:6.2f} bits per weight  worst {1 - point['worst']:.5f}  mean {1 - point['mean']:.5f}"
        + ("  <- chosen" if point == chosen else "")
        for point in rows
    ]
    return "\n".join(["  predicted, quantized tensors only", *lines])


def listing(found: dict[str, Any]) -> str:
    """A row for each recipe, then the artifacts, then what the hub's cache holds, a line each."""
    rows = [["recipe", "original", "mlx", "onnx", "next"]]
    for entry in found["recipes"]:
        here = f"{entry['available']} {_megabytes(entry['size'])}" if entry["size"] else "-"
        rows.append([entry["name"], here, *(_ports(found, entry["name"], target) for target in ("mlx", "onnx")), entry["next"]])
    artifacts = [[entry["name"], entry["verdict"], _megabytes(entry["size"]), entry["path"]] for entry in found["artifacts"]]
    cached = [
        [f"{port['repo']}@{port['revision'][:7]}", port["name"], port["verdict"] or "no proof", _megabytes(port["size"])]
        for port in found["cached"]
    ]
    lines = [*columns(rows), "", "artifacts", *(columns(artifacts) or ["  none"])]
    return "\n".join(lines + (["", "hub cache", *columns(cached)] if cached else []))


def matrix(entries: list[Entry]) -> list[str]:
    """A row for each conversion: how it ended, and the artifact's figures or what was wrong."""
    rows = [["artifact", "state", "verdict", "worst", "bits/weight", "size", ""]]
    for entry in entries:
        figures = [""] * 4
        if manifest := entry.manifest:
            worst = list(manifest.parity.worst.values())
            bits = f"{manifest.quantization['bits_per_weight']:.2f}"
            figures = [manifest.verdict, f"{min(worst):.5f}" if worst else "", bits, _megabytes(manifest.size)]
        rows.append([entry.name, entry.state, *figures, entry.error])
    return columns(rows)


def columns(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _ports(found: dict[str, Any], recipe: str, target: str) -> str:
    """What there is of a recipe for a target: bits, and what is to be said of them."""
    made = [entry for entry in found["artifacts"] if (entry.get("recipe"), entry.get("target")) == (recipe, target)]
    cached = [port for port in found["cached"] if (port["recipe"], port["target"]) == (recipe, target)]
    labels = [_label(f"{entry['bits']}bit", entry["verdict"]) for entry in made]
    labels += [_label(f"{port['bits']}bit hub", port["verdict"]) for port in cached if port["verdict"]]
    labels += ["others'"] * any(port["verdict"] is None for port in cached)
    return ", ".join(dict.fromkeys(labels)) or "-"


def _label(what: str, verdict: str) -> str:
    return what if verdict == "pass" else f"{what} {verdict}"


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _cosines(label: str, spread: Spread) -> str:
    return f"  {label:8} worst {spread.worst:.5f}  p01 {spread.p01:.5f}  mean {spread.mean:.5f}"
