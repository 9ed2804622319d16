"""A race of two requests: who wins, what is sent, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from lc_service import Hedge, clock
from lc_service.accounting.prompt import PromptEstimate
from lc_service.accounting.tokenizer import TokenEstimator
from lc_service.limits.hedge import pace_for
from lc_service.models.hedging import Begins
from lc_service.models.pipeline import Call
from lc_service.models.race import _tasks, ahedged, hedged
from lc_service.models.request import NO_ACCOUNTS, Request

NOW = Hedge(after=0, max_extra=1)
SOON = Hedge(after=0.01, max_extra=1)


def make_call() -> Call:
    request = Request(
        model="m", estimator=TokenEstimator("m"), measure=lambda: PromptEstimate(1, 1), bound=lambda: 1
    )
    return Call(request, NO_ACCOUNTS, None)


def allowance(rules: Hedge) -> float:
    return pace_for(rules, endpoint="None", model="m")._allowance


class Requests:
    """Attempts that end when they are told to; the same for threads and tasks."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self._count = 0
        self._ends: dict[int, tuple[threading.Event, Any]] = {}
        self.has_place = threading.Event()
        self.has_place.set()
        self.is_line_for_second = False
        for number in (1, 2, 3):
            self._ends[number] = (threading.Event(), None)

    def end(self, number: int, outcome: Any = None) -> None:
        event = self._ends[number][0]
        self._ends[number] = (event, outcome or f"answer {number}")
        event.set()

    def _start(self) -> int:
        self._count += 1
        return self._count

    def _begin(self, number: int, begins: Begins) -> None:
        begins()
        self.begun.append(number)

    def _result(self, number: int) -> str:
        outcome = self._ends[number][1]
        if isinstance(outcome, BaseException):
            raise outcome
        return str(outcome)

    def attempt(self, begins: Begins = lambda: None) -> str:
        number = self._start()
        if number == 1 or self.is_line_for_second:
            assert self.has_place.wait(10)
        self._begin(number, begins)
        assert self._ends[number][0].wait(10)
        return self._result(number)

    async def aattempt(self, begins: Begins = lambda: None) -> str:
        number = self._start()
        try:
            if number == 1 or self.is_line_for_second:
                await _is_set(self.has_place)
            self._begin(number, begins)
            await _is_set(self._ends[number][0])
            return self._result(number)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise


async def _is_set(event: threading.Event) -> None:
    while not event.is_set():  # noqa: ASYNC110  another thread sets it
        await asyncio.sleep(0.001)


class Caller:
    """Calls in a thread of its own, with `hedged` or with `ahedged`."""

    def __init__(self, rules: Hedge | None, requests: Requests, *, is_async: bool) -> None:
        self.call = make_call()
        self.outcome: Any = None
        if is_async:
            araced = ahedged(rules, self.call, requests.aattempt)

            async def acall() -> str:
                return await araced()

            self._raced: Callable[[], str] = lambda: asyncio.run(acall())
        else:
            self._raced = hedged(rules, self.call, requests.attempt)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self._raced()
        except BaseException as error:
            self.outcome = error

    def again(self) -> Any:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self.join()

    def join(self) -> Any:
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.outcome


def until(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it did not come to that")


def no_more_threads() -> bool:
    return not any(thread.name == "lc_service-hedge" for thread in threading.enumerate())


both = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
FAILED, ALSO_FAILED = ConnectionError("first"), ConnectionError("second")


@both
def test_without_rules_nothing_stands_between(is_async: bool) -> None:
    requests = Requests()
    if is_async:
        assert ahedged(None, make_call(), requests.aattempt) == requests.aattempt
    else:
        assert hedged(None, make_call(), requests.attempt) == requests.attempt


@both
@pytest.mark.parametrize("winner", [1, 2])
def test_the_first_answer_is_taken(winner: int, is_async: bool) -> None:
    requests = Requests()
    caller = Caller(SOON, requests, is_async=is_async)
    until(lambda: requests.begun == [1, 2])
    requests.end(winner)
    assert caller.join() == f"answer {winner}"
    assert requests.cancelled == ([3 - winner] if is_async else [])
    requests.end(3 - winner, ALSO_FAILED)  # what becomes of the loser is nobody's affair
    until(no_more_threads)
    assert allowance(SOON) == 0


@both
@pytest.mark.parametrize("failing", [1, 2])
def test_the_only_good_answer_is_taken(failing: int, is_async: bool) -> None:
    requests = Requests()
    caller = Caller(SOON, requests, is_async=is_async)
    until(lambda: requests.begun == [1, 2])
    requests.end(failing, FAILED)
    threading.Event().wait(0.01)
    assert caller.outcome is None, "the other one may still be answered"
    requests.end(3 - failing)
    assert caller.join() == f"answer {3 - failing}"


@both
@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_of_two_failures_the_first_requests_counts(order: tuple[int, int], is_async: bool) -> None:
    requests = Requests()
    caller = Caller(SOON, requests, is_async=is_async)
    until(lambda: requests.begun == [1, 2])
    for number in order:
        requests.end(number, {1: FAILED, 2: ALSO_FAILED}[number])
        threading.Event().wait(0.005)
    assert caller.join() is FAILED
    assert caller.call.last_error is FAILED


@both
def test_a_retry_is_not_raced(is_async: bool) -> None:
    requests = Requests()
    requests.end(1, FAILED)
    caller = Caller(NOW, requests, is_async=is_async)
    assert caller.join() is FAILED
    requests.begun.clear()
    number = requests._count + 1
    requests.end(number)
    assert caller.again() == f"answer {number}"
    assert requests.begun == [number]


@both
def test_time_in_line_is_not_time_without_an_answer(is_async: bool) -> None:
    requests = Requests()
    requests.has_place.clear()
    caller = Caller(NOW, requests, is_async=is_async)
    threading.Event().wait(0.02)
    assert requests._count == 1
    requests.has_place.set()
    until(lambda: requests.begun == [1, 2])
    requests.end(1)
    requests.end(2)
    caller.join()


@both
def test_a_second_request_that_gets_its_turn_too_late_is_not_sent(is_async: bool) -> None:
    requests = Requests()
    requests.is_line_for_second = True
    caller = Caller(SOON, requests, is_async=is_async)
    until(lambda: requests.begun == [1])
    requests.has_place.clear()
    until(lambda: requests._count == 2)
    requests.end(1)
    assert caller.join() == "answer 1"
    assert allowance(SOON) == 1, "it is given back"
    requests.has_place.set()
    until(no_more_threads)
    assert requests.begun == [1]


@both
def test_a_second_request_that_is_refused_changes_nothing(is_async: bool) -> None:
    requests = Requests()
    refused = threading.Event()
    plain, aplain = requests.attempt, requests.aattempt

    def attempt(begins: Begins = lambda: None) -> str:
        if requests._count:
            refused.set()
            raise ValueError("no budget")
        return plain(begins)

    async def aattempt(begins: Begins = lambda: None) -> str:
        if requests._count:
            refused.set()
            raise ValueError("no budget")
        return await aplain(begins)

    requests.attempt, requests.aattempt = attempt, aattempt  # type: ignore[method-assign]
    caller = Caller(SOON, requests, is_async=is_async)
    assert refused.wait(10)
    requests.end(1)
    assert caller.join() == "answer 1"
    assert allowance(SOON) == 1


def test_where_no_thread_is_to_be_had_it_works_in_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    requests = Requests()
    requests.end(1)
    assert hedged(NOW, make_call(), requests.attempt)() == "answer 1"


def test_an_interrupted_call_sends_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the first request waits in line: its thread gets its turn, and leaves it."""

    def interrupted(event: threading.Event, seconds: float | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(clock, "wait", interrupted)
    requests = Requests()
    requests.has_place.clear()
    with pytest.raises(KeyboardInterrupt):
        hedged(NOW, make_call(), requests.attempt)()
    requests.has_place.set()
    until(no_more_threads)
    assert requests.begun == []


def test_threads_see_the_callers_context() -> None:
    seen = ContextVar("seen", default="nothing")
    seen.set("the caller's")

    def attempt(begins: Begins = lambda: None) -> str:
        begins()
        return seen.get()

    assert hedged(SOON, make_call(), attempt)() == "the caller's"


async def test_a_cancelled_call_cancels_both() -> None:
    requests = Requests()
    task = asyncio.ensure_future(ahedged(SOON, make_call(), requests.aattempt)())
    while len(requests.begun) < 2:  # noqa: ASYNC110  not a task's
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(requests.cancelled) == [1, 2]
    assert not _tasks


async def test_a_loser_that_will_not_go_is_not_waited_for_long(fake_clock: Any) -> None:
    del fake_clock
    is_left = asyncio.Event()
    count = 0

    async def attempt(begins: Begins = lambda: None) -> str:
        nonlocal count
        count += 1
        begins()
        if count == 2:
            return "answer 2"
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.03)  # its record is being written
            is_left.set()
        return "answer 1"

    assert await ahedged(NOW, make_call(), attempt)() == "answer 2"
    assert is_left.is_set()


def test_a_call_that_is_collected_with_its_loop_leaves_no_complaint(caplog: Any) -> None:
    requests = Requests()
    loop = asyncio.new_event_loop()
    task = loop.create_task(ahedged(SOON, make_call(), requests.aattempt)())  # type: ignore[arg-type]

    async def both_begun() -> None:
        while len(requests.begun) < 2:  # noqa: ASYNC110  not a task's
            await asyncio.sleep(0.001)

    loop.run_until_complete(both_begun())
    loop.close()
    _tasks.clear()
    del task, loop
    gc.collect()  # what is raised there, pytest makes an error
    assert {record.getMessage().splitlines()[0] for record in caplog.records} <= {
        "Task was destroyed but it is pending!"
    }


class NoAnswerError(Exception):
    """What a weak reference can follow."""


@both
def test_a_failed_race_leaves_no_cycle(is_async: bool) -> None:
    def attempt(begins: Begins = lambda: None) -> str:
        begins()
        raise NoAnswerError

    async def aattempt(begins: Begins = lambda: None) -> str:
        return attempt(begins)

    def fail() -> weakref.ref[NoAnswerError]:
        try:
            hedged(SOON, make_call(), attempt)()
        except NoAnswerError as error:
            return weakref.ref(error)
        raise AssertionError

    async def afail() -> weakref.ref[NoAnswerError]:
        try:
            await ahedged(SOON, make_call(), aattempt)()
        except NoAnswerError as error:
            return weakref.ref(error)
        raise AssertionError

    gc.collect()
    gc.disable()
    try:
        failure = asyncio.run(afail()) if is_async else fail()
        until(no_more_threads)
        assert failure() is None
    finally:
        gc.enable()
