"""The engine: what a request gets does not depend on who else asks, and nobody is forgotten."""

import queue
import random
import threading
from collections.abc import Iterator

import pytest
import torch

from pangu_core.errors import PanguError
from pangu_core.generation.sampling import stream_seed
from pangu_core.generation.settings import GenerationSettings
from pangu_core.service.batching import BatchEngine
from pangu_core.service.engine import Failure, QueueFullError, Row, Token

EOD = 9
RULES = [
    {"greedy": True},
    {"temperature": 1.3, "top_p": 1.0},
    {"temperature": 0.8, "top_k": 20, "repetition_penalty": 1.3},
    {"temperature": 2.0, "top_p": 0.8},
]


def row(number: int, **more) -> Row:
    """A row of its own: prompt, rules and length follow from the number."""
    prompt = tuple(random.Random(number).choices(range(10, 280), k=1 + number * 7 % 40))
    settings = {"max_new_tokens": 5 + number % 30, **RULES[number % len(RULES)], **more}
    return Row(prompt, stream_seed(number, prompt, 0), GenerationSettings(**settings))


def start(model, **settings) -> BatchEngine:
    return BatchEngine(model, eod_id=EOD, **{"max_batch": 4, "max_queue": 100, **settings})


@pytest.fixture
def engine(model) -> Iterator[BatchEngine]:
    engine = start(model)
    yield engine
    engine.stop()


def write(engine: BatchEngine, rows: list[Row]) -> list[list[int]]:
    """All tokens of all rows, each a request of its own."""
    events: queue.Queue = queue.Queue()
    for number, each in enumerate(rows):
        engine.submit([each], lambda event, number=number: events.put((number, event)))
    texts: list[list[int]] = [[] for _ in rows]
    open_rows = set(range(len(rows)))
    while open_rows:
        number, event = events.get(timeout=60)
        assert isinstance(event, Token), event
        texts[number].append(event.token_id)
        if event.token_id == EOD or len(texts[number]) == rows[number].settings.max_new_tokens:
            open_rows.remove(number)
    return texts


@pytest.fixture(scope="module")
def alone(model) -> list[list[int]]:
    """What each of 24 rows gets with the engine to itself."""
    engine = start(model)
    texts = [write(engine, [row(number)])[0] for number in range(24)]
    engine.stop()
    return texts


@pytest.mark.parametrize(("order", "max_batch"), [(1, 2), (2, 4), (3, 16)])
def test_a_text_does_not_depend_on_its_neighbours(model, alone, order, max_batch):
    engine = start(model, max_batch=max_batch)
    numbers = random.Random(order).sample(range(24), 24)
    texts = write(engine, [row(number) for number in numbers])
    engine.stop()
    assert dict(zip(numbers, texts, strict=True)) == dict(enumerate(alone))


def test_rows_of_one_request_are_told_apart(engine, alone):
    events: queue.Queue = queue.Queue()
    engine.submit([row(3), row(4)], events.put)
    texts: dict[int, list[int]] = {0: [], 1: []}
    for _ in range(len(alone[3]) + len(alone[4])):
        event = events.get(timeout=60)
        texts[event.row].append(event.token_id)
    assert texts == {0: alone[3], 1: alone[4]}


def test_a_full_queue_takes_nothing_more_and_then_again(model):
    engine = start(model, max_batch=1, max_queue=2)
    events: queue.Queue = queue.Queue()
    long = row(0, max_new_tokens=900)
    engine.submit([long, long, long], events.put)
    with pytest.raises(QueueFullError):
        engine.submit([row(1)], events.put)
    engine.abort(0)
    assert len(write(engine, [row(1)])) == 1
    engine.stop()


def test_an_aborted_row_makes_room_and_the_others_go_on(engine, alone):
    events: queue.Queue = queue.Queue()
    number = engine.submit([row(5), row(0, max_new_tokens=900)], events.put)
    engine.abort(number, [1])
    texts: list[int] = []
    while len(texts) < len(alone[5]):
        event = events.get(timeout=60)
        if event.row == 0:
            texts.append(event.token_id)
    assert texts == alone[5]
    assert write(engine, [row(6)]) == [alone[6]]
    assert (engine.stats().waiting, engine.stats().running) == (0, 0)


def test_short_texts_without_end_do_not_hold_up_a_long_one(model, alone):
    engine, events, enough = start(model), queue.Queue(), threading.Event()
    short = row(0, max_new_tokens=1)

    def again(event: Token) -> None:
        if not enough.is_set():
            engine.submit([short], again)

    for _ in range(3):
        engine.submit([short], again)
    engine.submit([row(5)], events.put)
    try:
        assert [events.get(timeout=20).token_id for _ in alone[5]] == alone[5]
    finally:
        enough.set()
        engine.stop()


class Breaking:
    """A model whose scores are not finite for prompts that begin with 77."""

    def __init__(self, model) -> None:
        self._model = model
        self.config, self.device = model.config, model.device

    def new_cache(self, batch_size, capacity):
        return self._model.new_cache(batch_size, capacity)

    def extend(self, tokens_BT, positions_BT, cache, last_B):
        logits_BV = self._model.extend(tokens_BT, positions_BT, cache, last_B)
        logits_BV[tokens_BT[:, 0] == 77] = torch.nan
        return logits_BV


def test_scores_that_are_not_finite_fail_their_row_alone(model, alone):
    engine, events = start(Breaking(model)), queue.Queue()
    engine.submit([Row((77, 1), 0, GenerationSettings(max_new_tokens=5))], events.put)
    assert write(engine, [row(7)]) == [alone[7]]
    failure = events.get(timeout=60)
    assert isinstance(failure, Failure)
    assert "not finite" in str(failure.error)
    engine.stop()


class Scarce(Breaking):
    """A model on a device whose memory is full when the third row comes, or always."""

    def __init__(self, model, always: bool = False) -> None:
        super().__init__(model)
        self.always, self.num_caches = always, 0

    def new_cache(self, batch_size, capacity):
        self.num_caches += 1
        if self.always or self.num_caches == 3:
            raise torch.OutOfMemoryError
        return self._model.new_cache(batch_size, capacity)


def test_a_row_that_memory_has_no_room_for_waits_until_another_leaves(model, alone):
    engine = start(Scarce(model))
    assert write(engine, [row(number) for number in range(12)]) == alone[:12]
    assert engine.places == 2
    engine.stop()


def test_a_row_too_large_for_memory_by_itself_fails_alone(model):
    engine, events = start(Scarce(model, always=True)), queue.Queue()
    engine.submit([row(1)], events.put)
    assert "ask for fewer tokens" in str(events.get(timeout=60).error)
    assert (engine.stats().running, engine.stats().error) == (0, None)
    engine.stop()


class Crashing(Breaking):
    """A model that breaks down."""

    def extend(self, tokens_BT, positions_BT, cache, last_B):
        raise RuntimeError("the device is gone")


def test_an_engine_that_breaks_down_tells_whoever_waits_and_takes_no_more(model):
    engine, events = start(Crashing(model), max_batch=1), queue.Queue()
    engine.submit([row(1), row(2)], events.put)
    failures = [events.get(timeout=60), events.get(timeout=60)]
    assert [failure.row for failure in failures] == [0, 1]
    assert "the device is gone" in str(failures[0].error)
    assert isinstance(engine.stats().error, RuntimeError)
    with pytest.raises(PanguError, match="the device is gone"):
        engine.submit([row(1)], events.put)


class Stuck(Breaking):
    """A model that waits to be released."""

    def __init__(self, model) -> None:
        super().__init__(model)
        self.release = threading.Event()

    def extend(self, tokens_BT, positions_BT, cache, last_B):
        self.release.wait()
        return super().extend(tokens_BT, positions_BT, cache, last_B)


def test_work_without_a_token_counts_as_stalled_from_when_it_came(model):
    now = [100.0]
    stuck = Stuck(model)
    engine, events = start(stuck, clock=lambda: now[0]), queue.Queue()
    now[0] = 150.0
    assert engine.stats().stalled_seconds == 0
    engine.submit([row(1)], events.put)
    now[0] = 157.0
    assert engine.stats().stalled_seconds == 7
    assert engine.stats().idle_seconds == 57
    stuck.release.set()
    engine.stop()
