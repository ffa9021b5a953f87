"""The witness: our reading of a checkpoint against the upstream library's own, before anything is made of it.

A reference that is built from what we read of a checkpoint proves nothing where we misread it. So the upstream library reads
the checkpoint itself, and both give their token ids and fp32 outputs for texts on which a misreading shows.
"""

from collections.abc import Callable

import numpy as np

from converter.proof.outputs import Outputs
from converter.proof.reference import Testimony
from converter.proof.rules import rules
from converter.source.checkpoint import Checkpoint
from shim.errors import UsageError
from shim.parity import WITNESS_TOLERANCE, Witness
from shim.text import Encoded, TextEncoder

Read = Callable[[Checkpoint, Testimony], tuple[list[Encoded], Outputs]]  # our tokens and outputs of the probes: see reading.py
TOKENS = "tokenizer.json, tokenizer_config.json and the files of further tokens beside them, and sentence_bert_config.json"
OUTPUTS = "config.json, modules.json, sentence_bert_config.json, and the weights"
RULES = ("normalizer", "pre_tokenizer", "added_tokens", "vocabulary")
SHOWN = 6  # token ids that an error shows


def agree(checkpoint: Checkpoint, testimony: Testimony, read: Read) -> Witness:
    """What the manifest records of the witness: library, version, how far off its outputs are at most, on how many texts.

    Raises UsageError, naming the file that says something else, when token ids differ at all, or outputs by more than
    WITNESS_TOLERANCE of their length.
    """
    _check_view(checkpoint, testimony)
    encoded, outputs = read(checkpoint, testimony)
    segments = checkpoint.config.get("type_vocab_size", 1) != 1
    for probe, ours, (ids, types) in zip(testimony.probes, encoded, testimony.tokens, strict=True):
        if ours.ids != ids or (segments and ours.type_ids != types):
            behind = f" behind its prompt {probe.prompt_name!r}" if probe.prompt_name else ""
            what = _difference(ours.ids, ids) if ours.ids != ids else "segment ids differ"
            raise _mismatch(testimony, f"the tokens of {_short(probe.text)}{behind}: {what}", TOKENS)
    errors = _errors(outputs, testimony.outputs, testimony.view.get("activation") == "sigmoid")
    for head, values in errors.items():
        row = int(np.argmax(values))
        if not values[row] <= WITNESS_TOLERANCE:
            probe = testimony.probes[testimony.measured[row]]
            raise _mismatch(testimony, f"the {head} output of {_short(probe.text)}, off by {values[row]:.2g}", OUTPUTS)
    return Witness(
        library=testimony.library,
        version=testimony.version,
        texts=len(testimony.measured),
        tokens_of=len(testimony.probes),
        worst=float(max(values.max() for values in errors.values())),
        tolerance=WITNESS_TOLERANCE,
        given=testimony.given,
    )


def _check_view(checkpoint: Checkpoint, testimony: Testimony) -> None:
    """Settings that both read, key by key: a difference has a name, and a file."""
    spec = checkpoint.spec
    ours = {
        "max_tokens": spec.max_tokens,
        "pooling": spec.pooling,
        "splade": spec.splade,
        "modules": [step.type for step in spec.modules],
        "default_prompt": spec.default_prompt,
        "similarity": spec.similarity,
        "activation": spec.activation,
        "prompt_names": {name: text for name, text in spec.prompt_names.items() if text},
        **rules(TextEncoder(checkpoint.directory, spec.max_tokens, spec.lower_case, markers=spec.markers).tokenizer.to_str()),
    }
    for key, theirs in testimony.view.items():
        if key not in checkpoint.overrides and ours[key] != theirs:
            fact = checkpoint.facts.get(key)
            if key in RULES:
                raise _mismatch(testimony, f"its tokenizer has another {key}", TOKENS)
            raise _mismatch(testimony, f"{key} {ours[key]!r}, there {theirs!r}", fact.file if fact else OUTPUTS)


def _errors(ours: Outputs, theirs: Outputs, sigmoid: bool) -> dict[str, np.ndarray]:
    """Head -> (n,) |ours - theirs| / |theirs|; of scores, which may be near 0, over 1 and more.

    sigmoid: whether theirs are probabilities, where ours are logits.
    """
    errors: dict[str, np.ndarray] = {}
    if theirs.scores is not None and ours.scores is not None:
        scores = ours.scores.astype(np.float64)
        if sigmoid:
            scores = 1 / (1 + np.exp(-scores))
        errors["score"] = np.abs(scores - theirs.scores) / np.maximum(1, np.abs(theirs.scores))
    if theirs.dense is not None and ours.dense is not None:
        errors["dense"] = _relative(list(ours.dense), list(theirs.dense))
    if theirs.sparse is not None and ours.sparse is not None:
        pairs = []
        for one, other in zip(ours.sparse, theirs.sparse, strict=True):
            tokens = sorted(one.keys() | other.keys())
            pairs.append([np.array([weights.get(token, 0.0) for token in tokens]) for weights in (one, other)])
        errors["sparse"] = _relative([one for one, _ in pairs], [other for _, other in pairs])
    if theirs.colbert is not None and ours.colbert is not None:
        errors["colbert"] = _relative(ours.colbert, theirs.colbert)
    return errors


def _relative(ours: list[np.ndarray], theirs: list[np.ndarray]) -> np.ndarray:
    found = []
    for one, other in zip(ours, theirs, strict=True):
        if one.shape != other.shape:
            found.append(np.inf)
            continue
        length = np.linalg.norm(other.astype(np.float64))
        gap = np.linalg.norm(one.astype(np.float64) - other)
        found.append(float(gap / length if length else gap))
    return np.array(found)


def _mismatch(testimony: Testimony, what: str, file: str) -> UsageError:
    return UsageError(
        f"read otherwise than {testimony.library} {testimony.version} reads it: {what}; look at {file}; nothing was sealed"
    )


def _difference(ours: list[int], theirs: list[int]) -> str:
    if len(ours) != len(theirs) and ours[: len(theirs)] == theirs[: len(ours)]:
        return f"{len(ours)} of them, there {len(theirs)}"
    place = next((i for i, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), 0)
    return f"ids {ours[place : place + SHOWN]} at {place}, there {theirs[place : place + SHOWN]}"


def _short(text: str | tuple[str, str]) -> str:
    shown = repr(text if isinstance(text, str) else text[0])
    return shown if len(shown) < 50 else shown[:46] + "…'"
