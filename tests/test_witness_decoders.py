"""The witness of decoders: a mistake of ours in the code that computes is caught."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_witness import LINEAR, RMS, asked, attending, catch, folder, turning, without

from converter import corpus
from converter.quantize.torch_ops import TorchOps

__all__ = ["asked", "folder"]  # fixtures
GEMMA, HARRIER, LLAMA, QWEN2, OLMO = "gemma, two dense", "gemma, causal", "llama", "qwen2", "olmo3"


def by_head(self: TorchOps, name: str, x: torch.Tensor, *how: Any) -> torch.Tensor:
    """OLMo's queries and keys normalised head by head."""
    if not name.endswith(("q_norm", "k_norm")):
        return RMS(self, name, x, *how)
    normed = torch.nn.functional.rms_norm(x.unflatten(-1, (-1, 24)), (24,), eps=how[0])
    return normed.flatten(-2) * self.weights[f"{name}.weight"]


# Our own code, wrong: see test_witness.BUGS.
BUGS: dict[str, tuple[str, Any, str, Any]] = {
    "Gemma's other global base": (GEMMA, TorchOps, "rotate", turning(lambda base, factors: (min(base, 9e5), factors))),
    "Gemma's other local base": (GEMMA, TorchOps, "rotate", turning(lambda base, factors: (max(base, 1.1e4), factors))),
    "norms that scale by the weight alone": (GEMMA, TorchOps, "rms_norm", lambda self, *given: RMS(self, *given[:3])),
    "tokens embedded as they are": (GEMMA, TorchOps, "scale", lambda self, x, factor: x if factor == 8 else x * factor),
    "a scale of attention by the heads' width": (GEMMA, TorchOps, "scale", lambda self, x, f: x if 0.5 < f < 1 else x * f),
    "the exact GELU": (GEMMA, TorchOps, "gelu_tanh", lambda self, x: torch.nn.functional.gelu(x)),
    "no norm of keys": (GEMMA, TorchOps, "rms_norm", without("k_norm")),
    "no norm behind attention": (GEMMA, TorchOps, "rms_norm", without("post_attention_layernorm")),
    "no norm before what follows": (GEMMA, TorchOps, "rms_norm", without("pre_feedforward_layernorm")),
    "no norm behind it": (GEMMA, TorchOps, "rms_norm", without("post_feedforward_layernorm")),
    "an epsilon not made small": (GEMMA, TorchOps, "rms_norm", lambda self, n, x, eps, *how: RMS(self, n, x, 1e-6, *how)),
    "Gemma's other epsilon": (GEMMA, TorchOps, "rms_norm", lambda self, n, x, eps, *how: RMS(self, n, x, eps * 9e3, *how)),
    "Gemma's window one token wider": (GEMMA, TorchOps, "attention", attending(lambda o: o | {"window": o["window"] and 5})),
    "Gemma's window as if causal": (GEMMA, TorchOps, "attention", attending(lambda o: o | {"window": o["window"] and 7})),
    "Gemma's layers the other way round": (GEMMA, TorchOps, "attention", attending(lambda o: o | {"window": None})),
    "Gemma's attention to one side": (GEMMA, TorchOps, "attention", attending(lambda o: o | {"causal": True})),
    "a causal window too narrow": (HARRIER, TorchOps, "attention", attending(lambda o: o | {"window": o["window"] and 6})),
    "Gemma's attention to both sides": (HARRIER, TorchOps, "attention", attending(lambda o: o | {"causal": False})),
    "positions that are not stretched": (LLAMA, TorchOps, "rotate", turning(lambda base, factors: (base, ()))),
    "positions that are stretched alike": (LLAMA, TorchOps, "rotate", turning(lambda base, _: (base, (8.0,) * 12))),
    "Llama's layers without their bias": (LLAMA, TorchOps, "linear", lambda self, name, x, bias: LINEAR(self, name, x, False)),
    "Qwen2's queries without their bias": (QWEN2, TorchOps, "linear", lambda self, name, x, bias: LINEAR(self, name, x, False)),
    "Qwen2's window one token wider": (QWEN2, TorchOps, "attention", attending(lambda o: o | {"window": o["window"] and 5})),
    "Qwen2 without its window": (QWEN2, TorchOps, "attention", attending(lambda o: o | {"window": None})),
    "attention to one side": ("qwen3, both sides", TorchOps, "attention", attending(lambda o: o | {"causal": True})),
    "a causal window": ("qwen2, both sides", TorchOps, "attention", attending(lambda o: o | {"window": o["window"] and 4})),
    "yarn in no layer": (OLMO, TorchOps, "rotate", turning(lambda base, factors: (base, ()))),
    "yarn in every layer": (OLMO, TorchOps, "rotate", turning(lambda base, factors: (base, factors or (4.0,) * 12))),
    "no attention factor": (OLMO, TorchOps, "scale", lambda self, x, factor: x if factor > 1 else x * factor),
    "the attention factor once": (OLMO, TorchOps, "scale", lambda self, x, f: x * (f**0.5 if f > 1 else f)),
    "queries normalised by the head": (OLMO, TorchOps, "rms_norm", by_head),
    "OLMo's window one token wider": (OLMO, TorchOps, "attention", attending(lambda o: o | {"window": o["window"] and 5})),
    "no norm behind OLMo's attention": (OLMO, TorchOps, "rms_norm", without("post_attention_layernorm")),
    "one norm more before it": (OLMO, TorchOps, "narrow", lambda self, x: torch.nn.functional.rms_norm(x, x.shape[-1:])),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_mistake_of_our_own_is_caught(
    bug: str, folder: Path, asked: list[corpus.Text], monkeypatch: pytest.MonkeyPatch
) -> None:
    catch(*BUGS[bug], folder, asked, monkeypatch)
