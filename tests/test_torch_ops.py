"""Torch's operations against transformers: what calibration sees and differentiates is the model itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support import upstream
from support.checkpoints import write_bert, write_recipe, write_xlm_roberta

from converter import recipe
from converter.quantize.torch_ops import TorchOps
from converter.source.open import open_source
from shim.architectures import architecture
from shim.pooling import POOLINGS, outputs
from shim.text import TextEncoder

TEXTS = ["one", "a rather longer text about rivers and their mouths", "двенадцать месяцев", "x " * 300]


def weights_of(checkpoint) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(checkpoint.read(name)) for name in checkpoint.tensors}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("name", "write"), [("bert", write_bert), ("xlm_roberta", write_xlm_roberta)])
def test_a_padded_batch_gives_what_transformers_gives_text_by_text(tmp_path: Path, name: str, write, pooling: str) -> None:
    directory = write(tmp_path / "checkpoint", pooling=pooling)
    tiny = recipe.load(str(write_recipe(tmp_path / "tiny.toml", pooling=pooling, architecture=name)))
    checkpoint = open_source(tiny, str(directory))
    encoder, module = TextEncoder(directory, 128), architecture(name)
    ops = TorchOps(weights_of(checkpoint), encoder.batch(encoder.encode(TEXTS)))
    with torch.inference_mode():
        found = outputs(ops, module, module.Config.read(checkpoint.config), pooling, ("dense",))["sentence_embedding"].numpy()
    expected = upstream.vectors(directory, TEXTS, pooling)
    assert np.abs(found - expected).max() < 2e-6
    assert (expected @ expected.T - np.eye(4)).max() < 0.98, "texts all alike: this would prove nothing"
