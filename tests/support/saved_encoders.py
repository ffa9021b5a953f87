"""Small encoders of further families as transformers saves them: tokenizers of their kinds, widths of no power of two."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CamembertConfig,
    CamembertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    DistilBertTokenizerFast,
    GteConfig,
    GteForSequenceClassification,
    GteModel,
    JinaEmbeddingsV3Config,
    JinaEmbeddingsV3Model,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    ModernBertModel,
    MPNetConfig,
    MPNetForSequenceClassification,
    MPNetModel,
    MPNetTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    RobertaTokenizer,
)

from converter.corpus import CALIBRATION, read
from support.checkpoints import write_bert_tokenizer
from support.seeded import LIMIT, seeded, unigram, write_xlm_tokenizer

SHAPE = {"hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 6}
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
MODERN_SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


@functools.cache
def _byte_pairs(specials: tuple[str, ...]) -> Tokenizer:
    """A small byte-level tokenizer; nobody changes it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=list(specials), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([text.text for text in read(CALIBRATION)][:200], trainer)
    return tokenizer


def roberta(folder: Path, kind: Any = RobertaModel, **more: Any) -> Path:
    """A RoBERTa whose table of positions has two rows more than a text may have tokens."""
    found = json.loads(_byte_pairs(tuple(SPECIALS)).to_str())["model"]
    merges = [tuple(pair) for pair in found["merges"]]
    RobertaTokenizer(vocab=found["vocab"], merges=merges, model_max_length=LIMIT).save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=len(found["vocab"]), max_position_embeddings=66, type_vocab_size=2, layer_norm_eps=1e-5, **SHAPE, **more
    )
    seeded(kind(config)).save_pretrained(folder)
    return folder


@functools.cache
def _french() -> Tokenizer:
    """XLM-RoBERTa's small tokenizer with the first tokens of CamemBERT's, of which three stand for nothing."""
    found = json.loads(unigram().to_str())
    first = [["<s>NOTUSED", 0.0], ["<pad>", 0.0], ["</s>NOTUSED", 0.0], ["<unk>", 0.0], ["<unk>NOTUSED", -100.0]]
    vocabulary = [*first, ["<s>", 0.0], ["</s>", 0.0], *found["model"]["vocab"][4:]]
    found["model"] |= {"vocab": vocabulary, "unk_id": 3}
    numbers = {piece: number for number, (piece, _) in enumerate(vocabulary)}
    found["added_tokens"] = [token | {"id": numbers[token["content"]]} for token in found["added_tokens"]]
    for token in found["post_processor"]["special_tokens"].values():
        token["ids"] = [numbers[token["id"]]]
    return Tokenizer.from_str(json.dumps(found))


def camembert(folder: Path) -> Path:
    """A CamemBERT with a tokenizer as transformers 4 saved it."""
    config = CamembertConfig(
        vocab_size=_french().get_vocab_size(), max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5, **SHAPE
    )
    seeded(CamembertModel(config)).save_pretrained(folder)
    write_xlm_tokenizer(folder, LIMIT, "CamembertTokenizer", _french())
    return folder


def distilbert(folder: Path, kind: Any = DistilBertModel, **more: Any) -> Path:
    """A DistilBERT, whose config.json has names of its own."""
    with tempfile.TemporaryDirectory() as few:
        write_bert_tokenizer(Path(few))
        tokenizer = DistilBertTokenizerFast.from_pretrained(few, model_max_length=LIMIT)
    tokenizer.save_pretrained(folder)
    shape = {"dim": 96, "hidden_dim": 160, "n_layers": 2, "n_heads": 6}
    config = DistilBertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **shape, **more)
    seeded(kind(config)).save_pretrained(folder)
    return folder


def mpnet(folder: Path, kind: Any = MPNetModel, limit: int = LIMIT, **more: Any) -> Path:
    """An MPNet: BERT's words between RoBERTa's special tokens, and more places than the distances that its bias tells apart."""
    with tempfile.TemporaryDirectory() as few:
        write_bert_tokenizer(Path(few))
        words = (Path(few) / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = {word: number for number, word in enumerate([*SPECIALS[:4], *words, "<mask>"])}
    MPNetTokenizer(vocab=vocabulary, model_max_length=limit).save_pretrained(folder)
    config = MPNetConfig(vocab_size=len(vocabulary), max_position_embeddings=limit + 2, layer_norm_eps=1e-5, **SHAPE, **more)
    seeded(kind(config)).save_pretrained(folder)
    return folder


def modernbert(folder: Path, kind: Any = ModernBertModel, limit: int = LIMIT, **more: Any) -> Path:
    """A ModernBERT whose windows, of 5 tokens on each side, are far narrower than its texts are long."""
    tokenizer = Tokenizer.from_str(_byte_pairs(tuple(MODERN_SPECIALS)).to_str())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    roles = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{f"{role}_token": token for role, token in roles.items()})
    wrapped.model_max_length, wrapped.model_input_names = limit, ["input_ids", "attention_mask"]
    wrapped.save_pretrained(folder)
    ids = {"pad_token_id": 3, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    shape = SHAPE | {"num_hidden_layers": 4, "local_attention": 11, "vocab_size": tokenizer.get_vocab_size()}
    config = ModernBertConfig(**(shape | ids | {"max_position_embeddings": limit} | more))
    seeded(kind(config)).save_pretrained(folder)
    return folder


TASKS = ("retrieval_query", "retrieval_passage", "separation", "classification", "text_matching")  # folders of adapters
ADAPTED = [
    *("word_embeddings", "token_type_embeddings", "fc1", "fc2"),
    *(f"{name}_proj" for name in "qkvo"),
]  # what the adapters of jina-embeddings-v3 are beside


def jina(folder: Path, adapters: tuple[str, ...] = (), rank: int = 4, alpha: int = 1, limit: int = LIMIT, **more: Any) -> Path:
    """A jina-embeddings-v3 in the layout of jina-embeddings-v3-hf: the base, and an adapter in a folder for each task."""
    shape = SHAPE | {"vocab_size": unigram().get_vocab_size(), "max_position_embeddings": limit + 2}
    model = seeded(JinaEmbeddingsV3Model(JinaEmbeddingsV3Config(**(shape | more))))
    model.save_pretrained(folder)
    write_xlm_tokenizer(folder, limit)
    for number, task in enumerate(adapters):
        torch.manual_seed(number)
        settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=ADAPTED, init_lora_weights=False)
        adapted = get_peft_model(JinaEmbeddingsV3Model.from_pretrained(folder), settings)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_" in name:
                    weight.normal_(std=0.3 if "embedding" in name else 0.15)
        adapted.save_pretrained(folder / task)
        (folder / task / "README.md").unlink(missing_ok=True)
    return folder


def gte(folder: Path, kind: Any = GteModel, **more: Any) -> Path:
    """A GTE with XLM-RoBERTa's tokenizer."""
    shape = SHAPE | {"vocab_size": unigram().get_vocab_size(), "max_position_embeddings": 66}
    seeded(kind(GteConfig(**(shape | more)))).save_pretrained(folder)
    write_xlm_tokenizer(folder, LIMIT)
    return folder


ENCODERS = {"roberta": roberta, "camembert": camembert, "distilbert": distilbert, "mpnet": mpnet, "modernbert": modernbert}
ENCODERS |= {"jina_embeddings_v3": jina, "gte": gte}
CLASSIFIERS = {
    "roberta": RobertaForSequenceClassification,
    "distilbert": DistilBertForSequenceClassification,
    "mpnet": MPNetForSequenceClassification,
    "modernbert": ModernBertForSequenceClassification,
    "gte": GteForSequenceClassification,
}
