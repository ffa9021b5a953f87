"""The pictures of a model card: a histogram of the cosines by language, and size against parity.

Each is one SVG for light and for dark pages: drawn in the light colours, with a style sheet that puts the dark ones in their
place where the page that shows it is dark. So it needs no second file, whose address a page could get wrong.
"""

import io
import re
from collections.abc import Mapping
from math import log10
from typing import TYPE_CHECKING

from converter.card.rivals import TEXTS, rivals
from shim.artifact import Manifest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

Cosines = Mapping[str, Mapping[str, list[float]]]  # what `cosines.json` holds: head -> language -> cosines
HISTOGRAM, CURVE = "cosines.svg", "parity.svg"
# (on a light page, on a dark one)
GROUND, INK, MUTED, GRID = ("#ffffff", "#0d1117"), ("#1f2328", "#e6edf3"), ("#59636e", "#9198a1"), ("#d8dee4", "#2a313a")
PASS, OURS, RIVAL = ("#1a7f37", "#3fb950"), ("#0969da", "#4493f8"), ("#bc4c00", "#f0883e")
LANGUAGES = (
    ("#0a6cdf", "#4f9bff"),
    ("#e8833a", "#f0954f"),
    ("#2da44e", "#46c264"),
    ("#8250df", "#ab7df8"),
    ("#bf3989", "#e275ad"),
    ("#1b7c83", "#39c5cf"),
    ("#d4a72c", "#e3b341"),
    ("#8c959f", "#6e7681"),
)
FONTS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
WIDTH = 7.2  # inches, of 72 units each
BINS = 48  # of the histogram
NEAREST = 1e-6  # 1 - cosine, under which the curve does not tell cosines apart
FONT_SIZE = 9  # units


def draw(precisions: Mapping[str, Manifest], default: str, cosines: Mapping[str, Cosines]) -> dict[str, str]:
    """{file name: SVG}, of HISTOGRAM and CURVE those for which there are figures.

    precisions, default: as in a published repository. cosines: of the precisions that have them. The same input gives the same
    bytes, with the same version of matplotlib.
    """
    import matplotlib

    found = {}
    style = {"svg.hashsalt": "sealport", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": FONT_SIZE}
    style |= {"text.color": INK[0], "axes.labelcolor": MUTED[0], "xtick.color": MUTED[0], "ytick.color": MUTED[0]}
    style |= {"axes.edgecolor": GRID[0], "figure.facecolor": GROUND[0], "axes.facecolor": GROUND[0]}
    with matplotlib.rc_context(style):
        if cosines.get(default):
            found[HISTOGRAM] = _svg(_histogram(precisions[default], cosines[default]))
        if len(_points(precisions)) + len(rivals(precisions[default])) > 1 and _points(precisions):
            found[CURVE] = _svg(_curve(precisions, default))
    return found


def _histogram(manifest: Manifest, cosines: Cosines) -> "Figure":
    """Cosines on a linear axis from the target, or the worst text where that is lower, to 1; one panel for each head."""
    import numpy as np
    from matplotlib.figure import Figure

    target, worst = manifest.parity.bar.cosine, min(min(each) for head in cosines.values() for each in head.values())
    low = min(target, worst)
    low -= (1 - low) / 40
    figure = Figure(figsize=(WIDTH, 0.75 + 1.75 * len(cosines)), layout="constrained")
    panels = figure.subplots(len(cosines), 1, squeeze=False, sharex=True)[:, 0]
    edges = np.linspace(low, 1, BINS + 1)
    counts = {lang: len(each) for lang, each in next(iter(cosines.values())).items()}
    order = sorted(counts, key=lambda lang: (-counts[lang], lang))
    colours = [LANGUAGES[min(place, len(LANGUAGES) - 1)][0] for place in range(len(order))]
    for axes, (head, by_language) in zip(panels, cosines.items(), strict=True):
        values = [np.clip(by_language[lang], low, 1) for lang in order]
        axes.hist(values, bins=edges, stacked=True, color=colours, edgecolor=GROUND[0], linewidth=0.4)
        for bar in [bar for bar in axes.patches if not bar.get_height()]:
            bar.remove()
        _plain(axes)
        axes.set_xlim(low, 1 + (1 - low) / 60)
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)
        top = axes.get_ylim()[1]
        axes.axvline(target, color=PASS[0], linewidth=1.2, linestyle=(0, (4, 3)))
        _label(axes, (target, top), f"{target:g} is wanted", PASS[0], xytext=(5, 0), va="top")
        least = min(min(each) for each in by_language.values())
        label = head if len(cosines) > 1 else ""
        axes.set_title(f"{label}  worst {least:.5f}".strip(), loc="right", fontsize=FONT_SIZE, color=MUTED[0])
    noun = "queries" if manifest.task == "rerank" else "texts"
    title = f"Cosine of {sum(counts.values())} {noun} with the original, {manifest.bits}bit"
    panels[0].set_title(title, loc="left", fontweight="bold")
    panels[-1].set_xlabel(f"cosine; the {noun} of all languages stacked")
    panels[-1].xaxis.set_major_formatter(lambda value, _: f"{value:.10g}")
    handles = [_patch(colour, f"{_language(lang)} {counts[lang]}") for lang, colour in zip(order, colours, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)), frameon=False, handlelength=0.9)
    return figure


def _curve(precisions: Mapping[str, Manifest], default: str) -> "Figure":
    """The worst text's cosine, on an axis of nines, against bits per weight on a logarithmic one."""
    from matplotlib.figure import Figure

    points, others = _points(precisions), rivals(precisions[default])
    target = precisions[default].parity.bar.cosine
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()
    _plain(axes)
    ours = sorted(points.values())
    axes.plot([bits for bits, _ in ours], [_nines(worst) for _, worst in ours], color=OURS[0], linewidth=1.4, zorder=2)
    for key, (bits, worst) in points.items():
        filling = OURS[0] if key == default else GROUND[0]
        axes.plot(bits, _nines(worst), "o", markersize=8, color=filling, markeredgecolor=OURS[0], zorder=3)
        weight = "bold" if key == default else "normal"
        _label(axes, (bits, _nines(worst)), key, OURS[0], fontweight=weight, xytext=(-3, 8), ha="center")
    for rival in others:
        axes.plot(rival.bits, _nines(rival.worst), "D", markersize=5.5, color=GROUND[0], markeredgecolor=RIVAL[0], zorder=3)
        _label(axes, (rival.bits, _nines(rival.worst)), rival.name, RIVAL[0], xytext=(7, 0), va="center")
    worsts = [worst for _, worst in ours] + [rival.worst for rival in others] + [target]
    low, high = min(map(_nines, worsts)), max(map(_nines, worsts))
    axes.set_ylim(low - 0.35, high + 0.6)
    axes.axhspan(_nines(target), high + 0.6, color=PASS[0], alpha=0.08, linewidth=0)
    axes.axhline(_nines(target), color=PASS[0], linewidth=1.2, linestyle=(0, (4, 3)))
    ticks = [place for place in range(7) if low - 0.35 <= place <= high + 0.6]
    axes.set_yticks(ticks, [("≥ " if 10.0**-place <= NEAREST else "") + f"{1 - 10.0**-place:.{place}f}" for place in ticks])
    axes.set_xscale("log", base=2)
    sizes = [bits for bits, _ in ours] + [rival.bits for rival in others]
    start, end = min(sizes) / 1.4, max(sizes) * 1.9
    axes.set_xlim(start, end)
    axes.set_xticks([bits for bits in (2, 3, 4, 5, 6, 8, 12, 16, 24, 32) if start <= bits <= end])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set_title("Size against parity", loc="left", fontweight="bold")
    _label(axes, (end, _nines(target)), f"sealed from {target:g} on", PASS[0], xytext=(-4, 3), ha="right")
    told = f"; rivals on {TEXTS}" if others else ""
    axes.set_xlabel(f"bits per weight; cosine of the worst text{told}")
    return figure


def _points(precisions: Mapping[str, Manifest]) -> dict[str, tuple[float, float]]:
    """{precision: (bits per weight, the worst cosine of any head)} of those that were measured."""
    return {
        key: (manifest.quantization["bits_per_weight"], min(manifest.parity.worst.values()))
        for key, manifest in precisions.items()
        if manifest.parity.worst
    }


def _nines(cosine: float) -> float:
    """How many nines a cosine has, 3 for 0.999: a logarithmic axis of what is missing to 1."""
    return -log10(max(1 - cosine, NEAREST))


def _label(axes: "Axes", point: tuple[float, float], name: str, colour: str, xytext: tuple[int, int], **place: str) -> None:
    """Words beside a point; xytext: so many units away. place: of matplotlib's Text."""
    axes.annotate(name, point, xytext, textcoords="offset points", color=colour).set(**place)


def _language(code: str) -> str:
    return {"und": "no language"}.get(code, code)


def _patch(colour: str, label: str) -> "Patch":
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _plain(axes: "Axes") -> None:
    """Nothing but a base line and a faint grid."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis="y", color=GRID[0], linewidth=0.7)
    axes.set_axisbelow(True)


def _svg(figure: "Figure") -> str:
    """The figure's SVG, in fonts that every system has, and with the dark colours for pages that are dark."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue().decode().replace("'DejaVu Sans'", FONTS)
    text = text[text.index("<svg") :]
    pairs = (GROUND, INK, MUTED, GRID, PASS, OURS, RIVAL, *LANGUAGES)
    rules = [f'[style*="{key}: {light}"]{{{key}:{dark}!important}}' for light, dark in pairs for key in ("fill", "stroke")]
    sheet = f"@media (prefers-color-scheme: dark){{{''.join(rules)}}}"
    return re.sub(r"(<style [^>]*>)", lambda found: f"{found[1]}{sheet}", text, count=1) + "\n"
