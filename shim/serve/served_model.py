"""One artifact being served: a request's texts checked, tokenized, queued, computed, put together."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from shim.checks import check_text, check_texts
from shim.model import Model
from shim.pooling import PER_TOKEN, check_dimensions
from shim.prompts import prompt_of
from shim.results import Embeddings, Output, Ranked
from shim.serve.faults import Kind, Refusal
from shim.serve.metrics import Metrics
from shim.serve.queue import Request
from shim.serve.scheduler import BatchError, BrokenOutputError, ClosedError, FullError, ModelThread
from shim.serve.settings import Settings
from shim.text import Encoded, Piece, Prefix

PART_TEXTS, PART_CHARACTERS = 64, 65536  # tokenized at a time, so that a long request does not hold up a short one
SHORT = 512  # characters that are tokenized at once: to have another thread do it would take as long
MAX_CHARACTERS = 262_144  # whose tokens are shown in one answer: at most some 20 MB of JSON
MAX_NUMBERS = 16_000_000  # numbers of vectors per token in one answer: 64 MB, and some 200 MB of JSON
T = TypeVar("T")
Encode = Callable[[Sequence[str]], list[Encoded]]


@dataclass(frozen=True)
class Options:
    """How texts are to be embedded; see `Model.embed`. truncate: whether a text too long is cut, on `side`, or refused.

    normalize: whether vectors have length 1; None as the model gives them.
    """

    task: str | None = None
    prompt_name: str | None = None
    instruction: str | None = None
    dimensions: int | None = None
    heads: tuple[str, ...] = ("dense",)
    normalize: bool | None = None
    truncate: bool = True
    side: str = "right"
    late_chunking: bool = False


class ServedModel:
    """One artifact being served: its model's thread, and its tokenizer, with a thread for long texts; used by one at a time."""

    def __init__(self, opener: Callable[[], Model], settings: Settings, metrics: Metrics):
        self.opener, self.settings, self.metrics = opener, settings, metrics
        self.thread = ModelThread(opener, metrics, settings.batch_tokens, settings.max_queue)
        self.model = self.thread.model
        self._tokenizer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")
        self._tokenizing = threading.Lock()

    def close(self, drain: bool = True, timeout: float | None = None) -> bool:
        """End the model's thread, see `ModelThread.close`; the tokenizer's ends when no request refers to it any more."""
        return self.thread.close(drain, timeout)

    async def embed(self, texts: object, options: Options) -> Embeddings:
        """`Model.embed` when its turn comes. Raises UsageError or Refusal."""
        model = self.model
        model.check_embed(options.heads, options.late_chunking)
        check_dimensions(options.dimensions, model.dimensions)
        prompt = prompt_of(model.manifest.model, options.task, options.instruction, options.prompt_name)
        heads = tuple(dict.fromkeys((model.vector(options.normalize), *options.heads)))
        encode = partial(model.encoder.encode, prompt=prompt, side=options.side)
        outputs = await self._compute(check_texts(texts), encode, heads, options.truncate, len(prompt))
        return model.embeddings(outputs, options.heads, options.dimensions, options.normalize)

    async def hidden(self, texts: object, options: Options) -> list[Output]:
        """The hidden states of every token, as `hidden` of each text's output."""
        self.model.check_embed()
        prompt = prompt_of(self.model.manifest.model, options.task, options.instruction, options.prompt_name)
        encode = partial(self.model.encoder.encode, prompt=prompt, side=options.side)
        return await self._compute(check_texts(texts), encode, ("hidden",), options.truncate, len(prompt))

    async def rerank(
        self, query: object, documents: object, instruction: str | None, truncate: bool, side: str = "right"
    ) -> list[Ranked]:
        """`Model.rerank` of all documents when its turn comes. Raises UsageError or Refusal."""
        model = self.model
        model.check_rerank()
        query = check_text(query, "query")
        checked = check_texts(documents, "document", empty=True)
        prompts, prefix = model.manifest.model.prompts, Prefix(len(checked))

        def encode(part: Sequence[str]) -> list[Encoded]:
            return model.encoder.pairs(query, part, prompts, instruction, side, prefix)

        each = len(query) + len(instruction or "")
        return model.ranking(await self._compute(checked, encode, ("score",), truncate, each))

    async def pieces(self, texts: object, special: bool, prompt: str) -> list[list[Piece]]:
        """The tokens of each text, behind the prompt."""
        checked = [prompt + text for text in check_texts(texts)]
        self._check_count(checked)
        if sum(map(len, checked)) > MAX_CHARACTERS:
            message = f"over {MAX_CHARACTERS} characters to tokenize; send fewer a request"
            raise Refusal(Kind.LIMIT, message, "texts")
        found: list[list[Piece]] = []
        for part in _parts(checked):  # one after the other: what others have to tokenize comes in between
            found += await self._tokenize(partial(self.model.encoder.pieces, part, special), sum(map(len, part)))
        return found

    async def _compute(
        self, texts: list[str], encode: Encode, heads: tuple[str, ...], truncate: bool, each: int = 0
    ) -> list[Output]:
        """The outputs of the texts, in order. `each`: characters that go with every text."""
        self._check_count(texts)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Output]] = loop.create_future()
        room = asyncio.Event()

        def settle(outcome: list[Output] | Exception) -> None:
            if not done.done():
                done.set_exception(outcome) if isinstance(outcome, Exception) else done.set_result(outcome)
            room.set()

        def finish(outcome: list[Output] | Exception) -> None:
            loop.call_soon_threadsafe(settle, outcome)

        request = Request(heads, len(texts), finish, lambda: loop.call_soon_threadsafe(room.set))
        try:
            self.thread.open(request)
            done.add_done_callback(lambda future: future.cancelled() or future.exception())  # it may fail while we tokenize
            row = tokens = 0
            for part in _parts(texts, each):
                while request.ahead() and not done.done():
                    room.clear()
                    await room.wait()
                if done.done():
                    break
                encoded = await self._tokenize(partial(encode, part), sum(map(len, part)) + each * len(part))
                tokens += sum(len(item.ids) for item in encoded)
                self._check_part(encoded, row, truncate, tokens, heads)
                self.thread.put(request, row, encoded)
                row += len(part)
            return await done
        except FullError as error:
            raise overloaded(error) from None
        except ClosedError:
            raise Refusal(Kind.STOPPING, "the model is stopping", headers={"retry-after": "5"}) from None
        except BrokenOutputError as error:
            raise Refusal(Kind.NOT_FINITE, str(error)) from None
        except BatchError as error:
            raise Refusal(Kind.BATCH, str(error)) from None
        finally:
            self.thread.drop(request)

    async def _tokenize(self, call: Callable[[], T], characters: int) -> T:
        started = time.perf_counter()
        if characters <= SHORT and self._tokenizing.acquire(blocking=False):
            try:
                found = call()
            finally:
                self._tokenizing.release()
        else:
            found = await asyncio.get_running_loop().run_in_executor(self._tokenizer, self._with_tokenizer, call)
        self.metrics.tokenize_seconds.labels(self.model.name).observe(time.perf_counter() - started)
        return found

    def _with_tokenizer(self, call: Callable[[], T]) -> T:
        with self._tokenizing:
            return call()

    def _check_count(self, texts: Sequence[str]) -> None:
        if len(texts) > self.settings.max_inputs:
            limit = f"at most {self.settings.max_inputs} (--max-inputs)"
            raise Refusal(Kind.LIMIT, f"{len(texts)} texts in one request, {limit}; send several requests", "texts")

    def _check_part(self, encoded: list[Encoded], row: int, truncate: bool, tokens: int, heads: tuple[str, ...]) -> None:
        cut = [row + index for index, item in enumerate(encoded) if item.truncated]
        self.metrics.truncations.labels(self.model.name).inc(len(cut))
        if cut and not truncate:
            limit = f"the {self.model.max_tokens} tokens of {self.model.name}"
            raise Refusal(Kind.TOO_LONG, f"text {cut[0]} has more than {limit}, and truncate is false", "texts")
        wide = sum(head in PER_TOKEN and head != "sparse" for head in heads)
        if wide * tokens * self.model.dimensions > MAX_NUMBERS:
            message = f"vectors of over {tokens} tokens in one answer; send fewer texts a request"
            raise Refusal(Kind.LIMIT, message, "texts")


def overloaded(error: FullError) -> Refusal:
    """429 with `retry-after`."""
    return Refusal(Kind.OVERLOADED, str(error), headers={"retry-after": str(error.retry_after)})


def _parts(texts: Sequence[str], each: int = 0) -> list[Sequence[str]]:
    """The texts in parts of few texts and few characters; `each` are added to every text."""
    parts: list[Sequence[str]] = []
    start = size = 0
    for index, text in enumerate(texts):
        size += len(text) + each
        if index - start + 1 == PART_TEXTS or size > PART_CHARACTERS:
            parts.append(texts[start : index + 1])
            start, size = index + 1, 0
    if start < len(texts):
        parts.append(texts[start:])
    return parts
