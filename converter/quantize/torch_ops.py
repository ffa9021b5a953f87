"""shim.architectures.Ops that compute with torch, and so can be differentiated, watched, and run with other weights."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from shim.text import Tokens

BLOCK = 512  # tokens whose products with the vocabulary are in memory at once


class TorchOps:
    """shim.architectures.Ops for one batch, padded on the right. weights: the checkpoint's tensors by name, float32."""

    def __init__(self, weights: Mapping[str, Tensor], tokens: Tokens):
        self.weights, self.tokens = weights, tokens
        self.mask = torch.from_numpy(tokens.attention_mask.astype(bool))

    def input_ids(self) -> Tensor:
        return torch.from_numpy(self.tokens.input_ids)

    def token_type_ids(self) -> Tensor:
        return torch.from_numpy(self.tokens.token_type_ids)

    def positions(self, first: int = 0) -> Tensor:
        return torch.arange(first, first + self.mask.shape[1])[None]

    def positions_after(self, padding: int) -> Tensor:
        counted = self.input_ids() != padding
        return counted.cumsum(dim=1) * counted + padding

    def index(self, value: int) -> Tensor:
        return torch.tensor(value)

    def relative(self, values: tuple[int, ...]) -> Tensor:
        reach, places = len(values) // 2, torch.arange(self.mask.shape[1])
        return torch.tensor(values)[(places - places[:, None]).clamp(-reach, reach) + reach]

    def embedding(self, name: str, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weights[f"{name}.weight"])

    def linear(self, name: str, x: Tensor, bias: bool = True) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"] if bias else None)

    def linears(self, names: Sequence[str], x: Tensor, bias: bool = True) -> list[Tensor]:
        return [self.linear(name, x, bias) for name in names]

    def adapted(self, name: str, x: Tensor, y: Tensor, scale: float, table: bool = False) -> Tensor:
        if self.tokens.adapters is None:
            return y
        chosen = torch.from_numpy(self.tokens.adapters)
        down, up = (self.weights[f"{name}.lora_{part}"] for part in "AB")
        number = chosen.clamp(min=0)
        inner = down[number[:, None], x] if table else x @ down[number]
        return y + inner @ up[number] * (scale * (chosen >= 0))[:, None, None]

    def vocabulary(self, name: str, x: Tensor, sums: bool = False, twice: bool = False) -> Tensor:
        found = x.new_zeros(len(x), len(self.weights[f"{name}.weight"]))
        block = max(1, BLOCK // len(x))
        for start in range(0, x.shape[1], block):
            logits = TorchOps.linear(self, name, x[:, start : start + block]).relu() * self.mask[:, start : start + block, None]
            found = found + _logged(logits, twice).sum(dim=1) if sums else torch.maximum(found, logits.amax(dim=1))
        return found if sums else _logged(found, twice)

    def head(self, name: str, x: Tensor, bias: bool = True) -> Tensor:
        return TorchOps.linear(self, name, x, bias)

    def full(self, x: Tensor) -> Tensor:
        return x.float()

    def narrow(self, x: Tensor) -> Tensor:
        return x

    def layer_norm(self, name: str, x: Tensor, eps: float, bias: bool = True) -> Tensor:
        shift = self.weights[f"{name}.bias"] if bias else None
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], shift, eps)

    def rms_norm(self, name: str, x: Tensor, eps: float, offset: float = 0.0, full: bool = False) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weights[f"{name}.weight"] + offset, eps)

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(x)

    def gelu_tanh(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def tanh(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def relu(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def subtract(self, x: Tensor, y: Tensor) -> Tensor:
        return x - y

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return x * factor

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        return x.chunk(parts, dim=-1)

    def column(self, x: Tensor, index: int) -> Tensor:
        return x[..., index]

    def split_heads(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def rotate(self, x: Tensor, base: float, factors: tuple[float, ...] = ()) -> Tensor:
        length, size = x.shape[-2:]
        speeds = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        if factors:
            speeds /= torch.tensor(factors, dtype=torch.float64)
        angles = (torch.arange(length, dtype=torch.float64)[:, None] * speeds).to(x.dtype)
        cos, sin = angles.cos(), angles.sin()
        low, high = x.chunk(2, dim=-1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        causal: bool = False,
        window: int | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        # Causal with padding on the right: no token has padding before it, and what padding itself sees is never used.
        grouped = query.shape[1] != key.shape[1]
        mask, reached = None if causal else self.mask[:, None, None, :], None
        if window is not None:
            places = torch.arange(self.mask.shape[1])
            away = (places - places[:, None]).abs()
            mask = (away <= window) & self.mask[:, None, None, :]
            mask = mask.tril() if causal else mask
            # A query without any key sees itself, as what it gives depends on the kernel, and is 0 then.
            reached = mask.any(dim=-1, keepdim=True)
            mask = mask | ((away == 0) & ~reached)
        if bias is not None and mask is not None:
            mask = bias.permute(2, 0, 1).masked_fill(~mask, -torch.inf)
        found = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, enable_gqa=grouped)
        found = found if reached is None else found * reached
        return found.transpose(1, 2).flatten(2)

    def pool(self, hidden: Tensor, pooling: str) -> Tensor:
        if pooling == "cls":
            return hidden[:, 0].float()
        mask = self.mask[..., None]
        if pooling == "max":
            return hidden.float().masked_fill(~mask, -torch.inf).amax(dim=1)
        if pooling != "last":
            places = torch.arange(1, mask.shape[1] + 1)[:, None] if pooling == "weightedmean" else 1.0
            weights = mask.float() * places
            count = weights.sum(dim=1)
            return (hidden.float() * weights).sum(dim=1) / (count.sqrt() if pooling == "mean_sqrt_len_tokens" else count)
        return hidden[torch.arange(len(hidden)), self.mask.sum(dim=1) - 1].float()

    def normalize(self, x: Tensor) -> Tensor:
        return F.normalize(x.float(), dim=-1, eps=1e-12)


def _logged(x: Tensor, twice: bool) -> Tensor:
    return x.log1p().log1p() if twice else x.log1p()
