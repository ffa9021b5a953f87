"""What other quantizers make of the same weights, as far as it was measured here: points beside ours in the card's picture."""

from dataclasses import dataclass

from shim.artifact import Manifest

# Of model.safetensors of sentence-transformers/all-MiniLM-L6-v2, the only trained weights that others were measured on.
MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXTS = "sentences of STS-B"  # that rivals were measured on


@dataclass(frozen=True)
class Rival:
    """bits: per weight. worst: the cosine of the worst sentence."""

    name: str
    bits: float
    worst: float


# Printed by `scripts/bench --bits`; scripts/RESULTS.md has the whole table.
RIVALS = {
    "mlx": (
        Rival("mlx-embeddings, 4 bits", 4.52, 0.94536),
        Rival("mlx-embeddings, 6 bits", 6.52, 0.99633),
        Rival("mlx-embeddings, 8 bits", 8.52, 0.99978),
    ),
    "onnx": (
        Rival("optimum, int8 per channel", 8.09, 0.96909),
        Rival("onnxruntime, int8 dynamic", 8.05, 0.87412),
        Rival("onnxruntime, 4 bits in blocks of 32", 19.27, 0.90422),
    ),
}


def rivals(manifest: Manifest) -> tuple[Rival, ...]:
    """The rivals of an artifact: those for its target, made of the same weights; none where none was measured."""
    weights = {entry["sha256"] for entry in manifest.source["files"].values()}
    return RIVALS[manifest.target] if MINILM in weights else ()
