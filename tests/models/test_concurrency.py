"""Bounded work in order: order, bound, errors, cancellation."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.models.concurrency import work_in_order


@given(delays=st.lists(st.integers(0, 5), max_size=20), max_concurrency=st.integers(1, 10))
def test_results_are_in_order_and_the_bound_holds(delays: list[int], max_concurrency: int) -> None:
    under_way = most = 0

    async def work(item: tuple[int, int]) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(item[1]):
            await asyncio.sleep(0)
        under_way -= 1
        return item[0]

    items = list(enumerate(delays))
    assert asyncio.run(work_in_order(work, items, max_concurrency=max_concurrency)) == [*range(len(items))]
    assert most <= max_concurrency
    if all(delays):
        assert most == min(max_concurrency, len(items))


async def test_after_an_error_those_under_way_finish_and_no_more_begin() -> None:
    begun: list[int] = []
    finished: list[int] = []
    gate = asyncio.Event()

    async def work(number: int) -> None:
        begun.append(number)
        if number in (1, 2):
            await asyncio.sleep(0)
            gate.set()
            raise LookupError(number)
        await gate.wait()
        finished.append(number)

    with pytest.raises(LookupError, match="1"):
        await work_in_order(work, range(10), max_concurrency=4)
    assert begun == [0, 1, 2, 3]
    assert finished == [0, 3]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancellation_reaches_all_and_waits_for_them() -> None:
    cleaned: list[int] = []
    begun = asyncio.Barrier(4)

    async def work(number: int) -> None:
        try:
            await begun.wait()
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0)
            cleaned.append(number)

    task = asyncio.create_task(work_in_order(work, range(10), max_concurrency=3))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(cleaned) == [0, 1, 2]


async def test_work_that_is_cancelled_by_another_is_never_a_missing_result() -> None:
    async def work(number: int) -> int:
        if number == 1:
            raise asyncio.CancelledError
        return number

    with pytest.raises(asyncio.CancelledError):
        await work_in_order(work, range(3), max_concurrency=2)


async def test_errors_of_any_kind_pass_as_they_are() -> None:
    class Unusual(BaseException):
        pass

    async def work(number: int) -> None:
        await asyncio.sleep(0)
        if number == 1:
            raise Unusual

    with pytest.raises(Unusual):
        await work_in_order(work, range(3), max_concurrency=3)


async def test_work_sees_the_callers_context() -> None:
    who: ContextVar[str] = ContextVar("who")
    who.set("caller")

    async def work(number: int) -> str:
        return who.get()

    assert await work_in_order(work, range(3), max_concurrency=2) == ["caller"] * 3
