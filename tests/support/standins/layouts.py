"""The layouts of the real repositories: names, types and shards of the tensors, configs, tokenizers, companion files."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from support.checkpoints import minilm, write_bert_tokenizer
from support.standins.data import INSTRUCT, TASK
from support.standins.tokenizers import BPE_ADDED, BPE_SPECIALS
from support.standins.training import FAMILIES, Weights

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PLAIN = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}  # of an added token
# transformers' names -> those of the real nomic-embed-text-v1.5; queries, keys and values are one matrix there.
NOMIC_KEYS = (
    (r"^embeddings\.LayerNorm", "emb_ln"),
    (r"^layers\.", "encoder.layers."),
    (r"self_attn\.o_proj", "attn.out_proj"),
    (r"mlp\.up_proj", "mlp.fc11"),
    (r"mlp\.gate_proj", "mlp.fc12"),
    (r"mlp\.down_proj", "mlp.fc2"),
    (r"post_attention_layernorm", "norm1"),
    (r"post_mlp_layernorm", "norm2"),
)


@dataclass(frozen=True)
class Standin:
    """A real repository and what is particular about it; `full`: its real files are at hand, so a full-size one can be made."""

    repo: str
    family: str
    pooling: str = ""
    prompts: tuple[str, str] = ("", "")  # before a query and before a passage
    kind: str = ""  # of tokenizer, for XLM-RoBERTa
    type: str = "F32"
    shards: int = 1
    positions: int = 8194
    tied: bool = True
    full: bool = False


def write(standin: Standin, directory: Path, weights: Weights, tokenizer: Tokenizer) -> None:
    """Write a complete checkpoint: `weights` are float32 and named as in transformers, bge-m3's heads among them."""
    writers = {"xlm_roberta": _write_xlm_roberta, "qwen3": _write_qwen3, "nomic_bert": _write_nomic}
    writers[standin.family.removesuffix("_reranker")](standin, directory, dict(weights), tokenizer)


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _config(standin: Standin, **more: Any) -> dict[str, Any]:
    """The family's own keys and those that every real `config.json` has."""
    shape = dict(FAMILIES[standin.family].config)
    shape.pop("num_labels", None)
    shape.pop("rope_parameters", None)
    dtype = str(TYPES[standin.type]).removeprefix("torch.")
    return shape | {"initializer_range": 0.02, "torch_dtype": dtype, "use_cache": True} | more


def _modules(directory: Path, kinds: list[tuple[str, str]]) -> None:
    """modules.json: each module's folder and class."""
    listed = [
        {"idx": row, "name": str(row), "path": path, "type": f"sentence_transformers.{kind}"}
        for row, (path, kind) in enumerate(kinds)
    ]
    _json(directory / "modules.json", listed)


def _write_sentence_transformers(standin: Standin, directory: Path, width: int, modules: int, versions: bool = False) -> None:
    """modules.json with the first of Transformer, Pooling and Normalize, and the files of the first two."""
    kinds = [("", "models.Transformer"), ("1_Pooling", "models.Pooling"), ("2_Normalize", "models.Normalize")]
    _modules(directory, kinds[:modules])
    modes = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "mean_sqrt"}
    if standin.pooling == "last":
        modes |= {"weightedmean_tokens": "weightedmean", "lasttoken": "last"}
    pooling = {"word_embedding_dimension": width}
    pooling |= {f"pooling_mode_{key}": mode == standin.pooling for key, mode in modes.items()}
    _json(directory / "1_Pooling/config.json", pooling | ({"include_prompt": True} if standin.pooling == "last" else {}))
    if versions:
        used = {"sentence_transformers": "2.2.2", "transformers": "4.33.0", "pytorch": "2.1.2+cu121"}
        _json(directory / "config_sentence_transformers.json", {"__version__": used})


def _write_xlm_roberta(standin: Standin, directory: Path, weights: Weights, tokenizer: Tokenizer) -> None:
    reranker = standin.family.endswith("reranker")
    length = 8192 if standin.positions == 8194 else 512
    config = _config(
        standin,
        architectures=["XLMRobertaForSequenceClassification" if reranker else "XLMRobertaModel"],
        attention_probs_dropout_prob=0.1,
        hidden_act="gelu",
        hidden_dropout_prob=0.1,
        max_position_embeddings=standin.positions,
        output_past=True,
        position_embedding_type="absolute",
        vocab_size=tokenizer.get_vocab_size(),
    )
    _json(directory / "config.json", config | ({"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}} if reranker else {}))
    tokenizer.save(str(directory / "tokenizer.json"))
    roles = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    names = {f"{role}_token": token for role, token in roles.items()}
    mask = {"content": "<mask>"} | PLAIN | {"lstrip": True}
    _json(directory / "special_tokens_map.json", names | {"mask_token": mask})
    more = {"clean_up_tokenization_spaces": True, "model_max_length": length, "tokenizer_class": "XLMRobertaTokenizer"}
    _json(directory / "tokenizer_config.json", names | more | {"mask_token": {"__type": "AddedToken"} | mask})
    heads = {key: weights.pop(key) for key in list(weights) if key.startswith(("sparse_linear", "colbert_linear"))}
    table = next(key for key in weights if key.endswith("position_embeddings.weight"))
    weights[table] = weights[table][: standin.positions].clone()
    if not reranker:
        _write_sentence_transformers(standin, directory, config["hidden_size"], 3, versions=standin.kind == "bge-m3")
        _json(directory / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
        if standin.repo != "deepvk/USER-bge-m3":  # saved by a transformers that kept this buffer
            weights["embeddings.position_ids"] = torch.arange(standin.positions)[None]
    if standin.repo == "BAAI/bge-m3":
        torch.save(weights, directory / "pytorch_model.bin")
        for head in ("sparse_linear", "colbert_linear"):
            torch.save({part: heads[f"{head}.{part}"].half() for part in ("weight", "bias")}, directory / f"{head}.pt")
    else:
        _save(standin, directory, weights)


def _write_qwen3(standin: Standin, directory: Path, weights: Weights, tokenizer: Tokenizer) -> None:
    reranker = standin.family.endswith("reranker")
    ids = tokenizer.get_vocab()
    smallest = standin.repo == "Qwen/Qwen3-Embedding-0.6B"
    config = _config(
        standin,
        architectures=["Qwen3ForCausalLM"],
        attention_bias=False,
        attention_dropout=0.0,
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>" if smallest else "<|im_end|>"],
        hidden_act="silu",
        max_position_embeddings=standin.positions,
        rms_norm_eps=1e-6,
        rope_scaling=None,
        rope_theta=1000000,
        sliding_window=None,
        tie_word_embeddings=standin.tied,
        use_sliding_window=False,
        vocab_size=tokenizer.get_vocab_size(),
    )
    _json(directory / "config.json", config | {"max_window_layers": config["num_hidden_layers"]})
    _json(directory / "generation_config.json", {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|endoftext|>"]})
    tokenizer.save(str(directory / "tokenizer.json"))
    tokens = (*BPE_SPECIALS, *BPE_ADDED)
    added = {str(ids[token]): {"content": token} | PLAIN | {"special": token in BPE_SPECIALS} for token in tokens}
    names = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None}
    more = dict.fromkeys(("add_bos_token", "add_prefix_space", "clean_up_tokenization_spaces", "split_special_tokens"), False)
    more |= {"added_tokens_decoder": added, "additional_special_tokens": list(BPE_SPECIALS[1:]), "model_max_length": 131072}
    more |= {"errors": "replace", "tokenizer_class": "Qwen2Tokenizer"}
    _json(directory / "tokenizer_config.json", names | more)
    if standin.shards == 1:
        tokenizer.model.save(str(directory))  # vocab.json and merges.txt
    if reranker:
        _write_logit_score(directory, ids)
        if not standin.tied:  # a head of its own, by which a table taken for it would show
            noise = torch.randn(weights["model.embed_tokens.weight"].shape, generator=torch.Generator().manual_seed(2))
            weights["lm_head.weight"] = 1.5 * weights["model.embed_tokens.weight"] + 0.01 * noise
    else:
        _write_sentence_transformers(standin, directory, config["hidden_size"], 3)
        prompts = {"query": INSTRUCT, "document": ""}
        more = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
        _json(directory / "config_sentence_transformers.json", more)
    _save(standin, directory, weights)


def _write_logit_score(directory: Path, ids: dict[str, int]) -> None:
    """The files by which sentence-transformers knows a causal reranker."""
    _json(directory / "1_LogitScore/config.json", {"true_token_id": ids["yes"], "false_token_id": ids["no"]})
    score = ("1_LogitScore", "cross_encoder.modules.logit_score.LogitScore")
    _modules(directory, [("", "base.modules.transformer.Transformer"), score])
    shared = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
    shared |= {"default_prompt_name": "query", "prompts": {"query": TASK}}
    _json(directory / "config_sentence_transformers.json", shared)
    method = {"method": "forward", "method_output_name": "logits"}
    modality = {"text": method, "message": method | {"format": "flat"}}
    config = {"transformer_task": "text-generation", "modality_config": modality, "module_output_name": "causal_logits"}
    _json(directory / "sentence_bert_config.json", config)


def _write_nomic(standin: Standin, directory: Path, weights: Weights, tokenizer: Tokenizer) -> None:
    config = _config(standin)
    code, no = "nomic-ai/nomic-bert-2048--", "causal mlp_fc1_bias mlp_fc2_bias prenorm qkv_proj_bias rotary_emb_interleaved"
    own = dict.fromkeys([*no.split(), "use_rms_norm"], False) | {
        "architectures": ["NomicBertModel"],
        "auto_map": {
            "AutoConfig": f"{code}configuration_hf_nomic_bert.NomicBertConfig",
            "AutoModel": f"{code}modeling_hf_nomic_bert.NomicBertModel",
        },
        "activation_function": "swiglu",
        "layer_norm_epsilon": 1e-12,
        "max_trained_positions": 2048,
        "n_embd": config["hidden_size"],
        "n_head": config["num_attention_heads"],
        "n_inner": config["intermediate_size"],
        "n_layer": config["num_hidden_layers"],
        "n_positions": 8192,
        "pad_vocab_size_multiple": 64,
        "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None,
        "type_vocab_size": 2,
    }
    # The real file has no keys in transformers' own names: its values are the defaults there, which ours are not.
    _json(directory / "config.json", config | own)
    write_bert_tokenizer(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = json.loads((minilm() / "tokenizer_config.json").read_text())
    kept = {key: value for key, value in settings.items() if key.endswith(("_token", "_spaces", "lower_case"))}
    _json(directory / "tokenizer_config.json", kept | {"model_max_length": 8192, "tokenizer_class": "BertTokenizer"})
    _write_sentence_transformers(standin, directory, config["hidden_size"], 2, versions=True)
    _json(directory / "sentence_bert_config.json", {"max_seq_length": 8192, "do_lower_case": False})
    for layer in range(config["num_hidden_layers"]):
        parts = [weights.pop(f"layers.{layer}.self_attn.{part}_proj.weight") for part in "qkv"]
        weights[f"encoder.layers.{layer}.attn.Wqkv.weight"] = torch.cat(parts)
    renamed = {}
    for key, value in weights.items():
        for pattern, replacement in NOMIC_KEYS:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    _save(standin, directory, renamed)


def _save(standin: Standin, directory: Path, tensors: Weights) -> None:
    """model.safetensors, or that many shards of about the same size and their index."""
    kept = {key: value.to(TYPES[standin.type]) if value.is_floating_point() else value for key, value in tensors.items()}
    if standin.shards == 1:
        save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})
        return
    total, done = sum(value.nbytes for value in kept.values()), 0
    shards: dict[str, Weights] = {}
    for key, value in kept.items():
        name = f"model-{1 + done * standin.shards // total:05d}-of-{standin.shards:05d}.safetensors"
        shards.setdefault(name, {})[key] = value
        done += value.nbytes
    for name, part in shards.items():
        save_file(part, directory / name, metadata={"format": "pt"})
    places = {key: name for name, part in shards.items() for key in part}
    _json(directory / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
