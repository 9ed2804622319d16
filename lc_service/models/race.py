"""A call's first attempt as a race: where its request is late it is sent again, and one answer is taken.

Invariant: a second request never makes a call fail, or wait longer, that would be answered without it; each
of the two is an attempt with its own record. Does not retry, and no retry is hedged.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from contextvars import copy_context
from typing import Any, Protocol, TypeVar

from langchain_core.rate_limiters import BaseRateLimiter

from lc_service import clock
from lc_service.limits.hedge import Hedge
from lc_service.models.hedging import Begins, Hedging, Race, hedging_of
from lc_service.models.pipeline import Call, unwatched

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_LOSERS_SECONDS = 1.0
"""How long a cancelled loser's record is waited for; it comes later where something holds it up."""
_tasks: set[asyncio.Task[Any]] = set()


class Attempt(Protocol[T_co]):
    """Makes one attempt."""

    def __call__(self, begins: Begins = unwatched) -> T_co:
        """Make it; `begins` is called just before it is sent."""
        ...


def hedged(
    rules: Hedge | None, call: Call, attempt: Attempt[T], rate_limiter: BaseRateLimiter | None = None
) -> Callable[[], T]:
    """Return `attempt` so that the first time it is called it is a race.

    A request that is raced runs in a thread of its own: one that lost cannot be stopped, so it ends and is
    counted when it is answered or times out.
    """
    hedging = hedging_of(rules, call, rate_limiter)
    if hedging is None:
        return attempt

    def raced() -> T:
        if (after_seconds := hedging.begin()) is not None:
            return _race(hedging, attempt, after_seconds)
        with hedging.learning():
            return attempt(hedging.begins)

    return raced


def ahedged(
    rules: Hedge | None,
    call: Call,
    attempt: Attempt[Awaitable[T]],
    rate_limiter: BaseRateLimiter | None = None,
) -> Callable[[], Awaitable[T]]:
    """Return `attempt` so that the first time it is called it is a race; the loser is cancelled."""
    hedging = hedging_of(rules, call, rate_limiter)
    if hedging is None:
        return attempt

    async def raced() -> T:
        if (after_seconds := hedging.begin()) is not None:
            return await _arace(hedging, attempt, after_seconds)
        with hedging.learning():
            return await attempt(hedging.begins)

    return raced


def _race(hedging: Hedging, attempt: Attempt[T], after_seconds: float) -> T:
    changed = threading.Event()

    def send(begins: Begins) -> Future[T]:
        run: Future[T] = Future()
        run.add_done_callback(lambda _: changed.set())
        # Not a daemon: at the program's end a loser is still counted.
        thread = threading.Thread(
            target=copy_context().run, args=(_work, run, attempt, begins, changed), name="lc_service-hedge"
        )
        try:
            thread.start()
        except RuntimeError:  # there are too many, or the interpreter shuts down
            _work(run, attempt, begins, changed)
        return run

    race = Race(hedging, send)
    with closing(race.waits(after_seconds)) as waits:
        for seconds in waits:
            clock.wait(changed, seconds)
            changed.clear()
    return race.result()


def _work(run: Future[T], attempt: Attempt[T], begins: Begins, changed: threading.Event) -> None:
    def begun() -> None:
        begins()
        changed.set()

    try:
        run.set_result(attempt(begun))
    except BaseException as error:  # noqa: BLE001  raised in the thread that called
        run.set_exception(error)
        del run  # a cycle: the error's traceback holds this frame


async def _arace(hedging: Hedging, attempt: Attempt[Awaitable[T]], after_seconds: float) -> T:
    loop = asyncio.get_running_loop()
    changed: asyncio.Future[None] = loop.create_future()
    tasks: list[asyncio.Task[T]] = []

    def change(_: object = None) -> None:
        if not changed.done():
            changed.set_result(None)

    def send(begins: Begins) -> asyncio.Task[T]:
        def begun() -> None:
            begins()
            change()

        task = asyncio.ensure_future(_awaited(attempt, begun))
        for done in (change, _looked_at):
            task.add_done_callback(done)
        _tasks.add(task)
        tasks.append(task)
        return task

    race = Race(hedging, send)
    try:
        with closing(race.waits(after_seconds)) as waits:
            for seconds in waits:
                await clock.async_wait(changed, seconds)
                changed = loop.create_future()
        return race.result()
    except GeneratorExit:  # collected with its loop, and with them: nothing can be awaited
        tasks.clear()
        raise
    finally:
        await _stop(tasks)
        tasks.clear()  # they hold the error that is raised here, whose traceback holds this frame


async def _awaited(attempt: Attempt[Awaitable[T]], begins: Begins) -> T:
    return await attempt(begins)


async def _stop(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what still runs, and wait for its record."""
    losers = [task for task in tasks if not task.done()]
    for task in losers:
        task.cancel()
    if losers:
        await asyncio.wait(losers, timeout=_LOSERS_SECONDS)


def _looked_at(task: asyncio.Task[Any]) -> None:
    """Let go of a task that is done, and do not let asyncio complain that nobody looked at its error."""
    _tasks.discard(task)
    if not task.cancelled():
        task.exception()
