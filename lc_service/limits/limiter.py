"""One line for threads and tasks: they post what happens, and whoever holds the lock carries it out.

Invariant: nothing here blocks but the wait for one's own turn. A stream that the garbage collector closes in
the midst of anything, this module included, only posts. Decides nothing: that is the admission's.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lc_service import clock
from lc_service.limits.admission import Admission, Outcome
from lc_service.limits.mirror import Mark
from lc_service.limits.rate_limits import LEARNED, RateLimits
from lc_service.limits.told import Told
from lc_service.retry.exceptions import RequestExceedsLimitError


class Permit:
    """One attempt's place in the line, then its leave to send. Belongs to that attempt.

    Attributes:
        tokens: What it is charged.
        party: The thread and task that asks.
        is_retry: Whether its call was admitted before: it goes to the head of the line.
        is_admitted: Whether it may send.
        ready_at: When the first in the line is to look again; None where something must end first.
        marks: What was taken for it; empty before it is admitted, and when it is settled.
        told: What the headers of its response told.
    """

    def __init__(self, limiter: RateLimiter, tokens: int, *, is_retry: bool) -> None:
        self.tokens = tokens
        self.party = _party()
        self.is_retry = is_retry
        self.is_admitted = False
        self.ready_at: float | None = None
        self.marks: Sequence[Mark] = ()
        self.told: Sequence[Told | None] = ()
        self.alarm: Callable[[], bool] | None = None
        self._limiter = limiter

    def wake(self) -> bool:
        """Let whoever waits look again; False where its event loop is closed."""
        return self.alarm is None or self.alarm()

    def send(self) -> None:
        """Say that the request goes out now; never blocks."""
        self._limiter.post(self._limiter.admission.send, self)

    def see(self, headers: Mapping[str, str]) -> None:
        """Show the headers of the response; never blocks."""
        self._limiter.post(self._limiter.admission.see, self, headers)

    def settle(self, outcome: Outcome) -> None:
        """End it, once; never blocks."""
        self._limiter.post(self._limiter.admission.settle, self, outcome)


class RateLimiter:
    """Keeps attempts within what a server allows, and learns that from it.

    Requests, tokens and concurrency are admitted in one step and in the order of arrival. Share it between
    threads, tasks and event loops.

    Args:
        limits: Caps on what is learned.
    """

    def __init__(self, limits: RateLimits = LEARNED) -> None:
        self.admission = Admission(limits, clock.now())
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._lock = threading.Lock()

    @property
    def has_room(self) -> bool:
        """Whether nobody waits: what is not urgent may go."""
        return not self.admission.waiting_count

    def acquire(self, tokens: int, *, least_tokens: int = 0, is_retry: bool = False) -> Permit:
        """Wait in line for leave to send one request.

        Args:
            tokens: What it is going to take, input and output.
            least_tokens: What a server charges for it at least, to tell at once what can never fit.
            is_retry: Whether the call was admitted before.

        Returns:
            The permit, to be settled whatever happens.

        Raises:
            RequestExceedsLimitError: It can never fit a minute's limit of tokens. Nothing has been sent.
        """
        permit = self._join(tokens, least_tokens, is_retry=is_retry)
        if not permit.is_admitted:
            self._wait(permit)
        return permit

    async def aacquire(self, tokens: int, *, least_tokens: int = 0, is_retry: bool = False) -> Permit:
        """Wait in line for leave to send one request; as `acquire`."""
        permit = self._join(tokens, least_tokens, is_retry=is_retry)
        if not permit.is_admitted:
            await self._await(permit)
        return permit

    def _wait(self, permit: Permit) -> None:
        event = threading.Event()
        permit.alarm = _ringing(event)
        try:
            while not permit.is_admitted:
                clock.wait(event, _seconds_left(permit))
                event.clear()
                self.post(self.admission.admit)
        except BaseException:
            self.post(self.admission.leave, permit)
            raise

    async def _await(self, permit: Permit) -> None:
        alarm = _TaskAlarm()
        permit.alarm = alarm.ring
        try:
            while not permit.is_admitted:
                await alarm.wait(permit)
                self.post(self.admission.admit)
        except BaseException:
            self.post(self.admission.leave, permit)
            raise

    def _join(self, tokens: int, least_tokens: int, *, is_retry: bool) -> Permit:
        if (limit := self.admission.never_fits(tokens, least_tokens, clock.now())) is not None:
            raise RequestExceedsLimitError(requested_tokens=tokens, tokens_per_minute=limit)
        permit = Permit(self, tokens, is_retry=is_retry)
        self.post(self.admission.join, permit)
        return permit

    def post(self, step: Callable[..., None], *args: Any) -> None:
        """Have `step(*args, now)` carried out: here and now, or by whoever is at it."""
        self._inbox.append((step, args))
        while self._inbox and self._lock.acquire(blocking=False):
            try:
                while self._inbox:
                    todo, given = self._inbox.popleft()
                    todo(*given, clock.now())
            finally:
                self._lock.release()


def _party() -> tuple[int, int]:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        task = None
    return threading.get_ident(), id(task)


def _seconds_left(permit: Permit) -> float | None:
    ready_at = permit.ready_at
    return None if ready_at is None else max(0.0, ready_at - clock.now())


def _ringing(event: threading.Event) -> Callable[[], bool]:
    def ring() -> bool:
        event.set()
        return True

    return ring


class _TaskAlarm:
    """Wakes one task, from its own thread or from another."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._future = self._loop.create_future()

    async def wait(self, permit: Permit) -> None:
        if self._future.done():
            self._future = self._loop.create_future()
            if permit.is_admitted:  # rung in between
                return
        await clock.async_wait(self._future, _seconds_left(permit))

    def ring(self) -> bool:
        if self._loop.is_closed():
            return False
        if threading.get_ident() == self._thread_id:
            self._finish()
            return True
        try:
            self._loop.call_soon_threadsafe(self._finish)
        except RuntimeError:  # closed in between
            return False
        return True

    def _finish(self) -> None:
        if not self._future.done():
            self._future.set_result(None)
