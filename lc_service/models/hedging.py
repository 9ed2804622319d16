"""What a call's hedging knows: when its first request began, what is learned of it, and what may be sent.

Invariant: a second request is taken from the allowance before it is sent, and given back where it was not.
Sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from lc_service import clock
from lc_service.limits.hedge import Hedge, Pace, pace_for
from lc_service.models.pipeline import Call
from lc_service.retry.errors import ErrorKind, classify

T_co = TypeVar("T_co", covariant=True)

Began = Callable[[], None]
"""Called where an attempt has its reservation and its place, and is about to send."""


def unwatched() -> None:
    """Nobody wants to know that an attempt began."""


class Attempt(Protocol[T_co]):
    """Makes one attempt, and says when it begins."""

    def __call__(self, began: Began = unwatched) -> T_co:
        """Make it; `began` is called once, or not at all where nothing could be sent."""
        ...


class TooLateError(ValueError):
    """Raise inside a second request's attempt that got its place after the first one was answered."""


class Hedging:
    """One call's. Belongs to it; what two threads do to it at once is one flag each.

    Attributes:
        is_retry: Whether the call has made an attempt.
        is_over: Whether one of its requests was answered, or both failed.
        is_second_begun: Whether the second request was sent.
    """

    def __init__(self, pace: Pace, call: Call) -> None:
        self._pace = pace
        self._call = call
        self._began_at = clock.now()
        self.is_retry = False
        self.is_over = False
        self.is_second_begun = False

    def begin(self) -> float | None:
        """Begin the call; return after how many seconds a second request may go, or None."""
        self.is_retry = True
        return self._pace.begin(clock.now())

    def began(self) -> None:
        """Take note that the first request goes out."""
        self._began_at = clock.now()

    def seconds_left(self, after_seconds: float) -> float:
        """Return how long the first request still has before it is late."""
        return self._began_at + after_seconds - clock.now()

    def second_began(self) -> None:
        """Take note that the second request goes out, or do not let it."""
        if self.is_over:
            raise TooLateError("The first request was answered before the second one could be sent.")
        self.is_second_begun = True

    def may_send(self) -> bool:
        """Whether a second request may go now; it is then used up."""
        limiter = self._call.limiter
        return (limiter is None or limiter.has_room) and self._pace.take(clock.now())

    def answered(self) -> None:
        """Learn how long the first good answer took."""
        self._pace.answered(clock.now() - self._began_at)

    def failed(self, errors: Sequence[BaseException | None]) -> None:
        """Learn from what the two requests ended in; the call goes on with the first one's."""
        for error in errors:
            if isinstance(error, Exception) and classify(error).kind is ErrorKind.RATE_LIMIT:
                self._pace.rejected(clock.now())
        if len(errors) == 2:
            self._call.last_error = errors[0]

    def end(self, count: int) -> None:
        """Give back a second request that was not sent."""
        self.is_over = True
        if count == 2 and not self.is_second_begun:
            self._pace.give_back()


def hedging_of(rules: Hedge | None, call: Call) -> Hedging | None:
    """Return what a call's hedging knows; None where the model has none."""
    if rules is None:
        return None
    request = call.request
    return Hedging(pace_for(rules, endpoint=str(request.server), model=request.model), call)
