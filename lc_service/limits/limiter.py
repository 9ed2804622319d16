"""One line for threads and tasks: they post what happens, and whoever holds the lock carries it out.

Invariant: nothing here blocks but the wait for one's own turn. A stream that the garbage collector closes in
the midst of anything, this module included, only posts. Decides nothing: that is the admission's.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from lc_service import clock
from lc_service.limits.admission import Admission, Outcome
from lc_service.limits.alarm import TaskAlarm, ThreadAlarm
from lc_service.limits.mirror import Mark
from lc_service.limits.rate_limits import LEARNED, RateLimits
from lc_service.limits.told import Told
from lc_service.retry.exceptions import RequestExceedsLimitError

_LONGEST_SECONDS = 3_600.0
"""After it somebody who waits looks again, whatever he was told: clocks take no number of seconds."""

_asker: ContextVar[tuple[int, int | None] | None] = ContextVar("asker", default=None)


@contextmanager
def asking() -> Iterator[None]:
    """Let a task that is started in this block, and waited for, ask in the name of this one."""
    token = _asker.set((threading.get_ident(), _task_id()))
    try:
        yield
    finally:
        _asker.reset(token)


class Permit:
    """One attempt's place in the line, then its leave to send. Belongs to that attempt.

    Attributes:
        tokens: What it is charged.
        thread_id: The thread that asks.
        party: That, and the task that asks; of whoever blocks an event loop, one of that loop's.
        is_retry: Whether its call was admitted before: it goes to the head of the line.
        is_admitted: Whether it may send.
        ready_at: When the first in the line is to look again; None where something must end first.
        marks: What was taken for it; empty before it is admitted, and when it is settled.
        told: What the headers of its response told.
    """

    def __init__(self, limiter: RateLimiter, tokens: int, *, is_retry: bool) -> None:
        self.tokens = tokens
        self.thread_id = threading.get_ident()
        self.party: Hashable = _asker.get() or (self.thread_id, _task_id())
        self.is_retry = is_retry
        self.is_admitted = False
        self.ready_at: float | None = None
        self.marks: Sequence[Mark] = ()
        self.told: Sequence[Told | None] = ()
        self._alarm: Callable[[], ThreadAlarm | TaskAlarm | None] = _no_alarm
        self._limiter = limiter

    def wait_with(self, alarm: ThreadAlarm | TaskAlarm) -> None:
        """Be woken by `alarm`, which is not kept: a task that nobody else knows any more can be collected."""
        self._alarm = weakref.ref(alarm)

    def wake(self) -> bool:
        """Let whoever waits look again; False where its event loop is closed."""
        if self.is_gone:
            return False
        if (alarm := self._alarm()) is not None:  # else it is awake, or leaves the line by itself
            alarm.set()
        return True

    @property
    def is_gone(self) -> bool:
        """Whether its event loop is closed: it will never look again."""
        alarm = self._alarm()
        return isinstance(alarm, TaskAlarm) and alarm.loop.is_closed()

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
        permit = self._permit(tokens, least_tokens, is_retry=is_retry)
        try:
            self.post(self._join if _running_loop() is None else self._join_first, permit)
            while not permit.is_admitted:
                alarm = ThreadAlarm()
                permit.wait_with(alarm)
                if not permit.is_admitted:  # else it may have happened with nobody to ring for
                    clock.wait(alarm, _seconds_left(permit))
                    self._look(permit)
        except BaseException:
            self.post(self.admission.leave, permit)
            raise
        return permit

    async def aacquire(self, tokens: int, *, least_tokens: int = 0, is_retry: bool = False) -> Permit:
        """Wait in line for leave to send one request; as `acquire`."""
        permit = self._permit(tokens, least_tokens, is_retry=is_retry)
        try:
            self.post(self._join, permit)
            if not permit.is_admitted:
                alarm = TaskAlarm()
                permit.wait_with(alarm)
                while not permit.is_admitted:
                    await clock.async_wait(alarm.future, _seconds_left(permit))
                    self._look(permit)
                    alarm.renew()  # what rang until here is read off the permit
        except BaseException:
            self.post(self.admission.leave, permit)
            raise
        return permit

    def _permit(self, tokens: int, least_tokens: int, *, is_retry: bool) -> Permit:
        if (limit := self.admission.never_fits(tokens, least_tokens, clock.now())) is not None:
            raise RequestExceedsLimitError(requested_tokens=tokens, tokens_per_minute=limit)
        return Permit(self, tokens, is_retry=is_retry)

    def _look(self, permit: Permit) -> None:
        # Whoever carries it out says when to look again, and rings: until then there is nothing to look at.
        permit.ready_at = None
        self.post(self.admission.admit)

    def _join(self, permit: Permit, now: float) -> None:
        while isinstance(first := self.admission.first, Permit) and first.is_gone:
            self.admission.leave(first, now)
        self.admission.join(permit, now)

    def _join_first(self, permit: Permit, now: float) -> None:
        """Let in what blocks an event loop before all that waits in that loop, and beyond its places."""
        held = (party for party in self.admission.parties if isinstance(party, tuple))
        permit.party = next((party for party in held if party[0] == permit.thread_id), permit.party)
        self._join(permit, now)
        if not permit.is_admitted:
            self.admission.put_first(permit, now)

    def post(self, step: Callable[..., None], *args: Any) -> None:
        """Have `step(*args, now)` carried out: here and now, or by whoever is at it."""
        self._inbox.append((step, args))
        self._carry_out()

    def _carry_out(self) -> None:
        while self._inbox and self._lock.acquire(blocking=False):
            is_done = False
            try:
                while self._inbox:
                    todo, given = self._inbox.popleft()
                    todo(*given, clock.now())
                is_done = True
            finally:
                self._lock.release()
                if not is_done:  # a Ctrl-C in one step is no reason to leave the others undone
                    self._carry_out()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _task_id() -> int | None:
    return None if _running_loop() is None else id(asyncio.current_task())


def _seconds_left(permit: Permit) -> float | None:
    ready_at = permit.ready_at
    return None if ready_at is None else min(max(0.0, ready_at - clock.now()), _LONGEST_SECONDS)


def _no_alarm() -> None:
    return None
