"""Originals: whatever is wrong with one is a line that names it, and every layout gives the same tensors."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from support.checkpoints import write_recipe

from converter import pipeline, recipe
from converter.source.open import open_source
from shim.errors import SourceError, UsageError

WORDS = "embeddings.word_embeddings.weight"
QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.fixture
def checkpoint(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny / "checkpoint", tmp_path / "checkpoint"))


@pytest.fixture
def tensors(tiny: Path) -> dict[str, np.ndarray]:
    """What the small checkpoint holds, read by safetensors itself."""
    return load_file(tiny / "checkpoint/model.safetensors")


def opened(directory: Path, tiny: Path, **changes: Any) -> dict[str, np.ndarray]:
    """The tensors that a conversion would read from `directory`."""
    path = write_recipe(directory.parent / "tiny.toml", **changes) if changes else tiny / "tiny.toml"
    checkpoint = open_source(recipe.load(str(path)), str(directory))
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def assert_same(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_whole_checkpoint_gives_its_tensors(tiny: Path, tensors: dict[str, np.ndarray]) -> None:
    assert_same(opened(tiny / "checkpoint", tiny), tensors)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "model.safetensors").unlink(), "no model.safetensors, .* or pytorch_model.bin; is the download"),
        (lambda d: cut(d / "model.safetensors"), "model.safetensors: .*; is the download complete"),
        (lambda d: (d / "model.safetensors").write_bytes(b"garbage!" * 9), "model.safetensors: not readable as safetensors"),
        (lambda d: (d / "model.safetensors").write_bytes(b""), "model.safetensors: not readable as safetensors"),
        (lambda d: (d / "config.json").unlink(), "config.json is missing; is the download complete"),
        (lambda d: (d / "config.json").write_text("{"), r"config.json: cannot be read"),
        (lambda d: (d / "config.json").write_text("[]"), "config.json: not a JSON object"),
        (lambda d: edit_json(d / "config.json", hidden_act="relu"), "hidden_act 'relu' is not supported"),
        (lambda d: (d / "config.json").write_text('{"model_type": "bert"}'), "config.json: key '.*' missing"),
        (lambda d: edit_json(d / "config.json", num_hidden_layers=2.0), "num_hidden_layers must be a positive number"),
        (lambda d: edit_json(d / "config.json", num_hidden_layers=10**6), "num_hidden_layers 1000000 is over"),
        (lambda d: edit_json(d / "config.json", num_attention_heads=0), "num_attention_heads must be a positive number"),
        (lambda d: (d / "config.json").write_text("[" * 100_000), "config.json: cannot be read"),
        (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json is missing; save the tokenizer"),
        (lambda d: (d / "tokenizer.json").write_text("{}"), "tokenizer.json: not a readable tokenizer"),
        (lambda d: cut(d / "tokenizer.json"), "tokenizer.json: not a readable tokenizer"),
    ],
)
def test_what_is_missing_or_broken_is_named(
    checkpoint: Path, tiny: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(checkpoint)
    with pytest.raises(SourceError, match=message) as caught:
        opened(checkpoint, tiny)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({QUERY: t[QUERY][:, :32].copy()}),
            re.escape(f"{QUERY} has shape [64, 32], config.json wants [64, 64]"),
        ),
        (lambda t: t.pop(QUERY), rf"1 tensor missing from model.safetensors \({QUERY}\)"),
        (lambda t: t.update(surprise=t[QUERY]), r"1 tensor left over in model.safetensors \(surprise\)"),
        (lambda t: t[QUERY].__setitem__((3, 5), np.nan), f"tensor {QUERY} holds NaN or infinity"),
        (lambda t: t[WORDS].__setitem__((0, 0), np.inf), f"tensor {WORDS} holds NaN or infinity"),
    ],
)
def test_a_wrong_tensor_is_named_and_nothing_is_left(
    checkpoint: Path,
    tiny: Path,
    tensors: dict[str, np.ndarray],
    tmp_path: Path,
    change: Callable[[dict[str, np.ndarray]], object],
    message: str,
) -> None:
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors")
    request = pipeline.Request(recipe.load(str(tiny / "tiny.toml")), "mlx", 8, str(checkpoint), tmp_path / "out")
    with pytest.raises(SourceError, match=message):
        pipeline.convert(request, lambda *_: None)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_pickle_gives_the_same_tensors(checkpoint: Path, tiny: Path, tensors: dict[str, np.ndarray], zipped: bool) -> None:
    (checkpoint / "model.safetensors").unlink()
    state = {name: torch.from_numpy(value) for name, value in tensors.items()}
    torch.save(state, checkpoint / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_same(opened(checkpoint, tiny), tensors)


class Touch:
    """Creates a file when it is unpickled by a loader that trusts it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_the_code_not_run(checkpoint: Path, tiny: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    torch.save({"weight": Touch(tmp_path / "touched")}, checkpoint / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"pytorch_model.bin: refused, .*unpickling it needs more than tensors"):
        opened(checkpoint, tiny)
    assert not (tmp_path / "touched").exists()
    torch.load(checkpoint / "pytorch_model.bin", weights_only=False)  # the bait is real
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "pytorch_model.bin: not readable"),
        (lambda path: path.write_bytes(b"garbage!" * 9), "pytorch_model.bin: (refused|not readable)"),
        (
            lambda path: torch.save({"state_dict": {"weight": torch.zeros(1)}}, path),
            "pytorch_model.bin: not a table of tensors",
        ),
    ],
)
def test_a_broken_pickle_is_named(checkpoint: Path, tiny: Path, spoil: Callable[[Path], object], message: str) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    torch.save({"weight": torch.zeros(4000)}, checkpoint / "pytorch_model.bin")
    spoil(checkpoint / "pytorch_model.bin")
    with pytest.raises(SourceError, match=message) as caught:
        opened(checkpoint, tiny)
    assert "\n" not in str(caught.value)


@pytest.fixture
def sharded(checkpoint: Path, tensors: dict[str, np.ndarray]) -> Path:
    """The small checkpoint in two shards whose tensors alternate."""
    (checkpoint / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number in (1, 2):
        file = f"model-0000{number}-of-00002.safetensors"
        part = {name: tensors[name] for name in names[number - 1 :: 2]}
        save_file(part, checkpoint / file)
        weight_map |= dict.fromkeys(part, file)
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return checkpoint


def test_shards_give_the_same_tensors(sharded: Path, tiny: Path, tensors: dict[str, np.ndarray]) -> None:
    assert_same(opened(sharded, tiny), tensors)


def test_a_missing_shard_is_named(sharded: Path, tiny: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SourceError, match=r"model-00002-of-00002.safetensors is missing; is the download complete"):
        opened(sharded, tiny)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index_is_named(sharded: Path, tiny: Path, index: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(SourceError, match=r"model.safetensors.index.json: "):
        opened(sharded, tiny)


def test_old_names_and_a_prefix_convert_to_the_same_tensors(
    checkpoint: Path, tiny: Path, tensors: dict[str, np.ndarray]
) -> None:
    norm = re.compile(r"(LayerNorm)\.(weight|bias)$")
    old = {"weight": "gamma", "bias": "beta"}
    named = {"bert." + norm.sub(lambda m: f"{m[1]}.{old[m[2]]}", name): value for name, value in tensors.items()}
    assert "bert.embeddings.LayerNorm.gamma" in named
    named |= {"bert.embeddings.position_ids": np.arange(512)[None], "cls.predictions.bias": np.zeros(3, np.float32)}
    save_file(named, checkpoint / "model.safetensors")
    assert_same(opened(checkpoint, tiny), tensors)


def test_two_tensors_of_one_name_are_refused(checkpoint: Path, tiny: Path, tensors: dict[str, np.ndarray]) -> None:
    save_file(tensors | {f"bert.{QUERY}": tensors[QUERY]}, checkpoint / "model.safetensors")
    with pytest.raises(SourceError, match=f"model.safetensors: .*{QUERY} are both {QUERY}"):
        opened(checkpoint, tiny)


@pytest.mark.parametrize(
    ("recipe_changes", "file", "changes", "message"),
    [
        ({"pooling": "cls"}, "", {}, "pooling 'cls', but 1_Pooling/config.json says 'mean'"),
        (
            {},
            "1_Pooling/config.json",
            {"pooling_mode_max_tokens": True},
            "1_Pooling/config.json: pooling by max and mean together is not supported",
        ),
        ({"max_tokens": 64}, "", {}, "max_tokens 64, but sentence_bert_config.json says 128"),
        ({"max_tokens": 1024}, "sentence_bert_config.json", {"max_seq_length": 1024}, "config.json has 512 positions"),
        ({"dimensions": 32}, "", {}, "dimensions 32, but config.json has hidden_size 64"),
        ({"pooling": "mean"}, "config.json", {"model_type": "roberta"}, "model_type 'roberta', the recipe 'bert'"),
    ],
)
def test_a_recipe_that_contradicts_the_checkpoint_is_refused(
    checkpoint: Path, tiny: Path, recipe_changes: dict[str, Any], file: str, changes: dict[str, Any], message: str
) -> None:
    if file:
        edit_json(checkpoint / file, **changes)
    with pytest.raises(UsageError, match=message):
        opened(checkpoint, tiny, **recipe_changes)
