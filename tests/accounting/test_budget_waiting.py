"""A call waits for room where others will give some back, in order of arrival, and only there."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from lc_service.accounting.budget import Budget, Reservation, areserve_all, reserve_all
from lc_service.accounting.budget.allowance import MAX_STILL_SECONDS
from lc_service.accounting.budget.exceeded import BudgetExceeded
from lc_service.accounting.budget.waiting_line import Hold, Party, Turn, WaitingLine
from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.spending import Amount, AttemptRequest
from lc_service.accounting.usage import TokenUsage

MIDNIGHT = 1_800_057_600.0  # 2027-01-16 00:00 UTC


def request(tokens: int) -> AttemptRequest:
    return AttemptRequest(
        call_id=uuid4(),
        attempt=1,
        model="m",
        input_tokens=0,
        max_input_tokens=0,
        max_output_tokens=tokens,
        at=datetime(2027, 1, 15, 12, tzinfo=UTC),
    )


def record(tokens: int) -> AttemptRecord:
    return AttemptRecord(run_id=uuid4(), model="m", usage=TokenUsage(output_tokens=tokens))


def strict(tokens: int, **options: Any) -> Budget:
    return Budget(tokens=tokens, strict=True, **options)


def elsewhere(function: Callable[[], Any]) -> Any:
    """Do it in a thread of its own: what it reserves belongs to nobody here."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def waiting(budget: Budget) -> int:
    return len(budget._allowance._line._turns)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happens"
        time.sleep(0.001)


async def until_async(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never happens")


# --- it waits ---


def test_a_thread_waits_for_others_and_then_has_room() -> None:
    budget = strict(100)
    held = budget.reserve(request(80))
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(budget.reserve, request(60))
        until(lambda: waiting(budget) == 1)
        assert not future.done()
        held.settle(record(40))
        assert future.result(5).amount == Amount(tokens=60)
    assert (budget.spent, budget.reserved) == (Amount(tokens=40), Amount(tokens=60))


async def test_a_task_waits_for_others_and_then_has_room() -> None:
    budget = strict(100)
    held = await asyncio.create_task(budget.areserve(request(80)))
    task = asyncio.create_task(budget.areserve(request(60)))
    await until_async(lambda: waiting(budget) == 1)
    held.release()
    assert (await task).amount == Amount(tokens=60)


def test_first_come_first_served_among_threads_and_event_loops() -> None:
    """A small call does not pass a large one that came before it, though it would fit."""
    budget = strict(100)
    held = budget.reserve(request(50))
    order: list[int] = []

    def in_thread(number: int, tokens: int) -> None:
        reservation = budget.reserve(request(tokens))
        order.append(number)
        reservation.settle(record(0))

    async def in_loop(number: int, tokens: int) -> None:
        reservation = await budget.areserve(request(tokens))
        order.append(number)
        reservation.settle(record(0))

    # No two neighbours fit together: they would be let in at once, and which appends first is chance.
    sizes = [90, 20, 95, 11, 100, 5]
    with ThreadPoolExecutor(len(sizes)) as pool:
        futures = []
        for number, tokens in enumerate(sizes):
            if number % 2:
                futures.append(pool.submit(in_thread, number, tokens))
            else:
                futures.append(pool.submit(lambda n=number, t=tokens: asyncio.run(in_loop(n, t))))
            until(lambda expected=number + 1: waiting(budget) == expected)
        assert order == []
        held.settle(record(0))
        for future in futures:
            future.result(5)
    assert order == list(range(len(sizes)))


@pytest.mark.parametrize("end", ["settle", "release"])
def test_it_is_refused_as_soon_as_what_is_spent_leaves_no_room(end: str) -> None:
    budget = strict(100)
    held, other = budget.reserve(request(60)), budget.reserve(request(30))
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(budget.reserve, request(50))
        until(lambda: waiting(budget) == 1)
        held.settle(record(60))
        error = future.exception(5)
        assert isinstance(error, BudgetExceeded)
        assert (error.spent, error.reserved) == (Amount(tokens=60), Amount(tokens=30))
        assert error.requested == Amount(tokens=50)
    other.settle(record(10)) if end == "settle" else other.release()
    assert waiting(budget) == 0


def test_what_never_fits_is_refused_at_once_even_behind_others() -> None:
    budget = strict(100)
    held = budget.reserve(request(80))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(budget.reserve, request(60))
        until(lambda: waiting(budget) == 1)
        with pytest.raises(BudgetExceeded, match="alone"):
            budget.reserve(request(101))
        held.settle(record(0))
        first.result(5)


def test_it_does_not_wait_for_one_budget_where_another_has_nothing_left() -> None:
    one, two = strict(100), strict(10)
    held = elsewhere(lambda: one.reserve(request(80)))
    with pytest.raises(BudgetExceeded) as caught:
        reserve_all([one, two], request(50))
    assert caught.value.limit == two.limit
    held.release()


# --- cancelled while it waits ---


async def test_a_cancelled_wait_leaves_nothing_and_lets_the_next_one_try() -> None:
    budget = strict(100)
    held = await asyncio.create_task(budget.areserve(request(60)))
    large = asyncio.create_task(budget.areserve(request(90)))
    small = asyncio.create_task(budget.areserve(request(40)))
    await until_async(lambda: waiting(budget) == 2)
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large
    assert (await small).amount == Amount(tokens=40)
    assert budget.reserved == Amount(tokens=100)
    held.release()


async def test_a_wait_cancelled_when_it_was_just_woken_wakes_the_next_one() -> None:
    budget = strict(100)
    held = await asyncio.create_task(budget.areserve(request(60)))
    first = asyncio.create_task(budget.areserve(request(90)))
    second = asyncio.create_task(budget.areserve(request(95)))
    await until_async(lambda: waiting(budget) == 2)
    held.release()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await asyncio.wait_for(second, 5)).amount == Amount(tokens=95)


async def test_a_reservation_in_several_budgets_gives_back_what_it_has_when_cancelled() -> None:
    one, two = strict(100), strict(100)
    held = await asyncio.create_task(two.areserve(request(60)))
    task = asyncio.create_task(areserve_all([two, one], request(50)))
    await until_async(lambda: waiting(two) == 1)
    assert one.reserved == Amount(tokens=50)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (one.reserved, two.reserved) == (Amount(), Amount(tokens=60))
    held.release()


def test_a_loop_that_dies_with_a_waiting_task_leaves_nothing() -> None:
    budget = strict(100)
    held = elsewhere(lambda: budget.reserve(request(60)))
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    task = loop.create_task(budget.areserve(request(90)))
    for _ in range(5):
        loop.run_until_complete(asyncio.sleep(0))
    assert waiting(budget) == 1
    loop.close()
    del task
    gc.collect()
    held.settle(record(0))
    assert waiting(budget) == 0
    assert elsewhere(lambda: budget.reserve(request(100))).amount == Amount(tokens=100)


def test_an_interrupted_thread_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Turn, seconds: float) -> None:
        raise KeyboardInterrupt

    one, two = strict(100), strict(100)
    held = elsewhere(lambda: two.reserve(request(60)))
    monkeypatch.setattr(Turn, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reserve_all([one, two], request(50))
    assert (waiting(two), one.reserved, two.reserved) == (0, Amount(), Amount(tokens=60))
    held.release()


# --- where a wait would never end ---


def test_a_thread_does_not_wait_for_its_own_open_stream() -> None:
    budget = strict(100)
    stream = budget.reserve(request(60))
    with pytest.raises(BudgetExceeded, match="stream"):
        budget.reserve(request(50))
    assert budget.reserved == Amount(tokens=60)
    stream.settle(record(10))
    budget.reserve(request(50))


async def test_a_task_does_not_wait_for_its_own_open_stream() -> None:
    budget = strict(100)
    stream = await budget.areserve(request(60))
    with pytest.raises(BudgetExceeded, match="stream"):
        await budget.areserve(request(50))
    stream.release()


async def test_a_thread_that_runs_a_loop_does_not_wait_for_that_loop() -> None:
    budget = strict(100)
    task = asyncio.create_task(budget.areserve(request(60)))
    stream = await task
    with pytest.raises(BudgetExceeded, match="stream"):
        budget.reserve(request(50))
    stream.release()


def test_a_loop_does_not_wait_for_the_program_that_runs_it() -> None:
    budget = strict(100)
    stream = budget.reserve(request(60))
    with pytest.raises(BudgetExceeded, match="stream"):
        asyncio.run(budget.areserve(request(50)))
    stream.release()


def test_nobody_is_stuck_behind_one_who_is_about_to_try_again() -> None:
    line = WaitingLine()
    others = elsewhere(Party.current)
    first = line.join(others, is_async=False)
    own = line.join(Party.current(), is_async=False)
    first.is_refused = True
    assert not line.is_stuck(own), "nobody holds anything any more"
    line.opened(Hold(request(10), Amount(tokens=10), None, Party.current()))
    first.is_refused = False
    assert not line.is_stuck(own), "it has not asked yet"
    first.is_refused = True
    assert line.is_stuck(own)
    line.wake_first()
    assert not line.is_stuck(own), "something made room for it"
    first.rearm()
    assert not line.is_stuck(own), "it asks"


def test_it_waits_where_another_holds_something_too() -> None:
    budget = strict(100)
    own = budget.reserve(request(30))
    other = elsewhere(lambda: budget.reserve(request(40)))
    threading.Timer(0.02, other.release).start()
    budget.reserve(request(50))
    own.release()


def test_threads_that_wait_for_each_other_do_not_wait_for_ever() -> None:
    """Two threads with a stream open each want more: the second to ask is refused, the first then goes on."""
    budget = strict(100)
    barrier = threading.Barrier(2)

    def read_a_stream_and_call() -> str:
        stream = budget.reserve(request(40))
        barrier.wait(5)
        try:
            budget.reserve(request(30)).release()
        except BudgetExceeded:
            return "refused"
        finally:
            stream.settle(record(0))
        return "called"

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(read_a_stream_and_call) for _ in range(2)]
        assert sorted(future.result(5) for future in futures) == ["called", "refused"]


async def test_a_finished_task_is_not_taken_for_one_that_waits() -> None:
    """What it reserved is settled by another: by a callback, say."""
    budget = strict(100)
    held = await asyncio.create_task(budget.areserve(request(60)))
    task = asyncio.create_task(budget.areserve(request(50)))
    await until_async(lambda: waiting(budget) == 1)
    held.settle(record(0))
    await task


# --- exact times ---


class Waits:
    """Waits that end at once, with the clock set forward, or with something that happens meanwhile."""

    def __init__(self, fake_clock: Any) -> None:
        self.seconds: list[float] = []
        self.meanwhile: dict[int, tuple[float, Callable[[], object]]] = {}
        self.clock = fake_clock

    def pass_time(self, seconds: float) -> None:
        happens = self.meanwhile.get(len(self.seconds))
        self.seconds.append(seconds)
        if happens is None:
            self.clock.advance(seconds)
        else:
            self.clock.advance(happens[0])
            happens[1]()


@pytest.fixture
def waits(fake_clock: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    waits = Waits(fake_clock)
    monkeypatch.setattr(Turn, "wait", lambda turn, seconds: waits.pass_time(seconds))
    return waits


def test_no_settlement_for_ten_minutes_is_enough(waits: Waits) -> None:
    budget = strict(100)
    first = elsewhere(lambda: budget.reserve(request(20)))
    elsewhere(lambda: budget.reserve(request(70)))
    waits.meanwhile = {0: (200.0, first.release)}
    with pytest.raises(BudgetExceeded, match="600 s"):
        budget.reserve(request(50))
    assert waits.seconds == [MAX_STILL_SECONDS, MAX_STILL_SECONDS]
    assert waits.clock.time == 1_000.0 + 200 + 600


def test_a_wait_over_midnight_ends_with_the_new_day(waits: Waits) -> None:
    waits.clock.wall_time = MIDNIGHT - 90
    budget = strict(100, per_day=True)
    held = elsewhere(lambda: budget.reserve(request(70)))
    reservation = budget.reserve(request(50))
    assert waits.seconds == [90.0]
    assert budget.reserved == Amount(tokens=50)
    held.settle(record(70))
    assert budget.spent == Amount()
    reservation.settle(record(40))
    assert (budget.spent, budget.reserved) == (Amount(tokens=40), Amount())


# --- many at once ---


class Watch:
    """Sees to it that the limit holds at every moment that anybody can see."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.limit = budget.limit.tokens
        self.granted: list[Reservation] = []
        self.refused = 0

    def look(self) -> None:
        balance = self.budget._allowance.balance()
        assert balance.spent.tokens + balance.reserved.tokens <= self.limit

    def call(self, most: int, used: int) -> None:
        try:
            reservation = self.budget.reserve(request(most))
        except BudgetExceeded:
            self.refused += 1
            return
        self.look()
        self.granted.append(reservation)
        if used % 7 == 0:
            time.sleep(0)
        reservation.settle(record(used))

    async def acall(self, most: int, used: int) -> None:
        try:
            reservation = await self.budget.areserve(request(most))
        except BudgetExceeded:
            self.refused += 1
            return
        self.look()
        self.granted.append(reservation)
        await asyncio.sleep(0)
        reservation.settle(record(used))

    def run(self, calls: list[tuple[int, int]]) -> None:
        """Make half of the calls in 16 threads, the rest as tasks of two event loops."""

        async def loop(part: list[tuple[int, int]]) -> None:
            await asyncio.gather(*(self.acall(*call) for call in part))

        half, rest = calls[::2], calls[1::2]
        with ThreadPoolExecutor(16) as threads, ThreadPoolExecutor(2) as loops:
            futures = [
                loops.submit(lambda part=part: asyncio.run(loop(part))) for part in (rest[::2], rest[1::2])
            ]
            futures += [threads.submit(self.call, *call) for call in half]
            for future in futures:
                future.result(50)
        balance = self.budget._allowance.balance()
        assert balance.reserved == Amount()
        assert waiting(self.budget) == 0
        assert self.budget._allowance._line.open_holds() == []


def test_a_thousand_calls_that_fit_all_succeed_and_spend_the_budget_to_the_last_token() -> None:
    chance = random.Random(4)
    calls = [(100, chance.randrange(100)) for _ in range(999)] + [(100, 100)]
    # What others used and what a call may use fit at any moment: none is to be refused. Not all fit at once.
    limit = sum(used for _, used in calls) + 100
    watch = Watch(strict(limit))
    watch.run(calls)
    assert watch.refused == 0
    assert watch.budget.spent.tokens == limit - 100


def test_of_a_thousand_calls_as_many_succeed_as_fit() -> None:
    watch = Watch(strict(600 * 50 + 49))
    watch.run([(50, 50)] * 1_000)
    assert len(watch.granted) == 600
    assert watch.refused == 400
    assert watch.budget.spent.tokens == 600 * 50


def test_calls_in_several_budgets_never_wait_in_a_circle() -> None:
    """Named in any order, some in one budget and some in all: nobody is refused, everything is given back."""
    budgets = [strict(500), strict(300), strict(400)]
    chance = random.Random(7)

    def call(some: list[Budget]) -> None:
        reserve_all(some, request(100)).settle(record(0))

    async def acall(some: list[Budget]) -> None:
        (await areserve_all(some, request(100))).settle(record(0))

    async def loop() -> None:
        await asyncio.gather(*(acall(chance.sample(budgets, chance.randint(1, 3))) for _ in range(100)))

    with ThreadPoolExecutor(10) as pool:
        futures = [pool.submit(asyncio.run, loop()) for _ in range(2)]
        futures += [pool.submit(call, chance.sample(budgets, chance.randint(1, 3))) for _ in range(300)]
        for future in futures:
            future.result(50)
    assert [budget.reserved for budget in budgets] == [Amount()] * 3
