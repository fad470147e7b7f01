"""The first engine: one thread, one batch that rows join and leave between two steps.

A prompt is read by itself, whatever else runs, and each row keeps its own rules and its own random
numbers: what a request gets does not depend on who else asks. Fast comes later.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from pangu_core.errors import PanguError
from pangu_core.generation.decoding import Decoder, ScoresError
from pangu_core.generation.language_model import LanguageModel
from pangu_core.service.engine import Deliver, Failure, QueueFullError, Row, Stats, Token

STOP_SECONDS = 5.0  # that a step may take at the end
SHARE_OF_NEWEST = 0.2  # in the mean of the rows' durations
logger = logging.getLogger(__name__)


@dataclass
class _Place:
    """A row on its way.

    Attributes:
        request: number of its request.
        index: its number in the request.
        row: what to write.
        deliver: where its tokens go.
        num_tokens: made so far.
        began: time of its first token.
        aborted: nobody wants the rest.
    """

    request: int
    index: int
    row: Row
    deliver: Deliver
    num_tokens: int = 0
    began: float = 0.0
    aborted: bool = False


class BatchEngine:
    """Runs a model in a thread of its own, from its making until ``stop``.

    Args:
        model: the model; nobody else may use it meanwhile.
        eod_id: the token that ends a text.
        max_batch: rows that run together; ``places`` falls below it if memory holds fewer.
        max_queue: rows that may wait besides.
        clock: seconds that only go up.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        eod_id: int,
        max_batch: int,
        max_queue: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model, self._eod_id, self._clock = model, eod_id, clock
        self.places, self.capacity = max_batch, max_batch + max_queue
        self._changed = threading.Condition()  # guards all below but the decoder
        self._waiting: deque[_Place] = deque()
        self._running: dict[int, _Place] = {}  # by the decoder's number
        self._entering: _Place | None = None
        self._next_request = 0
        self._num_tokens, self._row_seconds = 0, 0.0
        self._last_token = self._last_progress = clock()
        self._stopping = False
        self._error: BaseException | None = None
        self._decoder: Decoder | None = None  # the thread's own
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[Row], deliver: Deliver) -> int:
        """As ``Engine.submit``."""
        with self._changed:
            if self._error is not None:
                raise _broken(self._error)
            if self._num_rows() + len(rows) > self.capacity:
                raise QueueFullError
            if not self._num_rows():
                self._last_progress = self._clock()
            number = self._next_request
            self._next_request += 1
            places = [_Place(number, index, row, deliver) for index, row in enumerate(rows)]
            self._waiting.extend(places)
            self._changed.notify()
            return number

    def abort(self, request: int, rows: Collection[int] | None = None) -> None:
        """As ``Engine.abort``."""
        with self._changed:
            for place in self._all():
                if place.request == request and (rows is None or place.index in rows):
                    place.aborted = True
            self._waiting = deque(place for place in self._waiting if not place.aborted)

    def stats(self) -> Stats:
        """As ``Engine.stats``."""
        with self._changed:
            now = self._clock()
            return Stats(
                waiting=len(self._waiting),
                running=self._num_rows() - len(self._waiting),
                num_tokens=self._num_tokens,
                row_seconds=self._row_seconds,
                idle_seconds=now - self._last_token,
                stalled_seconds=now - self._last_progress if self._num_rows() else 0.0,
                error=self._error,
            )

    def stop(self) -> None:
        """As ``Engine.stop``; waits for the step that is being made, but not for ever."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(STOP_SECONDS)

    def _num_rows(self) -> int:
        return len(self._waiting) + len(self._running) + (self._entering is not None)

    def _all(self) -> Iterator[_Place]:
        yield from self._running.values()
        if self._entering is not None:
            yield self._entering
        yield from self._waiting

    def _work(self) -> None:
        """The thread: until it is stopped, or until something breaks that no row is to blame for."""
        try:
            while self._has_work():
                self._let_go()
                self._let_in()
                if self._decoder is not None:
                    self._step(self._decoder)
        except Exception as error:  # the border of the thread: whoever waits must hear of it
            logger.exception("the engine ends")
            self._give_up(error)

    def _has_work(self) -> bool:
        """Wait for some; false: stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._waiting or self._running)
            return not self._stopping

    def _let_go(self) -> None:
        """Take rows out that nobody wants any more."""
        with self._changed:
            self._remove({n for n, place in self._running.items() if place.aborted})

    def _remove(self, numbers: Collection[int]) -> None:
        for number in numbers:
            del self._running[number]
        if self._decoder is not None:
            self._decoder.drop(numbers)
            if not self._running:
                self._decoder = None

    def _let_in(self) -> None:
        """Let rows join: no more than there are places, as those that run wait for this.

        A row may end with its first token, so places do not fill up by letting rows in.
        """
        for _ in range(self.places - len(self._running)):
            if not self._take_next():
                return
            self._enter()

    def _take_next(self) -> bool:
        """Move the row that waits longest to the door, if there is a place for it."""
        with self._changed:
            if self._stopping or not self._waiting or len(self._running) >= self.places:
                return False
            self._entering = self._waiting.popleft()
            return True

    def _enter(self) -> None:
        """Read a prompt, and let the row join the batch with its first token."""
        place = self._entering
        assert place is not None
        try:
            number, token = self._join(place.row)
        except ScoresError as error:
            self._turn_away(place, error)
        except torch.OutOfMemoryError:
            self._make_do(place)
        else:
            with self._changed:
                self._entering = None
                self._running[number] = place
            self._hand_out({number: token})

    def _join(self, row: Row) -> tuple[int, int]:
        """The row's number in the batch, and its first token."""
        newcomer = Decoder(self._model, [row.prompt], [row.stream], row.settings)
        [token] = newcomer.step().values()
        if self._decoder is None:
            self._decoder = newcomer
            return newcomer.rows[0], token
        [number] = self._decoder.join(newcomer).values()
        return number, token

    def _turn_away(self, place: _Place, error: PanguError) -> None:
        with self._changed:
            self._entering = None
        place.deliver(Failure(place.index, error))

    def _make_do(self, place: _Place) -> None:
        """As many rows as run now are what memory holds: the newcomer waits for one to leave."""
        if not self._running:
            self._turn_away(place, _no_memory(place.row))
            return
        logger.warning("memory holds %d texts, not %d", len(self._running), self.places)
        with self._changed:
            self.places = len(self._running)
            self._entering = None
            self._waiting.appendleft(place)

    def _step(self, decoder: Decoder) -> None:
        """A token for every running row."""
        try:
            tokens = decoder.step()
        except ScoresError as error:
            with self._changed:
                broken = [self._running[number] for number in error.rows]
                self._remove(error.rows)
            for place in broken:
                place.deliver(Failure(place.index, error))
        else:
            self._hand_out(tokens)

    def _hand_out(self, tokens: Mapping[int, int]) -> None:
        """Deliver a token to each of some rows, and take those out that it ends."""
        now, ended = self._clock(), []
        for number, token in tokens.items():
            place = self._running[number]
            place.num_tokens += 1
            place.began = place.began or now
            if token == self._eod_id or place.num_tokens == place.row.settings.max_new_tokens:
                ended.append(number)
            if not place.aborted:
                place.deliver(Token(place.index, token))
        with self._changed:
            self._num_tokens += len(tokens)
            self._last_token = self._last_progress = now
            for number in ended:
                took = now - self._running[number].began
                mean = self._row_seconds or took
                self._row_seconds = mean + SHARE_OF_NEWEST * (took - mean)
            self._remove(ended)

    def _give_up(self, error: Exception) -> None:
        """Tell every row, and keep the error for whoever asks."""
        with self._changed:
            self._error = error
            places = list(self._all())
            self._waiting.clear()
            self._running.clear()
            self._entering = None
        for place in places:
            place.deliver(Failure(place.index, _broken(error)))


def _no_memory(row: Row) -> PanguError:
    return PanguError(
        "memory",
        seen=f"too little for {len(row.prompt)} tokens and {row.settings.max_new_tokens} new ones",
        rule="must hold the keys and values of one text at least",
        fix="ask for fewer tokens, or serve on a larger device",
    )


def _broken(error: BaseException) -> PanguError:
    return PanguError(
        "engine",
        seen=f"{type(error).__name__}: {error}",
        rule="must not end while requests run",
        fix="send the request again; the service's log has the traceback",
    )
