"""Which texts are computed together."""

from collections.abc import Sequence

from shim.text import Encoded

BATCH_TOKENS = 4096  # padded tokens a runtime gets at once; more costs memory and, on a CPU, cache misses
WASTE = 1.25  # padded tokens of a batch by its real ones: a short text in a long one's batch costs as much as the long one
SMALL = 64  # padded tokens that cost next to nothing whatever they hold


def batches(encoded: Sequence[Encoded], budget: int = BATCH_TOKENS, most: int | None = None) -> list[list[int]]:
    """Row numbers grouped by length, longest first, each group as `fits` has it, and at most `most`; a single row fits."""
    lengths = [len(item.ids) for item in encoded]
    groups: list[list[int]] = []
    real = 0
    for row in sorted(range(len(encoded)), key=lambda row: -lengths[row]):
        real += lengths[row]
        if groups and len(groups[-1]) != most and fits(lengths[groups[-1][0]] * (len(groups[-1]) + 1), real, budget):
            groups[-1].append(row)
        else:
            groups.append([row])
            real = lengths[row]
    return groups


def fits(padded: int, real: int, budget: int) -> bool:
    """Whether a batch of so many padded tokens, rows x longest, of which `real` are real, is worth computing as one."""
    return padded <= budget and (padded <= SMALL or padded <= WASTE * real)
