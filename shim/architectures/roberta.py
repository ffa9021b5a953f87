"""RoBERTa (Liu et al. 2019), of which XLM-RoBERTa is the multilingual one: the same encoder, head and names."""

from shim.architectures.xlm_roberta import *  # noqa: F403
