"""The model card, README.md as the hub shows it, and its plot of size against parity."""

from math import ceil, floor, log10

from shim.artifact import Manifest, Record

WIDTH, HEIGHT, MARGIN = 640, 360, 56  # pixels of the plot
FLOOR = 1e-6  # 1 - cosine below which a point lies on the lower edge
PLOT = "quantization.svg"


def card(manifest: Manifest, plotted: bool) -> str:
    """Markdown with the hub's front matter: what it is, how near it is to the original, how to load it."""
    parity, bits = manifest.parity, manifest.quantization["bits_per_weight"]
    repo = str(manifest.source["repo"])
    task = "text-ranking" if manifest.task == "rerank" else "feature-extraction"
    lines = ["---", f"license: {manifest.license}", f"library_name: {manifest.target}", f"pipeline_tag: {task}"]
    lines += [] if ":" in repo else [f"base_model: {repo}", "base_model_relation: quantized"]
    lines += ["---", "", f"# {manifest.name}", ""]
    source = f"`{repo}`" + (f" at `{manifest.source['revision']}`" if manifest.source["revision"] else "")
    lines += [f"{source} for {manifest.target}, {bits:.2f} bits per weight, {manifest.size / 1e6:.1f} MB.", ""]
    if parity.heads:
        noun = "pairs" if manifest.task == "rerank" else "texts"
        lines += [f"Cosine with the original in fp32 on {parity.texts} {noun} (target {parity.bar.cosine:g} on the "]
        lines[-1] += f"{parity.bar.on}; verdict: {parity.verdict}):"
        lines += ["", "| Head | Worst | 1st percentile | Mean |", "|---|---|---|---|"]
        lines += [
            f"| {head} | {figures.worst:.5f} | {figures.p01:.5f} | {figures.mean:.5f} |"
            for head, figures in parity.heads.items()
        ]
        lines += ["", *(f"- {note}" for note in parity.notes or ())]
        if witness := parity.witness:
            lines += [f"- The original, read by {witness.library} {witness.version} itself, gives the same tokens and, "]
            lines[-1] += f"to {witness.worst:.1e}, the same outputs as our reading of it, on {witness.texts} texts."
            lines += [f"- It was told, as its files do not say so: {', '.join(witness.given)}."] * bool(witness.given)
    overrides = manifest.source.get("overrides", {})
    lines += ["", "On purpose otherwise than the original's files say:", ""] * bool(overrides)
    lines += [f"- {key}: {reason}" for key, reason in overrides.items()]
    if not manifest.model.normalized and manifest.task == "embed":
        lines += ["", f"Vectors are not normalised, as the original's are not; compare them by {manifest.model.similarity}."]
    lines += [""]
    if plotted:
        lines += [f"![Size against parity]({PLOT})", "", "Bits, bytes and error of each tensor: `quantization.json`.", ""]
    call = 'rerank("query", ["document"])' if manifest.task == "rerank" else 'embed(["text"]).dense'
    lines += ["```python", "import shim", "", f'shim.load("{manifest.name}").{call}', "```", ""]
    return "\n".join(lines)


def plot(record: Record) -> str:
    """SVG of the predicted 1 - cosine, on a logarithmic axis, of the worst text and of the mean, against bits per weight."""
    curve, chosen = record["curve"], record["predicted"]
    sizes = [point["bits_per_weight"] for point in curve]
    errors = [max(point[kind], FLOOR) for point in curve for kind in ("worst", "mean")]
    low, high = decades(min(errors), max(errors))
    span = max(sizes) - min(sizes) or 1.0

    def place(size: float, error: float) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * (size - min(sizes)) / span
        y = MARGIN + (HEIGHT - 2 * MARGIN) * (high - log10(max(error, FLOOR))) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for power in range(low, high + 1):
        y = place(min(sizes), 10.0**power).split(",")[1]
        parts.append(f'<path d="M{MARGIN} {y}H{WIDTH - MARGIN}" stroke="#ddd"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{y}" text-anchor="end">1e{power}</text>')
    for size in range(int(min(sizes)) + 1, int(max(sizes)) + 1):
        x = place(size, FLOOR).split(",")[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{size}</text>')
    for kind, colour in (("worst", "#c33"), ("mean", "#36c")):
        points = " ".join(place(point["bits_per_weight"], point[kind]) for point in curve)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = place(chosen["bits_per_weight"], chosen[kind]).split(",")
        parts.append(f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}"><title>chosen, {kind}</title></circle>')
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">bits per weight of the quantized tensors</text>'
    )
    parts.append(f'<text x="{MARGIN}" y="24">predicted 1 - cosine: <tspan fill="#c33">worst text</tspan>, ')
    parts.append('<tspan fill="#36c">mean</tspan>; the dots are what was chosen</text>')
    return "\n".join([*parts, "</svg>", ""])


def decades(low: float, high: float) -> tuple[int, int]:
    """The powers of ten around both numbers, at least one apart."""
    first, last = floor(log10(low)), ceil(log10(high))
    return first, max(last, first + 1)
