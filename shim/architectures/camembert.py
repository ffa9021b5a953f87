"""CamemBERT (Martin et al. 2020), RoBERTa for French: the same encoder, head and names."""

from shim.architectures.xlm_roberta import *  # noqa: F403
