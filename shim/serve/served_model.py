"""One artifact being served: a request's texts checked, tokenized, queued, computed, put together."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from shim import late
from shim.checks import check_text, check_texts
from shim.contents import Steps
from shim.errors import UsageError
from shim.model import Model
from shim.pieces import Piece
from shim.pooling import PER_TOKEN
from shim.results import Embeddings, Output, Ranked
from shim.serve.faults import Kind, Refusal
from shim.serve.metrics import Metrics
from shim.serve.options import Options, encoding, encoding_ids
from shim.serve.queue import Request
from shim.serve.scheduler import ModelThread
from shim.serve.settings import Settings
from shim.serve.tokenizing import Tokenizing, written
from shim.serve.turns import CLIENT, Shares
from shim.serve.unanswered import BatchError, BrokenOutputError, ClosedError, FullError, StartingError
from shim.text import Encoded, Prefix, adapted
from shim.token_ids import TokenIds, decoding

PART_TEXTS, PART_CHARACTERS = 64, 65536  # of a request, encoded before they are put into the queue
MAX_CHARACTERS = 262_144  # whose tokens are shown in one answer: at most some 20 MB of JSON
MAX_IDS = 65_536  # token ids whose texts are in one answer
MAX_NUMBERS = 4_000_000  # numbers of vectors per token in one answer, or those of one text: 16 MB, and some 50 MB of JSON
WORK = 32_768  # characters, or numbers of vectors per token, that count as much as a request
SHOWN = 8192  # characters that do, where their tokens are shown
PER_ID = 4  # characters that a token id counts as
REPEATED = 2  # bytes of texts, with what goes with each, by those that a body may have
REVIVALS = 3  # a thread that hangs keeps its model's memory: there is an end to it
T = TypeVar("T")
Text = TypeVar("Text", str, TokenIds)


class ServedModel:
    """One artifact being served: its model's thread, and its tokenizer, in turns, with a thread for what takes long."""

    def __init__(self, opener: Callable[[], Model], settings: Settings, metrics: Metrics):
        self.opener, self.settings, self.metrics = opener, settings, metrics
        self.thread = ModelThread(opener, metrics, settings.batch_tokens, settings.max_queue)
        self.model = self.thread.model
        self._tokenizing = Tokenizing(metrics.tokenize_seconds.labels(self.model.name).observe)
        self._shown = Shares(settings.max_queue)
        self._left = REVIVALS

    def close(self, drain: bool = True, timeout: float | None = None) -> bool:
        """End the model's thread, see `ModelThread.close`; the tokenizer's ends when no request refers to it any more."""
        return self.thread.close(drain, timeout)

    def revive(self) -> bool:
        """Load the artifact again where the model's thread ended or hangs; whether it was. Raises what is wrong with it."""
        old = self.thread
        if old.stuck(self.settings.batch_timeout):
            old.lost = True
            old.refuse(StartingError)
        if not old.lost or not self._left:
            return False
        new = ModelThread(self.opener, self.metrics, self.settings.batch_tokens, self.settings.max_queue)
        self.thread, self.model = new, new.model
        self._left -= 1
        new.succeed(old)
        return True

    def prompt(self, options: Options) -> str:
        """What goes before each text."""
        return self.model.prompt(options.task, options.instruction, options.prompt_name)

    async def embed(self, texts: object, options: Options) -> Embeddings:
        """`Model.embed` when its turn comes. Raises UsageError or Refusal."""
        model = self.model
        model.check_embed(options.heads, options.late_chunking, dimensions=options.dimensions)
        prompt = self.prompt(options)
        if options.late_chunking:
            return await self._late(check_texts(self.counted(texts)), options, prompt)
        heads = tuple(dict.fromkeys((*model.vector(options.normalize), *options.heads)))
        outputs = await self._outputs(texts, options, prompt, heads)
        return model.embeddings(outputs, options.heads, options.dimensions, options.normalize)

    async def _late(self, chunks: list[str], options: Options, prompt: str) -> Embeddings:
        """The vectors of the chunks of one document."""
        model = self.model
        adapter = model.adapter(options.task, options.prompt_name)
        characters = len(prompt) + sum(map(len, chunks))
        with self._share(1 + characters // WORK):
            found = await self._tokenizing.all(late.document(model.encoder, chunks, prompt), characters)
        windows = iter(adapted(found.windows, adapter))

        def encode(part: Sequence[str]) -> Steps[list[Encoded]]:
            yield
            return [next(windows) for _ in part]

        outputs = await self._compute(found.texts, encode, ("chunks",), truncate=True)
        rows = late.chunks_of(found, outputs, bool(model.manifest.model.normalized))
        return model.embeddings(rows, options.heads, options.dimensions, options.normalize)

    async def hidden(self, texts: object, options: Options) -> list[Output]:
        """The hidden states of every token, as `hidden` of each text's output; of ColBERT the vectors, as `colbert`."""
        head = "hidden" if self.model.manifest.model.colbert is None else "colbert"
        self.model.check_embed(("colbert",) if head == "colbert" else ("dense",))
        prompt = self.prompt(options)
        return await self._outputs(texts, options, prompt, (head,))

    async def rerank(
        self, query: object, documents: object, instruction: str | None, truncate: bool, side: str = "right"
    ) -> list[Ranked]:
        """`Model.rerank` of all documents when its turn comes. Raises UsageError or Refusal."""
        model = self.model
        model.check_rerank()
        query = check_text(query, "query")
        checked = check_texts(self.counted(documents), "document", empty=True)
        prompts, prefix = model.manifest.model.prompts, Prefix(len(checked))

        def encode(part: Sequence[str]) -> Steps[list[Encoded]]:
            return model.encoder.pairing(query, part, prompts, instruction, side, prefix)

        each = len(query) + len(instruction or "")
        return model.ranking(await self._compute(checked, encode, ("score",), truncate, each))

    async def pieces(
        self, texts: object, special: bool, prompt: str, write: Callable[[list[Piece]], T]
    ) -> tuple[list[int], list[list[T]]]:
        """How many tokens each text has behind the prompt, and what is written of them, part by part."""
        checked = [prompt + text for text in check_texts(self.counted(texts))]
        characters = sum(map(len, checked))
        if characters > MAX_CHARACTERS:
            message = f"over {MAX_CHARACTERS} characters to tokenize; send fewer a request"
            raise Refusal(Kind.LIMIT, message, "texts")
        with self._share(1 + characters // SHOWN):
            counts: list[int] = []
            shown: list[list[T]] = []
            for part in _parts(checked):
                steps = written([self.model.encoder.piecing(text, special) for text in part], write)
                for count, rows in await self._tokenizing.all(steps, sum(map(len, part))):
                    counts.append(count)
                    shown.append(rows)
                if not self.thread.alive:
                    raise ending(StartingError() if self.thread.lost else ClosedError())
            return counts, shown

    async def decode(self, ids: object, skip: bool) -> list[str]:
        """The texts of token ids, without special tokens (`skip`) or with them. Raises UsageError or Refusal."""
        if not isinstance(ids, list) or not ids or not all(isinstance(one, TokenIds) for one in ids):
            raise UsageError("ids must be a list of token ids, or a list of such lists", "ids")
        self.counted(ids)
        texts = [one for one in ids if isinstance(one, TokenIds)]
        count = sum(map(len, texts))
        if count > MAX_IDS:
            raise Refusal(Kind.LIMIT, f"over {MAX_IDS} token ids to decode; send fewer a request", "ids")
        with self._share(1 + PER_ID * count // SHOWN):
            return await self._tokenizing.all(decoding(self.model.encoder, texts, skip), PER_ID * count)

    @contextmanager
    def _share(self, work: int) -> Iterator[None]:
        """So much of what a client may have tokenized at once, outside the model's queue. Raises Refusal beyond."""
        client = CLIENT.get()
        if self._shown.full(client, work):
            raise overloaded(FullError(self._shown.held.get(client, 0), 1))
        self._shown.take(client, work)
        try:
            yield
        finally:
            self._shown.give(client, work)

    async def _outputs(self, texts: object, options: Options, prompt: str, heads: tuple[str, ...]) -> list[Output]:
        """The outputs of texts, or of texts that are token ids already."""
        counted = self.counted(texts)
        if not isinstance(counted, list) or not counted or not isinstance(counted[0], TokenIds):
            encode = encoding(self.model, options, prompt)
            return await self._compute(check_texts(counted), encode, heads, options.truncate, len(prompt))
        if prompt:
            raise UsageError(f"token ids are all of a text: {prompt!r:.100} cannot go before them; send strings", "texts")
        ids = [one for one in counted if isinstance(one, TokenIds)]
        if len(ids) < len(counted):
            raise UsageError("some texts are token ids and some are not", "texts")
        return await self._compute(ids, encoding_ids(self.model, options), heads, options.truncate)

    async def _compute(
        self,
        texts: Sequence[Text],
        encode: Callable[[Sequence[Text]], Steps[list[Encoded]]],
        heads: tuple[str, ...],
        truncate: bool,
        each: int = 0,
    ) -> list[Output]:
        """The outputs of the texts, in order. `each`: characters that go with every text."""
        characters, thread = sum(map(len, texts)) * _weight(texts) + each * len(texts), self.thread
        if characters > REPEATED * self.settings.max_body:
            message = f"{len(texts)} texts, each with {each} characters of query, prompt or instruction; send fewer a request"
            raise Refusal(Kind.LIMIT, message, "texts")
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
        request.client, request.work = CLIENT.get(), 1 + self._cost(texts, characters, heads) // WORK
        try:
            thread.open(request)
            done.add_done_callback(lambda future: future.cancelled() or future.exception())  # it may fail while we tokenize
            row = tokens = 0
            for part in _parts(texts, each):
                while request.ahead() and not done.done():
                    room.clear()
                    await room.wait()
                if done.done():
                    break
                encoded = await self._tokenizing.all(encode(part), sum(map(len, part)) + each * len(part))
                tokens += sum(len(item.ids) for item in encoded)
                self._check_part(encoded, row, truncate, tokens, heads)
                thread.put(request, row, encoded)
                row += len(part)
            return await done
        except FullError as error:
            raise overloaded(error) from None
        except (ClosedError, StartingError) as error:
            raise ending(error) from None
        except BrokenOutputError as error:
            raise Refusal(Kind.NOT_FINITE, str(error)) from None
        except BatchError as error:
            raise Refusal(Kind.BATCH, str(error)) from None
        finally:
            thread.drop(request)

    def counted(self, texts: object) -> object:
        """The texts themselves, which nobody has looked into yet."""
        if isinstance(texts, list) and len(texts) > self.settings.max_inputs:
            message = f"too many texts in one request, at most {self.settings.max_inputs} (--max-inputs); send several requests"
            raise Refusal(Kind.LIMIT, message, "texts")
        return texts

    def _cost(self, texts: Sequence[Text], characters: int, heads: tuple[str, ...]) -> int:
        """Characters; or the numbers of an answer with vectors per token, at most."""
        return max(characters, self._wide(heads) * min(characters, len(texts) * self.model.max_tokens) * self.model.dimensions)

    def _wide(self, heads: tuple[str, ...]) -> int:
        """Heads with a vector per token."""
        return sum(head in PER_TOKEN and head != "sparse" for head in heads)

    def _check_part(self, encoded: list[Encoded], row: int, truncate: bool, tokens: int, heads: tuple[str, ...]) -> None:
        cut = [row + index for index, item in enumerate(encoded) if item.truncated]
        self.metrics.truncations.labels(self.model.name).inc(len(cut))
        if cut and not truncate:
            limit = f"the {self.model.max_tokens} tokens of {self.model.name}"
            raise Refusal(Kind.TOO_LONG, f"text {cut[0]} has more than {limit}, and truncate is false", "texts")
        most = max(MAX_NUMBERS, self._wide(heads) * self.model.max_tokens * self.model.dimensions)
        if self._wide(heads) * tokens * self.model.dimensions > most:
            message = f"vectors of over {tokens} tokens in one answer; send fewer texts a request"
            raise Refusal(Kind.LIMIT, message, "texts")


def ending(error: ClosedError | StartingError) -> Refusal:
    """503 with `retry-after`."""
    if isinstance(error, StartingError):
        return Refusal(Kind.UNREADY, "the model is started anew", headers={"retry-after": "5"})
    return Refusal(Kind.STOPPING, "the model is stopping", headers={"retry-after": "5"})


def overloaded(error: FullError) -> Refusal:
    """429 with `retry-after`."""
    return Refusal(Kind.OVERLOADED, str(error), headers={"retry-after": str(error.retry_after)})


def _weight(texts: Sequence[str] | Sequence[TokenIds]) -> int:
    """Characters that an entry of each text counts as."""
    return 1 if isinstance(texts[0], str) else PER_ID


def _parts(texts: Sequence[Text], each: int = 0) -> list[Sequence[Text]]:
    """The texts in parts of few texts and few characters; `each` are added to every text."""
    parts: list[Sequence[Text]] = []
    start = size = 0
    for index, text in enumerate(texts):
        size += len(text) + each
        if index - start + 1 == PART_TEXTS or size > PART_CHARACTERS:
            parts.append(texts[start : index + 1])
            start, size = index + 1, 0
    if start < len(texts):
        parts.append(texts[start:])
    return parts
