"""What a call's hedging knows and decides: when its request is late, and whether a second one may be sent.

Invariant: a second request is taken from the allowance before it is sent, and given back where it was not.
Sends nothing, and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from langchain_core.rate_limiters import BaseRateLimiter

from lc_service import clock
from lc_service.limits.hedge import Hedge, Pace, pace_for
from lc_service.models.pipeline import Call
from lc_service.retry.errors import ErrorKind, classify

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Begins = Callable[[], None]
"""Called where an attempt is about to be sent; it is not, where this raises."""


class TooLateError(Exception):
    """Raise where a request got its turn to be sent after its race was over."""


class Run(Protocol[T_co]):
    """A request under way: a thread's future, or a task."""

    def done(self) -> bool:
        """Whether it has ended."""
        ...

    def cancelled(self) -> bool:
        """Whether somebody else stopped it."""
        ...

    def exception(self) -> BaseException | None:
        """What it raised, once it has ended."""
        ...

    def result(self) -> T_co:
        """Return or raise what it ended with."""
        ...


class Hedging:
    """One call's. Belongs to it.

    Args:
        pace: What the calls of its endpoint and model share.
        call: The call.
        rate_limiter: LangChain's, which is asked for each request, where the model has one.
    """

    def __init__(self, pace: Pace, call: Call, rate_limiter: BaseRateLimiter | None) -> None:
        self._pace = pace
        self._call = call
        self._rate_limiter = rate_limiter
        self._is_retry = False
        self._began_at: float | None = None

    @property
    def is_answered(self) -> bool:
        """Whether a request has had a good answer, though it may not have been handed over yet."""
        return self._call.is_answered

    def begin(self) -> float | None:
        """Begin an attempt; return after how many seconds it is late, or None where that changes nothing."""
        if self._is_retry:
            return None
        self._is_retry = True
        return self._pace.begin(clock.now())

    def begins(self) -> None:
        """Take note that the request goes out."""
        self._began_at = clock.now()

    def seconds_left(self, after_seconds: float) -> float | None:
        """Return how long the request still has before it is late; None while it waits for its turn."""
        if self._began_at is None:
            return None
        return max(0.0, self._began_at + after_seconds - clock.now())

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Learn from how the attempt in this block ends."""
        try:
            yield
        except Exception as error:
            self.failed([error])
            raise
        self.answered()

    def take(self) -> bool:
        """Take a second request from the allowance, and say whether there was one, and room for it."""
        limiter = self._call.limiter
        if (limiter is not None and not limiter.has_room) or not self._pace.take(clock.now()):
            return False
        if self._rate_limiter is None or self._rate_limiter.acquire(blocking=False):
            return True
        self._pace.give_back()
        return False

    def give_back(self) -> None:
        """Take note that the second request was not sent."""
        self._pace.give_back()

    def answered(self, errors: Sequence[BaseException | None] = ()) -> None:
        """Learn how long the first good answer took, and from what became of the other request by then."""
        if self._began_at is not None:
            self._pace.answered(clock.now() - self._began_at)
        self._see_rejections(errors)

    def _see_rejections(self, errors: Sequence[BaseException | None]) -> None:
        for error in errors:
            if isinstance(error, Exception) and classify(error).kind is ErrorKind.RATE_LIMIT:
                self._pace.rejected(clock.now())

    def failed(self, errors: Sequence[BaseException | None]) -> None:
        """Learn from what the call's requests ended in; the call goes on with the first one's."""
        self._see_rejections(errors)
        if len(errors) == 2:
            self._call.last_error = errors[0]


class Race(Generic[T]):
    """One or two requests for one answer. Belongs to a call; two threads at once only set a flag each.

    Args:
        hedging: The call's.
        send: Begins a request, which calls what it is given before it is sent.
    """

    def __init__(self, hedging: Hedging, send: Callable[[Begins], Run[T]]) -> None:
        self._hedging = hedging
        self._send = send
        self._is_over = False
        self._is_second_begun = False
        self._outcomes: list[Run[T]] = []

    def waits(self, after_seconds: float) -> Generator[float | None]:
        """Run it: yield how many seconds to wait for something to happen, or None for as long as it takes.

        Close it, whatever happens: what was not sent by then never is.
        """
        runs = [first := self._send(self._first_begins)]
        try:
            while not first.done() and (seconds := self._hedging.seconds_left(after_seconds)) != 0:
                yield seconds
            if not first.done() and self._hedging.take():
                runs.append(self._send(self._second_begins))
            while not any(map(_is_answered, runs)) and not all(run.done() for run in runs):
                yield None
        finally:
            self._is_over = True
            if len(runs) == 2 and not self._is_second_begun:
                self._hedging.give_back()
        answered = list(filter(_is_answered, runs))
        errors = [None if not run.done() or run.cancelled() else run.exception() for run in runs]
        if answered:
            self._hedging.answered(errors)
        else:
            self._hedging.failed(errors)
        self._outcomes.append((answered or runs)[0])

    def result(self) -> T:
        """Return or raise what the call ended with, once, when `waits` has ended."""
        # Taken out: an error's traceback holds frames that hold this race, and would be a cycle.
        return self._outcomes.pop().result()

    def _first_begins(self) -> None:
        self._require_running()
        self._hedging.begins()

    def _second_begins(self) -> None:
        self._is_second_begun = True  # before looking: it is never both sent and given back
        self._require_running()

    def _require_running(self) -> None:
        if self._is_over or self._hedging.is_answered:
            raise TooLateError("Nobody waits for the answer any more.")


def _is_answered(run: Run[object]) -> bool:
    return run.done() and not run.cancelled() and run.exception() is None


def hedging_of(rules: Hedge | None, call: Call, rate_limiter: BaseRateLimiter | None) -> Hedging | None:
    """Return what a call's hedging knows; None where the model has none."""
    if rules is None:
        return None
    request = call.request
    return Hedging(pace_for(rules, endpoint=str(request.server), model=request.model), call, rate_limiter)
