"""The breaker: when it opens, who may go while it is open, who waits, and what it shares."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import openai
import pytest
from langchain_core.exceptions import ModelError, ModelRateLimitError

from lc_service import CircuitBreaker, CircuitOpenError, RequestExceedsLimitError, TruncatedResponseError
from lc_service.accounting.budget.exceeded import BudgetExceeded
from lc_service.limits import breaker as breakers
from lc_service.limits.breaker import Breaker, breaker_for, waiting_for_endpoints
from lc_service.limits.circuit import DEAD_KINDS
from lc_service.retry.errors import ErrorKind, classify
from lc_service.retry.policy import RetryWithExponentialBackoff

RULES = CircuitBreaker(failures=3, min_seconds=2, probe_after_seconds=5, max_probe_after_seconds=20)
DOWN = ConnectionError("refused")


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.0)


@pytest.fixture
def breaker() -> Breaker:
    return Breaker("http://dead:80", RULES)


def fail(breaker: Breaker, count: int = 1, error: BaseException = DOWN) -> None:
    for _ in range(count):
        breaker.enter().end(error)


@pytest.fixture
def opened(breaker: Breaker, fake_clock: Any) -> Breaker:
    fail(breaker, 2)
    fake_clock.advance(2)
    fail(breaker)
    assert breaker.is_open
    return breaker


def status_error(status: int) -> openai.APIStatusError:
    response = httpx2.Response(status, request=httpx2.Request("POST", "http://dead"))
    return openai.APIStatusError("no", response=response, body=None)


class TestOpening:
    def test_neither_failures_nor_time_open_it_alone(self, breaker: Breaker, fake_clock: Any):
        fail(breaker, 64)
        assert not breaker.is_open
        breaker.enter().end()
        fail(breaker, 2)
        fake_clock.advance(60)
        assert not breaker.is_open
        fail(breaker)
        assert breaker.is_open

    def test_time_counts_from_the_first_failure_to_the_last(self, breaker: Breaker, fake_clock: Any):
        fail(breaker, 3)
        fake_clock.advance(1.99)
        fail(breaker)
        assert not breaker.is_open
        fake_clock.advance(0.01)
        fail(breaker)
        assert breaker.is_open

    @pytest.mark.parametrize(
        "error",
        [
            None,
            status_error(400),
            status_error(401),
            status_error(429),
            ModelRateLimitError("slow down"),
            TruncatedResponseError("cut"),
        ],
        ids=repr,
    )
    def test_whatever_a_server_says_ends_the_run(
        self, breaker: Breaker, fake_clock: Any, error: BaseException | None
    ):
        fail(breaker, 2)
        fake_clock.advance(5)
        breaker.enter().end(error)
        fail(breaker, 2)
        fake_clock.advance(1)
        fail(breaker)
        assert not breaker.is_open

    @pytest.mark.parametrize(
        "error",
        [
            asyncio.CancelledError(),
            KeyboardInterrupt(),
            GeneratorExit(),
            ValueError("a program's own"),
            RequestExceedsLimitError(requested_tokens=9, tokens_per_minute=1),
            BudgetExceeded("no", budget="b", limit=None, spent=None, reserved=None, requested=None),  # type: ignore[arg-type]
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_what_shows_nothing_neither_counts_nor_ends_the_run(
        self, breaker: Breaker, fake_clock: Any, error: BaseException
    ):
        fail(breaker, 2)
        fake_clock.advance(2)
        fail(breaker, 10, error)
        assert not breaker.is_open
        fail(breaker)
        assert breaker.is_open

    @pytest.mark.parametrize("error", [status_error(500), status_error(503), TimeoutError()], ids=repr)
    def test_failures_of_the_endpoint_count(self, breaker: Breaker, fake_clock: Any, error: Exception):
        fail(breaker, 2, error)
        fake_clock.advance(2)
        fail(breaker, 1, error)
        assert breaker.is_open

    def test_an_entry_counts_once(self, breaker: Breaker, fake_clock: Any):
        entry = breaker.enter()
        for _ in range(10):
            entry.end(DOWN)
            fake_clock.advance(1)
        assert not breaker.is_open

    def test_default_rules_bear_a_blip_and_a_slow_server(self, fake_clock: Any):
        breaker = Breaker("http://dead", CircuitBreaker())
        for _ in range(9):  # 64 calls at once fail for nine seconds
            fail(breaker, 64)
            fake_clock.advance(1)
        assert not breaker.is_open
        for _ in range(1000):  # nine of ten attempts fail for ever
            breaker.enter().end()
            fail(breaker, 9)
            fake_clock.advance(1)
        assert not breaker.is_open


class TestOpen:
    def test_calls_fail_at_once_and_say_why(self, opened: Breaker, fake_clock: Any):
        fake_clock.advance(1)
        with pytest.raises(
            CircuitOpenError, match=r"http://dead:80 is taken for dead: 3 .*with_fallbacks"
        ) as info:
            opened.enter()
        error = info.value
        assert (error.endpoint, error.failures, error.last_error_kind) == ("http://dead:80", 3, "connection")
        assert error.retry_after_seconds == pytest.approx(4)
        assert error.since == datetime.fromtimestamp(fake_clock.wall_time, UTC) - timedelta(seconds=3)
        assert fake_clock.waits == []

    def test_one_probe_at_a_time(self, opened: Breaker, fake_clock: Any):
        fake_clock.advance(5)
        opened.enter()
        with pytest.raises(CircuitOpenError, match="A probe is under way") as info:
            opened.enter()
        assert info.value.retry_after_seconds == 0

    def test_a_success_closes_it(self, opened: Breaker, fake_clock: Any):
        fake_clock.advance(5)
        opened.enter().end()
        assert not opened.is_open
        fail(opened, 2)
        fake_clock.advance(1)
        fail(opened, 2)
        assert not opened.is_open  # it counts from the beginning

    def test_so_does_an_answer_to_an_attempt_from_before(self, breaker: Breaker, fake_clock: Any):
        entry = breaker.enter()
        fail(breaker, 2)
        fake_clock.advance(2)
        fail(breaker)
        assert breaker.is_open
        entry.end()
        assert not breaker.is_open

    def test_failures_of_attempts_from_before_change_nothing(self, breaker: Breaker, fake_clock: Any):
        late = [breaker.enter() for _ in range(5)]
        fail(breaker, 2)
        fake_clock.advance(2)
        fail(breaker)
        fake_clock.advance(4.9)
        for entry in late:
            entry.end(DOWN)
        fake_clock.advance(0.1)
        breaker.enter().end()
        assert not breaker.is_open

    def test_each_failed_probe_doubles_the_pause_up_to_the_longest(self, opened: Breaker, fake_clock: Any):
        for seconds in (5, 10, 20, 20, 20):
            fake_clock.advance(seconds - 0.01)
            with pytest.raises(CircuitOpenError):
                opened.enter()
            fake_clock.advance(0.02)
            opened.enter().end(DOWN)

    def test_pauses_are_jittered(self, opened: Breaker, fake_clock: Any, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(random, "random", lambda: 0.999)
        fake_clock.advance(5)
        opened.enter().end(DOWN)
        with pytest.raises(CircuitOpenError) as info:
            opened.enter()
        assert 10.9 < info.value.retry_after_seconds < 11

    @pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), ValueError()], ids=repr)
    def test_a_probe_that_shows_nothing_leaves_its_place(
        self, opened: Breaker, fake_clock: Any, error: BaseException
    ):
        fake_clock.advance(5)
        opened.enter().end(error)
        assert opened.is_open
        opened.enter().end()
        assert not opened.is_open

    def test_a_probe_that_never_ends_is_not_waited_for(self, opened: Breaker, fake_clock: Any):
        fake_clock.advance(5)
        hanging = opened.enter()
        fake_clock.advance(20)
        second = opened.enter()
        hanging.end(DOWN)  # no longer the one that counts
        with pytest.raises(CircuitOpenError, match="under way"):
            opened.enter()
        second.end()
        assert not opened.is_open


class TestPatience:
    def test_a_patient_call_waits_for_its_turn_to_probe(self, opened: Breaker, fake_clock: Any):
        opened.enter(is_patient=True).end()
        assert fake_clock.waits == [5]
        assert not opened.is_open

    async def test_so_does_a_task(self, opened: Breaker, fake_clock: Any):
        with waiting_for_endpoints():
            (await opened.aenter()).end()
        assert fake_clock.waits == [5]
        with pytest.raises(ZeroDivisionError), waiting_for_endpoints():
            raise ZeroDivisionError
        fail(opened, 2)
        fake_clock.advance(2)
        fail(opened)
        with pytest.raises(CircuitOpenError):
            await opened.aenter()

    def test_it_waits_through_failed_probes(self, opened: Breaker, fake_clock: Any):
        for _ in range(4):
            opened.enter(is_patient=True).end(DOWN)
        assert fake_clock.waits == [5, 10, 20, 20]

    async def test_all_that_wait_go_when_the_probe_succeeds(self):
        breaker = Breaker("http://dead", CircuitBreaker(failures=1, min_seconds=0, probe_after_seconds=0))
        fail(breaker)
        probe = breaker.enter()
        entries: list[Any] = []
        threads = [
            threading.Thread(target=lambda: entries.append(breaker.enter(is_patient=True))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        tasks = [asyncio.create_task(breaker.aenter(is_patient=True)) for _ in range(8)]
        cancelled = asyncio.create_task(breaker.aenter(is_patient=True))
        await asyncio.sleep(0.02)
        cancelled.cancel()
        assert entries == []
        assert not any(task.done() for task in tasks)
        probe.end()
        entries += await asyncio.wait_for(asyncio.gather(*tasks), 5)
        for thread in threads:
            thread.join(5)
        assert len(entries) == 16
        assert cancelled.cancelled()

    def test_the_next_probes_when_one_is_given_up(self):
        breaker = Breaker("http://dead", CircuitBreaker(failures=1, min_seconds=0, probe_after_seconds=0))
        fail(breaker)
        probe = breaker.enter()
        gone: list[Any] = []

        def go() -> None:
            entry = breaker.enter(is_patient=True)
            gone.append(entry)
            time.sleep(0.005)
            entry.end(KeyboardInterrupt())

        threads = [threading.Thread(target=go) for _ in range(5)]
        for thread in threads:
            thread.start()
        probe.end(KeyboardInterrupt())
        for thread in threads:
            thread.join(10)
        assert len(gone) == 5
        assert breaker.is_open


class TestSharing:
    def test_threads_lose_no_count(self):
        """Each end is counted, whoever is at it."""
        breaker = Breaker("http://dead", CircuitBreaker(failures=8 * 500, min_seconds=0))
        entries = [[breaker.enter() for _ in range(500)] for _ in range(8)]
        threads = [
            threading.Thread(target=lambda mine=mine: [entry.end(DOWN) for entry in mine]) for mine in entries
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert breaker.is_open

    def test_of_many_threads_one_probes(self):
        breaker = Breaker("http://dead", CircuitBreaker(failures=1, min_seconds=0, probe_after_seconds=0))
        fail(breaker)
        outcomes: list[Any] = []
        barrier = threading.Barrier(16)

        def go() -> None:
            barrier.wait()
            try:
                outcomes.append(breaker.enter())
            except CircuitOpenError as error:
                outcomes.append(error)

        threads = [threading.Thread(target=go) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sum(not isinstance(outcome, CircuitOpenError) for outcome in outcomes) == 1

    def test_a_generator_may_be_closed_in_the_midst_of_it(self, opened: Breaker, fake_clock: Any):
        """While the lock is held, by this very thread: what happens is posted, and carried out afterwards."""
        fake_clock.advance(5)

        def stream() -> Iterator[int]:
            entry = opened.enter()
            try:
                yield 1
            except BaseException as error:
                entry.end(error)
                raise

        chunks = stream()
        next(chunks)
        with opened._lock:
            del chunks
            assert opened._inbox
        opened.post(lambda: None)
        opened.enter()  # the probe's place is free again

    def test_an_endpoint_is_scheme_host_and_port(self):
        one = breaker_for(RULES, "https://api.openai.com/v1/")
        assert breaker_for(RULES, "https://api.openai.com/v2/?x=1") is one
        assert (
            breaker_for(CircuitBreaker(**{**vars(RULES), "is_patient": True}), "https://api.openai.com/")
            is one
        )
        assert one.endpoint == "https://api.openai.com"
        for url in ("http://api.openai.com/v1/", "https://api.openai.com:8443/v1/", "https://other/v1/"):
            assert breaker_for(RULES, url) is not one
        assert breaker_for(CircuitBreaker(), "https://api.openai.com/v1/") is not one
        assert breaker_for(RULES, "https://user:secret@host/v1").endpoint == "https://host"

    def test_memory_is_bounded(self):
        for number in range(breakers._MAX_BREAKERS + 10):
            breaker_for(RULES, f"http://host-{number}/")
        assert len(breakers._breakers) == len(breakers._by_url) == breakers._MAX_BREAKERS

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_a_forked_process_begins_anew(self):
        breaker_for(RULES, "http://dead/")
        reader, writer = os.pipe()
        if not (child := os.fork()):
            os.write(writer, str(len(breakers._breakers)).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 10) == b"0"
        os.close(reader)
        os.close(writer)


class TestError:
    def test_it_is_pickled_and_not_retried(self, opened: Breaker):
        calls: list[int] = []

        def call() -> None:
            calls.append(1)
            opened.enter()

        with pytest.raises(CircuitOpenError) as info:
            RetryWithExponentialBackoff(initial_delay=0).execute(call)
        assert len(calls) == 1
        error = info.value
        assert isinstance(error, ModelError)
        assert error.is_retryable is False
        assert not classify(error).is_transient
        assert classify(error).kind is ErrorKind.CIRCUIT_OPEN
        copy = pickle.loads(pickle.dumps(error))
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)

    def test_a_breaker_does_not_count_it(self):
        assert ErrorKind.CIRCUIT_OPEN not in DEAD_KINDS
