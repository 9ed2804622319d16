"""Who waits for a budget's room, and who holds it: first come, first served, threads and tasks alike.

Invariant: only the first in the line may take room, and whatever makes room wakes it. Takes no lock, so a
stream that the garbage collector closes in the midst of anything can give back what it holds. Does no sums.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from concurrent.futures import Future
from datetime import datetime
from typing import Any, NamedTuple, Self

from lc_service import clock
from lc_service.accounting.spending import Amount, AttemptRequest


class Party(NamedTuple):
    """Who waits or holds: a thread, and the task that runs in it.

    Weak references: a budget must not keep alive a task whose end would give room back.
    """

    thread: weakref.ref[threading.Thread]
    task: weakref.ref[asyncio.Task[Any]] | None

    @classmethod
    def current(cls) -> Self:
        """Return whoever calls this."""
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no event loop runs in this thread
            task = None
        party = cls(weakref.ref(threading.current_thread()), None if task is None else weakref.ref(task))
        hash(party)  # a reference that was hashed can still be looked up when its object is gone
        return party


class Hold:
    """Room in one budget for one attempt.

    Attributes:
        request: The attempt.
        amount: How much.
        since: When the period began that it counts for; None where the budget has no periods.
        party: Who asked for it.
    """

    __slots__ = ("_unclaimed", "amount", "party", "request", "since")

    def __init__(self, request: AttemptRequest, amount: Amount, since: datetime | None, party: Party) -> None:
        self.request = request
        self.amount = amount
        self.since = since
        self.party = party
        self._unclaimed = [True]

    def claim(self) -> bool:
        """Say yes to the first who wants to end it and to nobody else; taking from a list is atomic."""
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False


class Turn:
    """A place in the line."""

    def __init__(self, party: Party, *, is_async: bool) -> None:
        self.party = party
        self.is_async = is_async
        self.stopped = party.task if is_async and party.task is not None else party.thread
        self.joined_at = clock.now()
        self.is_refused = False  # whether there was no room when it asked last, as the first
        self.rearm()

    def rearm(self) -> None:
        """Note from now on whether something makes room."""
        self.is_refused = False
        self._future: Future[None] = Future()
        self._asleep = [self._future]

    @property
    def is_woken(self) -> bool:
        """Whether something made room since `rearm`."""
        return not self._asleep

    def wake(self) -> None:
        """End the wait, or the one that is about to begin."""
        with contextlib.suppress(IndexError):  # woken before
            self._asleep.pop().set_result(None)

    def wait(self, seconds: float) -> None:
        """Block this thread until `wake`, for `seconds` at most."""
        with contextlib.suppress(TimeoutError):
            self._future.result(seconds)

    async def async_wait(self, seconds: float) -> None:
        """Suspend this task until `wake`, for `seconds` at most."""
        loop = asyncio.get_running_loop()
        awaited = loop.create_future()
        weak = weakref.ref(awaited)  # or the line would keep alive a task whose event loop is gone

        def wake(_: Future[None]) -> None:
            with contextlib.suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(_finish, weak)

        self._future.add_done_callback(wake)
        await asyncio.wait([awaited], timeout=seconds)


def _finish(weak: weakref.ref[asyncio.Future[None]]) -> None:
    if (awaited := weak()) is not None and not awaited.done():
        awaited.set_result(None)


class Pause(NamedTuple):
    """The step that waits for one's turn, for `seconds` at most."""

    turn: Turn
    seconds: float

    def run(self) -> None:
        """Block this thread."""
        self.turn.wait(self.seconds)

    async def arun(self) -> None:
        """Suspend this task."""
        await self.turn.async_wait(self.seconds)


class WaitingLine:
    """The turns, in order, and the holds that are open. Every step of it is atomic by itself."""

    def __init__(self) -> None:
        self._turns: deque[Turn] = deque()
        self._holds: dict[Hold, None] = {}
        # Threads and tasks that wait. Each of them does so once at a time.
        self._stopped: set[weakref.ref[Any]] = set()
        self.moved_at = float("-inf")
        """When room was last given back, by `clock.now`."""

    def join(self, party: Party, *, is_async: bool) -> Turn:
        """Stand in line, last."""
        turn = Turn(party, is_async=is_async)
        self._stopped.add(turn.stopped)
        self._turns.append(turn)
        return turn

    def leave(self, turn: Turn) -> None:
        """Step out, wherever `turn` stands, and let the next one try."""
        self._stopped.discard(turn.stopped)
        self._turns.remove(turn)
        self.wake_first()

    def is_first(self, turn: Turn) -> bool:
        """Say whether it is the one who may take room."""
        return self._turns[0] is turn

    def wake_first(self) -> None:
        """Let the first try again."""
        with contextlib.suppress(IndexError):  # nobody waits
            self._turns[0].wake()

    def opened(self, hold: Hold) -> None:
        """Note who holds room."""
        self._holds[hold] = None

    def closed(self, hold: Hold) -> None:
        """Note that `hold` is no more; to be called after its room is free."""
        self.moved_at = clock.now()
        self.wake_first()
        self._holds.pop(hold, None)  # last: `is_stuck` relies on it

    def open_holds(self) -> list[Hold]:
        """Return what is held by this process."""
        return list(self._holds)

    def is_stuck(self, turn: Turn) -> bool:
        """Say whether all room is held by those who wait in this line, `turn` among them: no wait would end.

        A thread that waits stops all its tasks; a task that waits stops itself, and the program that runs
        its event loop.
        """
        holds = list(self._holds)  # before the turns: whatever is gone from here has woken the first
        if not holds or not all(self._is_stopped(hold.party, turn) for hold in holds):
            return False
        first = self._turns[0]
        return first.is_refused and not first.is_woken

    def _is_stopped(self, holder: Party, turn: Turn) -> bool:
        if holder.thread in self._stopped:
            return True
        if holder.task is not None:
            return holder.task in self._stopped
        return turn.is_async and turn.party.thread() is holder.thread()
