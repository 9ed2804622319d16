"""One limiter for threads and tasks: nobody waits for ever, wakes in vain, or keeps a place."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from lc_service import clock
from lc_service.limits.admission import Outcome
from lc_service.limits.limiter import Permit, RateLimiter
from lc_service.limits.rate_limits import RateLimits
from lc_service.retry.exceptions import RequestExceedsLimitError

DONE = Outcome(is_admitted=True, used_tokens=0)


def alone() -> RateLimiter:
    return RateLimiter(RateLimits(max_concurrency=1))


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.001)


async def soon(condition: Callable[[], Any]) -> None:
    for _ in range(5_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come to pass")


def waiting(limiter: RateLimiter) -> int:
    return limiter.admission.waiting_count


def assert_idle(limiter: RateLimiter) -> None:
    assert waiting(limiter) == 0
    assert limiter.admission.in_flight_count == 0
    assert limiter.admission._places == {}
    assert not limiter._inbox
    assert not limiter._lock.locked()


@contextmanager
def elsewhere(function: Callable[[], Any]) -> Iterator[Any]:
    """Run it in a thread of its own meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function)
        yield future
        future.result(10)


@contextmanager
def switching_often() -> Iterator[None]:
    """Let threads interrupt each other as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """How long each look at the line waited for: a poll would show here."""
    waits: list[float | None] = []
    real_wait, real_async_wait = clock.wait, clock.async_wait

    def wait(event: threading.Event, seconds: float | None) -> None:
        waits.append(seconds)
        real_wait(event, seconds)

    async def async_wait(future: asyncio.Future[None], seconds: float | None) -> None:
        waits.append(seconds)
        await real_async_wait(future, seconds)

    monkeypatch.setattr(clock, "wait", wait)
    monkeypatch.setattr(clock, "async_wait", async_wait)
    return waits


# Turns


def test_whoever_fits_does_not_wait(looks):
    limiter = RateLimiter()
    limiter.acquire(10).settle(DONE)
    assert looks == []
    assert_idle(limiter)


async def test_a_task_that_fits_does_not_wait(looks):
    limiter = RateLimiter()
    (await limiter.aacquire(10)).settle(DONE)
    assert looks == []
    assert_idle(limiter)


@pytest.mark.parametrize("count", [1, 20])
async def test_tasks_go_one_by_one_in_order_and_each_wakes_once(count, looks):
    limiter, order = alone(), []
    first = await limiter.aacquire(0)

    async def call(number: int) -> None:
        permit = await limiter.aacquire(0)
        order.append(number)
        await asyncio.sleep(0)
        permit.settle(DONE)

    tasks = [asyncio.create_task(call(number)) for number in range(count)]
    await soon(lambda: waiting(limiter) == count)
    first.settle(DONE)
    await asyncio.gather(*tasks)
    assert order == list(range(count))
    assert looks == [None] * count
    assert_idle(limiter)


def test_threads_go_in_order_and_each_wakes_once(looks):
    limiter, order = alone(), []
    first = limiter.acquire(0)

    def call(number: int) -> None:
        permit = limiter.acquire(0)
        order.append(number)
        permit.settle(DONE)

    with ThreadPoolExecutor(10) as pool:
        for number in range(10):
            pool.submit(call, number)
            until(lambda number=number: waiting(limiter) == number + 1)
        first.settle(DONE)
    assert order == list(range(10))
    assert looks == [None] * 10
    assert_idle(limiter)


def test_a_thread_waits_for_the_time_that_it_is_told_and_not_in_slices(fake_clock):
    limiter = RateLimiter(RateLimits(requests_per_minute=6))
    limiter.acquire(0).settle(DONE)
    limiter.acquire(0).settle(DONE)
    assert fake_clock.waits == [pytest.approx(10.0)]


async def test_a_task_waits_for_the_time_that_it_is_told_and_not_in_slices(fake_clock):
    limiter = RateLimiter(RateLimits(requests_per_minute=6))
    (await limiter.aacquire(0)).settle(DONE)
    (await limiter.aacquire(0)).settle(DONE)
    assert fake_clock.waits == [pytest.approx(10.0)]


async def test_a_thousand_that_wait_are_woken_once_each_in_their_time(looks):
    """6,000 a minute, 100 at once: the first in the line sleeps, nobody else."""
    limiter = RateLimiter(RateLimits(requests_per_minute=60_000, max_concurrency=2_000))

    async def call() -> None:
        (await limiter.aacquire(0)).settle(DONE)

    await asyncio.gather(*(call() for _ in range(1_100)))
    assert len(looks) <= 2 * 101
    assert_idle(limiter)


def test_a_wait_too_long_for_a_clock_is_cut(fake_clock):
    limiter = RateLimiter(RateLimits(requests_per_minute=0.006))
    limiter.acquire(0).settle(DONE)
    limiter.acquire(0).settle(DONE)
    assert fake_clock.waits == [3_600.0, 3_600.0, pytest.approx(2_800.0)]


def test_what_can_never_fit_is_told_at_once():
    limiter = RateLimiter(RateLimits(tokens_per_minute=100))
    with pytest.raises(RequestExceedsLimitError) as caught:
        limiter.acquire(101)
    assert caught.value.requested_tokens == 101
    assert caught.value.tokens_per_minute == 100
    assert_idle(limiter)


async def test_what_can_never_fit_is_told_a_task_at_once():
    limiter = RateLimiter(RateLimits(tokens_per_minute=100))
    with pytest.raises(RequestExceedsLimitError, match="Nothing was sent"):
        await limiter.aacquire(101)
    assert_idle(limiter)


def test_there_is_room_where_nobody_waits():
    limiter = alone()
    permit = limiter.acquire(0)
    assert limiter.has_room
    with elsewhere(lambda: limiter.acquire(0).settle(DONE)):
        until(lambda: waiting(limiter))
        assert not limiter.has_room
        permit.settle(DONE)
    assert limiter.has_room


# Cancellation


async def test_a_task_that_is_cancelled_in_line_costs_nothing_and_the_next_goes():
    limiter = RateLimiter(RateLimits(tokens_per_minute=600))
    (await limiter.aacquire(10)).settle(Outcome(is_admitted=True, used_tokens=10))
    large = asyncio.create_task(limiter.aacquire(600))
    small = asyncio.create_task(limiter.aacquire(1))
    await soon(lambda: waiting(limiter) == 2)
    large.cancel()
    permit = await asyncio.wait_for(small, 5)
    permit.settle(DONE)
    with pytest.raises(asyncio.CancelledError):
        await large
    assert_idle(limiter)


async def test_a_task_that_is_cancelled_as_it_gets_its_turn_gives_it_to_the_next():
    limiter = alone()
    first = await limiter.aacquire(0)
    tasks = [asyncio.create_task(limiter.aacquire(0)) for _ in range(2)]
    await soon(lambda: waiting(limiter) == 2)
    first.settle(DONE)  # the turn is the first task's, which has not run yet
    assert waiting(limiter) == 1
    tasks[0].cancel()
    permit = await asyncio.wait_for(tasks[1], 5)
    assert tasks[0].cancelled()
    permit.settle(DONE)
    assert_idle(limiter)


def test_an_exception_in_a_waiting_thread_gives_the_turn_to_the_next(monkeypatch):
    limiter = alone()
    first = limiter.acquire(0)
    real_wait = clock.wait

    def wait(event: threading.Event, seconds: float | None) -> None:
        if threading.current_thread().name == "interrupted":
            raise KeyboardInterrupt
        real_wait(event, seconds)

    monkeypatch.setattr(clock, "wait", wait)
    raised = []

    def interrupted() -> None:
        try:
            limiter.acquire(0)
        except KeyboardInterrupt as error:
            raised.append(error)

    thread = threading.Thread(target=interrupted, name="interrupted")
    thread.start()
    thread.join(10)
    assert len(raised) == 1
    assert waiting(limiter) == 0
    first.settle(DONE)
    assert_idle(limiter)


def test_an_interrupt_as_it_joins_leaves_nobody_in_the_line(monkeypatch):
    """Else it would be let in one day, and nobody would ever end it."""
    limiter = alone()
    first = limiter.acquire(0)
    admission, join = limiter.admission, limiter.admission.join

    def joined_and_interrupted(*args: Any) -> None:
        join(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(admission, "join", joined_and_interrupted)
    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        pool.submit(limiter.acquire, 0).result(10)
    assert waiting(limiter) == 0
    first.settle(DONE)
    assert_idle(limiter)


def test_an_interrupt_in_one_step_does_not_leave_the_others_undone():
    limiter, done = alone(), []

    def interrupted(now: float) -> None:
        limiter.post(done.append)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        limiter.post(interrupted)
    assert len(done) == 1
    assert_idle(limiter)


# Event loops that close, and garbage


def run_until_waiting(limiter: RateLimiter, count: int = 1) -> asyncio.AbstractEventLoop:
    """Leave tasks in line in a loop that is stopped before they are done."""
    loop = asyncio.new_event_loop()

    async def start() -> None:
        loop.tasks = [asyncio.ensure_future(limiter.aacquire(0)) for _ in range(count)]  # type: ignore[attr-defined]
        await soon(lambda: waiting(limiter) >= count)

    loop.run_until_complete(start())
    return loop


@pytest.fixture
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio says that a task was destroyed while it was pending: so it was."""
    caplog.set_level(logging.CRITICAL, logger="asyncio")


@pytest.mark.usefixtures("_quiet")
def test_tasks_of_a_closed_loop_are_passed_over():
    limiter = alone()
    first = limiter.acquire(0)
    loop = run_until_waiting(limiter, 3)
    with elsewhere(lambda: limiter.acquire(0).settle(DONE)):
        until(lambda: waiting(limiter) == 4)
        loop.close()
        first.settle(DONE)
    assert_idle(limiter)
    loop.tasks.clear()
    del loop
    gc.collect()
    assert_idle(limiter)


@pytest.mark.usefixtures("_quiet")
def test_a_newcomer_does_not_wait_for_the_clock_of_a_closed_loop():
    """The first in the line is the one who looks at the clock; a task of a closed loop never will."""
    limiter = RateLimiter(RateLimits(requests_per_minute=1_200))  # one in 50 ms
    for _ in range(20):
        limiter.acquire(0).settle(DONE)
    loop = run_until_waiting(limiter)
    loop.close()
    with elsewhere(lambda: limiter.acquire(0).settle(DONE)):
        pass
    assert_idle(limiter)
    loop.tasks.clear()


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("is_closed", [True, False])
def test_tasks_that_nobody_knows_any_more_leave_the_line(is_closed):
    limiter = alone()
    first = limiter.acquire(0)
    loop = run_until_waiting(limiter)
    known = weakref.ref(loop)
    with elsewhere(lambda: limiter.acquire(0).settle(DONE)):
        until(lambda: waiting(limiter) == 2)
        loop.tasks.clear()
        if is_closed:
            loop.close()
        else:
            gc.collect()  # its tasks, whose loop could still run them
            loop.close()
        del loop
        gc.collect()
        until(lambda: waiting(limiter) == 1)
        first.settle(DONE)
    gc.collect()
    assert known() is None
    assert_idle(limiter)


def test_what_is_settled_in_the_midst_of_a_step_is_only_posted():
    """As where the garbage collector closes a stream while this very thread holds the lock."""
    limiter = RateLimiter()
    inner, seen = limiter.acquire(0), []

    def step(now: float) -> None:
        inner.see(httpx2.Headers())
        inner.settle(DONE)
        seen.append(limiter.admission.in_flight_count)

    limiter.post(step)
    assert seen == [1]
    assert_idle(limiter)


def test_garbage_that_settles_while_the_thread_goes_to_sleep_wakes_it(monkeypatch):
    """The collector may run while the thread holds the lock of the very thing that it sleeps on."""
    limiter = alone()
    mine = limiter.acquire(0)
    real_wait = clock.wait

    def wait(event: threading.Event, seconds: float | None) -> None:
        with event._cond:  # type: ignore[attr-defined]
            mine.settle(DONE)
        real_wait(event, 10 if seconds is None else seconds)
        assert event.is_set()

    monkeypatch.setattr(clock, "wait", wait)
    with elsewhere(lambda: limiter.acquire(0).settle(DONE)):
        pass
    assert_idle(limiter)


def test_collected_streams_give_their_places_back_wherever_the_collector_runs():
    limiter = RateLimiter(RateLimits(max_concurrency=10_000, requests_per_minute=120_000))

    class Stream:
        def __init__(self) -> None:
            self.permit = limiter.acquire(0)
            self.itself = self

        def __del__(self) -> None:
            self.permit.settle(DONE)

    threshold = gc.get_threshold()
    gc.set_threshold(5)
    try:

        def work() -> None:
            for _ in range(25):
                Stream()
                gc.collect(0)

        with ThreadPoolExecutor(6) as pool:
            for future in [pool.submit(work) for _ in range(6)]:
                future.result(30)
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert_idle(limiter)


# Who blocks an event loop, and who holds a place


async def test_a_nested_call_does_not_wait_for_its_own_stream():
    limiter = alone()
    stream = await limiter.aacquire(0)
    other = asyncio.create_task(limiter.aacquire(0))
    await soon(lambda: waiting(limiter) == 1)
    async with asyncio.timeout(5):
        (await limiter.aacquire(0)).settle(DONE)
    stream.settle(DONE)
    (await other).settle(DONE)
    assert_idle(limiter)


def test_a_nested_call_in_a_thread_does_not_wait_for_its_own_stream():
    limiter = alone()
    stream = limiter.acquire(0)
    limiter.acquire(0).settle(DONE)
    stream.settle(DONE)
    assert_idle(limiter)


async def test_a_call_that_blocks_the_loop_does_not_wait_for_tasks_of_that_loop():
    """They cannot look at the clock while it waits: it would wait for ever."""
    limiter = RateLimiter(RateLimits(requests_per_minute=2_400))  # one in 25 ms
    for _ in range(40):
        (await limiter.aacquire(0)).settle(DONE)
    tasks = [asyncio.create_task(limiter.aacquire(0)) for _ in range(2)]
    await asyncio.sleep(0)
    assert waiting(limiter) == 2
    limiter.acquire(0).settle(DONE)  # synchronous, in the loop's own thread
    for task in tasks:
        (await task).settle(DONE)
    assert_idle(limiter)


async def test_a_call_that_blocks_the_loop_does_not_wait_for_places_of_that_loop():
    limiter = alone()

    async def call() -> None:
        permit = await limiter.aacquire(0)
        await asyncio.sleep(0.01)
        permit.settle(DONE)

    task = asyncio.create_task(call())
    await soon(lambda: limiter.admission.in_flight_count == 1)
    limiter.acquire(0).settle(DONE)
    await task
    assert_idle(limiter)


def test_a_call_that_blocks_a_loop_waits_for_places_of_others():
    limiter = alone()
    first = limiter.acquire(0)
    order = []

    async def block() -> None:
        permit = limiter.acquire(0)
        order.append("let in")
        permit.settle(DONE)

    with elsewhere(lambda: asyncio.run(block())):
        until(lambda: waiting(limiter) == 1)
        order.append("settled")
        first.settle(DONE)
    assert order == ["settled", "let in"]


# The lock


def test_whoever_finds_the_lock_held_sleeps_until_the_holder_has_carried_it_out(looks):
    """No spinning: what is posted is carried out by the holder, who rings."""
    limiter = RateLimiter(RateLimits(requests_per_minute=2_400))
    for _ in range(40):
        limiter.acquire(0).settle(DONE)
    with elsewhere(lambda: limiter.acquire(0).settle(DONE)):
        until(lambda: waiting(limiter) == 1 and looks)
        with limiter._lock:
            time.sleep(0.05)  # its time comes and goes
            assert len(limiter._inbox) <= 1
        limiter.post(lambda now: None)  # what a holder does in the end
    assert len(looks) <= 3
    assert_idle(limiter)


def test_what_is_posted_while_the_lock_is_held_is_not_lost():
    limiter = RateLimiter()
    done = []

    def post(number: int) -> None:
        for _ in range(500):
            limiter.post(lambda now: done.append(number))

    with switching_often(), ThreadPoolExecutor(8) as pool:
        list(pool.map(post, range(8)))
    assert len(done) == 4_000
    assert_idle(limiter)


@pytest.mark.parametrize("seed", range(3))
def test_threads_and_loops_at_once_under_faults_lose_no_turn(seed):
    """Switched as often as possible: each call ends, none beyond the limit, no place is kept."""
    limiter = RateLimiter(RateLimits(max_concurrency=3, requests_per_minute=600_000))
    under_way: list[object] = []
    most: list[int] = []

    def begin() -> object:
        token = object()
        under_way.append(token)
        most.append(len(under_way))
        return token

    def end(permit: Permit, token: object, chance: random.Random) -> None:
        permit.send()
        permit.see(httpx2.Headers())
        under_way.remove(token)
        permit.settle(
            chance.choice(
                [DONE, Outcome(), Outcome(is_rejected=True, retry_after_seconds=0.001, used_tokens=0)]
            )
        )

    def work(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        for _ in range(40):
            permit = limiter.acquire(chance.choice([0, 10]), is_retry=chance.random() < 0.2)
            token = begin()
            time.sleep(0)
            end(permit, token, chance)

    async def call(chance: random.Random) -> None:
        for _ in range(8):
            try:
                async with asyncio.timeout(chance.choice([None, None, 0.0, 0.001])):
                    permit = await limiter.aacquire(0)
            except TimeoutError:
                continue
            token = begin()
            await asyncio.sleep(0)
            end(permit, token, chance)

    async def loop(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        await asyncio.gather(*(call(chance) for _ in range(15)))

    with switching_often(), ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(work, number) for number in range(6)]
        futures += [pool.submit(lambda n=n: asyncio.run(loop(n))) for n in (6, 7)]
        for future in futures:
            future.result(30)
    assert max(most) <= 3
    assert_idle(limiter)
