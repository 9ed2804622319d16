"""A call's first attempt as a race: where its request is late it is sent again, and one answer is taken.

Invariant: a second request never makes a call fail, or wait longer, that would be answered without it; each
of the two is an attempt with its own record. Does not retry, and no retry is hedged.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, Generic, TypeVar

from lc_service import clock
from lc_service.limits.hedge import Hedge
from lc_service.models.hedging import Attempt, Began, Hedging, hedging_of
from lc_service.models.pipeline import Call

T = TypeVar("T")

_LOSERS_SECONDS = 1.0
"""How long a cancelled loser's record is waited for; it comes later where something holds it up."""
_losers: set[asyncio.Task[Any]] = set()


def hedged(rules: Hedge | None, call: Call, attempt: Attempt[T]) -> Callable[[], T]:
    """Return `attempt` so that the first time it is called it is a race.

    A request that is raced runs in a thread of its own: one that lost cannot be stopped, so it ends and is
    counted when it is answered or times out.
    """
    hedging = hedging_of(rules, call)
    if hedging is None:
        return attempt

    def raced() -> T:
        if hedging.is_retry:
            return attempt()
        after_seconds = hedging.begin()
        if after_seconds is not None:
            return _Race(hedging, attempt).run(after_seconds)
        try:
            result = attempt(hedging.began)
        except Exception as error:
            hedging.failed([error])
            raise
        hedging.answered()
        return result

    return raced


def ahedged(rules: Hedge | None, call: Call, attempt: Attempt[Awaitable[T]]) -> Callable[[], Awaitable[T]]:
    """Return `attempt` so that the first time it is called it is a race; the loser is cancelled."""
    hedging = hedging_of(rules, call)
    if hedging is None:
        return attempt

    async def raced() -> T:
        if hedging.is_retry:
            return await attempt()
        after_seconds = hedging.begin()
        if after_seconds is not None:
            return await _AsyncRace(hedging, attempt).run(after_seconds)
        try:
            result = await attempt(hedging.began)
        except Exception as error:
            hedging.failed([error])
            raise
        hedging.answered()
        return result

    return raced


class _Race(Generic[T]):
    """One call's, between threads."""

    def __init__(self, hedging: Hedging, attempt: Attempt[T]) -> None:
        self._hedging = hedging
        self._attempt = attempt
        self._changed = threading.Event()
        self._has_begun = False
        self._runs: list[Future[T]] = []

    def run(self, after_seconds: float) -> T:
        try:
            first = self._send(self._began)
            while not (self._has_begun or first.done()):
                self._wait(None)
            while not first.done() and (seconds := self._hedging.seconds_left(after_seconds)) > 0:
                self._wait(seconds)
            if not first.done() and self._hedging.may_send():
                self._send(self._hedging.second_began)
            while not (answered := _answered(self._runs)) and not all(run.done() for run in self._runs):
                self._wait(None)
            if not answered:
                self._hedging.failed([run.exception() for run in self._runs])
                return first.result()
            self._hedging.answered()
            return answered[0].result()
        finally:
            self._hedging.end(len(self._runs))

    def _wait(self, seconds: float | None) -> None:
        clock.wait(self._changed, seconds)
        self._changed.clear()

    def _began(self) -> None:
        self._hedging.began()
        self._has_begun = True
        self._changed.set()

    def _send(self, began: Began) -> Future[T]:
        run: Future[T] = Future()
        self._runs.append(run)
        # Not a daemon: at the program's end a loser is still counted.
        threading.Thread(
            target=copy_context().run, args=(self._work, run, began), name="lc_service-hedge"
        ).start()
        return run

    def _work(self, run: Future[T], began: Began) -> None:
        try:
            run.set_result(self._attempt(began))
        except BaseException as error:  # noqa: BLE001  raised in the thread that called
            run.set_exception(error)
        finally:
            self._changed.set()


def _answered(runs: Sequence[Future[T]]) -> list[Future[T]]:
    return [run for run in runs if run.done() and run.exception() is None]


class _AsyncRace(Generic[T]):
    """One call's, between tasks."""

    def __init__(self, hedging: Hedging, attempt: Attempt[Awaitable[T]]) -> None:
        self._hedging = hedging
        self._attempt = attempt
        self._loop = asyncio.get_running_loop()
        self._changed: asyncio.Future[None] = self._loop.create_future()
        self._has_begun = False
        self._tasks: list[asyncio.Task[T]] = []

    async def run(self, after_seconds: float) -> T:
        try:
            first = self._send(self._began)
            while not (self._has_begun or first.done()):
                await self._wait(None)
            while not first.done() and (seconds := self._hedging.seconds_left(after_seconds)) > 0:
                await self._wait(seconds)
            if not first.done() and self._hedging.may_send():
                self._send(self._hedging.second_began)
            while not (answered := _won(self._tasks)) and not all(task.done() for task in self._tasks):
                await self._wait(None)
            if not answered:
                self._hedging.failed([_error(task) for task in self._tasks])
                return first.result()
            self._hedging.answered()
            return answered[0].result()
        except GeneratorExit:  # collected with its loop, and with them: nothing can be awaited
            self._tasks = []
            raise
        finally:
            self._hedging.end(len(self._tasks))
            await self._stop()

    async def _wait(self, seconds: float | None) -> None:
        await clock.async_wait(self._changed, seconds)
        self._changed = self._loop.create_future()

    def _change(self, _: object = None) -> None:
        if not self._changed.done():
            self._changed.set_result(None)

    def _began(self) -> None:
        self._hedging.began()
        self._has_begun = True
        self._change()

    def _send(self, began: Began) -> asyncio.Task[T]:
        task = self._loop.create_task(self._run(began))
        task.add_done_callback(self._change)
        self._tasks.append(task)
        return task

    async def _run(self, began: Began) -> T:
        return await self._attempt(began)

    async def _stop(self) -> None:
        """Cancel what still runs, and wait for its record."""
        losers = [task for task in self._tasks if not task.done()]
        for task in losers:
            _losers.add(task)
            task.add_done_callback(_forget)
            task.cancel()
        if losers:
            await asyncio.wait(losers, timeout=_LOSERS_SECONDS)
        for task in self._tasks:
            if task.done():
                _error(task)  # or asyncio would complain that nobody looked


def _won(tasks: Sequence[asyncio.Task[T]]) -> list[asyncio.Task[T]]:
    return [task for task in tasks if task.done() and _error(task) is None]


def _error(task: asyncio.Task[Any]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _forget(task: asyncio.Task[Any]) -> None:
    _losers.discard(task)
    _error(task)
