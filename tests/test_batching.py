"""The queue of requests: whose turn it is, what goes into a batch, and how long a text can be passed over."""

from hypothesis import given
from hypothesis import strategies as st

from shim.batches import SMALL, WASTE, batches
from shim.serve.lanes import Lanes
from shim.serve.queue import AHEAD, LOOKAHEAD, Queue, Request, Text, fill
from shim.text import Encoded

LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=120)
BUDGET = 1024


def job(lengths: list[int], heads: tuple[str, ...] = ("dense",)) -> tuple[Request, list[Text]]:
    made = Request(heads, len(lengths), lambda _: None)
    return made, [Text(made, row, Encoded([7] * length, [0] * length, False), 0.0) for row, length in enumerate(lengths)]


def line(*jobs: tuple[Request, list[Text]]) -> Queue:
    made = Queue(BUDGET)
    for one, items in jobs:
        made.add(one, items)
    return made


@given(LENGTHS)
def test_a_batch_holds_the_first_and_stays_in_its_budget_without_waste(lengths: list[int]) -> None:
    items = job(lengths)[1]
    batch = fill(items, BUDGET)
    padded = len(batch) * max(item.length for item in batch)
    assert items[0] in batch
    assert len(batch) == 1 or padded <= BUDGET
    assert len(batch) == 1 or padded <= SMALL or padded <= WASTE * sum(item.length for item in batch)


@given(st.lists(LENGTHS, min_size=1, max_size=6))
def test_every_text_is_computed_once_and_within_its_bound(sizes: list[list[int]]) -> None:
    jobs = [job(lengths) for lengths in sizes]
    waiting = line(*jobs)
    seen: list[Text] = []
    taken = 0
    while batch := waiting.take():
        taken += 1
        for item in batch:
            assert taken <= len(jobs) * (item.row + 1), "a text was passed over for longer than the queue promises"
        seen += batch
    assert len(seen) == len(set(map(id, seen))) == sum(map(len, sizes))
    assert waiting.waiting == 0


def test_a_thousand_documents_do_not_starve_a_query() -> None:
    many, query = job([300] * 1000), job([5])
    waiting = line(many)
    waiting.take()
    waiting.add(*query)
    first, second = waiting.take(), waiting.take()
    assert query[1][0] in [*first, *second]


def test_beside_a_long_batch_goes_one_of_texts_half_as_long_of_other_clients() -> None:
    lanes = Lanes(BUDGET)

    def put(client: str, length: int) -> list[Text]:
        one, items = job([length])
        one.client = client
        lanes.queue.add(one, items)
        return items

    long = put("a", 600)
    assert lanes.take() == long
    put("a", 5), put("b", 301)
    assert not lanes.take(), "of the same client, or too long"
    beside = [put("c", 300), put("d", 150), put("e", SMALL)]
    running = [lanes.take() for _ in beside]
    assert running == beside
    late = put("f", 2)
    assert not lanes.take(), "the last one is short itself"
    lanes.done(running.pop())
    assert lanes.take() == late


def test_a_text_unlike_all_others_is_not_passed_over() -> None:
    first = job([500, *[10] * 50])
    assert line(first).take()[0].length == 500
    assert {item.length for item in line(job([10, 500, *[10] * 50])).take()} == {10}


def test_heads_are_not_mixed() -> None:
    waiting = line(job([9, 9]), job([9, 9], ("dense", "sparse")))
    assert [{item.request.heads for item in waiting.take()} for _ in range(2)] == [{("dense",)}, {("dense", "sparse")}]


def test_short_texts_of_many_jobs_go_together() -> None:
    assert len(line(*(job([12]) for _ in range(40))).take()) == 40


def test_a_job_dropped_is_not_computed() -> None:
    gone, stays = job([9] * 5), job([9])
    waiting = line(gone, stays)
    waiting.drop(gone[0])
    assert waiting.take() == stays[1]
    assert waiting.take() == []


def test_batches_stay_in_their_budget_and_lose_nothing() -> None:
    lengths = [3, 900, 17, 17, 512, 1, 64, 64, 64, 5000]
    groups = grouped(lengths)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or len(group) * max(lengths[row] for row in group) <= 1024 for group in groups)


def test_short_texts_are_not_padded_to_a_long_one() -> None:
    """A long text among short ones, as documents of a reranker often are, costs no more than by itself."""
    assert grouped([900, 90, 80, 80, 3, 2]) == [[0], [1, 2, 3], [4, 5]]


def grouped(lengths: list[int]) -> list[list[int]]:
    return batches([Encoded([0] * length, [0] * length, False) for length in lengths], budget=1024)


def test_little_of_a_long_request_lies_ready() -> None:
    short, items = job([4] * LOOKAHEAD)
    short.waiting.extend(items[:-1])
    assert (short.ahead(), short.ahead(0.5)) == (False, True)
    short.waiting.append(items[-1])
    assert short.ahead()
    long, items = job([AHEAD // 4] * 4)
    long.waiting.extend(items[:3])
    assert (long.ahead(), long.ahead(0.5)) == (False, True)
    long.waiting.append(items[3])
    assert long.ahead()
