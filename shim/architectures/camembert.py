"""CamemBERT (Martin et al. 2020), RoBERTa for French: the same encoder, head and names."""

from shim.architectures.xlm_roberta import (
    DROPPED,
    FULL_PRECISION,
    KEYS,
    OPTIONAL,
    ROWS,
    TABLES,
    Config,
    encode,
    parameters,
    score,
    scoring,
)

__all__ = [
    "DROPPED",
    "FULL_PRECISION",
    "KEYS",
    "OPTIONAL",
    "ROWS",
    "TABLES",
    "Config",
    "encode",
    "parameters",
    "score",
    "scoring",
]
