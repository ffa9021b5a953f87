"""The texts that a quantizer sees: which ones, and as how many tokens."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from converter import corpus
from converter.corpus import Text
from converter.corpus.coverage import coverage
from converter.source.checkpoint import Checkpoint
from shim.batches import batches
from shim.contents import completed
from shim.encoding import encoding
from shim.errors import UsageError
from shim.prompts import prompt_of
from shim.text import Encoded, TextEncoder, Tokens

MAX_TOKENS = 512  # of a text; more costs time and memory, and shows little more
BATCH_TOKENS = 2048  # tokens, padding included, that a batch has at most
FEW = 2000  # tokens; with fewer, a warning says that layers are quantized on little
WORK = {"balanced": 1.2e13, "max": 6e13}  # floating-point operations of one pass over the model: a few minutes of two cores
COVERING = 800  # made-up texts with words of the vocabulary that ours do not have
FAST_TOKENS = 6000  # about so many tokens show what to leave in full precision where codes are not chosen by them
LEAST = 4000  # tokens that a model gets, however large it is


def calibration_tokens(checkpoint: Checkpoint, own: Path | None, verification: list[Text], effort: str) -> list[Tokens]:
    """What codes are chosen on: the user's `own` texts, or ours and made-up ones, as many as the effort affords.

    No text that judges is among them; of ours neither, as any artifact may be verified with ours later.
    Raises UsageError for texts that will not do.
    """
    texts = corpus.read(own or corpus.CALIBRATION)
    judges = [*verification, *corpus.read(corpus.VERIFICATION), *corpus.read(corpus.DOCUMENTS)]
    check_texts(texts, judges)
    if not own and checkpoint.spec.heads != ["score"]:
        texts = covering(checkpoint, texts, judges, COVERING)
    layers = (shape for name, shape in checkpoint.matrices.items() if name not in checkpoint.tables)
    return prepare(checkpoint, texts, affordable(layers, effort))


def unjudged_tokens(checkpoint: Checkpoint, verification: list[Text]) -> list[Tokens]:
    """A few of our texts, for a choice that no codes depend on; where the verification texts are these, they will do, too."""
    known, texts = {text.text.strip() for text in verification}, corpus.read(corpus.CALIBRATION)
    tokens = prepare(checkpoint, [text for text in texts if text.text.strip() not in known] or texts)
    return tokens[:: -(-sum(batch.input_ids.size for batch in tokens) // FAST_TOKENS)]


def check_texts(texts: list[Text], judges: list[Text]) -> None:
    """Raise UsageError for a text that is also one of `judges`: who knows the exam proves nothing. Warn of one language."""
    known = {text.text.strip() for text in judges}
    shared = [text.id for text in texts if text.text.strip() in known]
    if shared:
        shown = ", ".join(shared[:3]) + (", …" if len(shared) > 3 else "")
        raise UsageError(f"{len(shared)} calibration texts are verification texts, too ({shown}); they must not overlap")
    languages = {text.lang for text in texts}
    if len(languages) == 1 and languages != {"und"}:
        warnings.warn(f"calibration texts are all in {languages.pop()}; other languages may come out worse", stacklevel=2)


def covering(checkpoint: Checkpoint, texts: list[Text], judges: list[Text], count: int) -> list[Text]:
    """The texts, and `count` made from them with words of the tokenizer's vocabulary, none of them one of `judges`."""
    known = {text.text.strip() for text in judges}
    tokenizer = TextEncoder(checkpoint.directory, MAX_TOKENS).tokenizer
    tokenizer.no_truncation()
    return [*texts, *(text for text in coverage(texts, tokenizer, count) if text.text.strip() not in known)]


def prepare(checkpoint: Checkpoint, texts: list[Text], most: int | None = None) -> list[Tokens]:
    """The texts as batches of tokens, each behind its task's prompt; for a reranker, queries with documents.

    most: tokens, where there are more of them; some of the texts, drawn with a fixed seed, are used then.
    Raises UsageError when they hold nothing but special tokens, and warns when they are few.
    """
    model = checkpoint.spec
    limit = min(model.max_tokens, MAX_TOKENS)
    encoder = TextEncoder(checkpoint.directory, limit, model.lower_case, markers=model.markers)
    found: list[Encoded] = []
    if model.heads == ["score"]:
        rankings, left = corpus.rankings(texts), 0
        for ranking in rankings:
            try:
                found += encoder.pairs(ranking.query.text, [document.text for document in ranking.documents], model.prompts)
            except UsageError:  # the query leaves no room for a document
                left += 1
        if left:
            warnings.warn(f"{left} of {len(rankings)} queries to calibrate on are too long and left out", stacklevel=2)
    else:
        for text in corpus.under_each(texts, model.adapters):
            found += completed(encoding(encoder, model, prompt_of(model, text.task), text.task)([text.text]))
    count = sum(len(item.ids) for item in found)
    if count <= len(found) * encoder.tokenizer.num_special_tokens_to_add(False):
        raise UsageError("the calibration texts hold no tokens")
    if count < FEW:
        warnings.warn(
            f"only {count} calibration tokens; layers are quantized on little ({FEW} and more are better)", stacklevel=2
        )
    if most and count > most:
        drawn = np.random.default_rng(0).permutation(len(found))
        until = int(np.searchsorted(np.cumsum([len(found[row].ids) for row in drawn]), most))
        found = [found[row] for row in sorted(drawn[: max(until, 1)])]
    return [encoder.batch([found[row] for row in rows]) for rows in batches(found, BATCH_TOKENS)]


def affordable(layers: Iterable[tuple[int, ...]], effort: str) -> int:
    """Tokens that a pass over linear layers of these (out, in) shapes may take: their products, and their Hessians."""
    each = sum(2 * columns * (rows + columns) for rows, columns in layers)
    return max(LEAST, int(WORK[effort] / max(each, 1)))
