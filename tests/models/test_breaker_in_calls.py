"""Calls behind a breaker, against a server that dies and comes back."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from functools import cache
from typing import Any

import openai
import pytest
from langchain_core.exceptions import ModelError

from lc_service import (
    CircuitBreaker,
    CircuitOpenError,
    RateLimits,
    ReliableOpenAIEmbeddings,
    RetryWithExponentialBackoff,
    UsageLedger,
    track_usage,
)
from lc_service.limits.breaker import waiting_for_endpoints
from lc_service.simulator import Fault

AT_ONCE = CircuitBreaker(failures=3, min_seconds=0, probe_after_seconds=30)
QUICK = CircuitBreaker(failures=3, min_seconds=0, probe_after_seconds=0.01, max_probe_after_seconds=0.5)
PATIENT = CircuitBreaker(**{**vars(QUICK), "is_patient": True})
ONE_TRY = RetryWithExponentialBackoff(max_retries=0)
MANY_TRIES = RetryWithExponentialBackoff(initial_delay=0.001, max_delay=0.001, max_retries=9)


@cache
def embeddings_at(base_url: str) -> ReliableOpenAIEmbeddings:
    return ReliableOpenAIEmbeddings(model="text-embedding-3-small", api_key="sk-test", base_url=base_url)


def embeddings_of(model: Any) -> ReliableOpenAIEmbeddings:
    embeddings = embeddings_at(model.openai_api_base)
    embeddings.retry, embeddings.circuit_breaker = model.retry, model.circuit_breaker
    embeddings.rate_limits = model.rate_limits
    return embeddings


async def drain(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


CALLS: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda model: model.invoke("Hi"),
    "ainvoke": lambda model: asyncio.run(model.ainvoke("Hi")),
    "batch": lambda model: model.batch(["Hi"]),
    "stream": lambda model: list(model.stream("Hi")),
    "astream": lambda model: asyncio.run(drain(model.astream("Hi"))),
    "embed": lambda model: embeddings_of(model).embed_query("Hi"),
    "aembed": lambda model: asyncio.run(embeddings_of(model).aembed_query("Hi")),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def kill(model: Any, times: int = 3) -> None:
    for _ in range(times):
        with pytest.raises(openai.OpenAIError):
            model.invoke("Hi")


@pytest.mark.parametrize(
    ("name", "fault"),
    [*((name, "server_error") for name in CALLS), ("invoke", "reset"), ("invoke", "not_json")],
)
def test_a_dead_endpoint_is_asked_no_more(name: str, fault: str, simulate: Any, make_model: Any) -> None:
    call = CALLS[name]
    server = simulate(faults=[fault] * 9)
    model = make_model(retry=ONE_TRY, circuit_breaker=AT_ONCE)
    for _ in range(3):
        with pytest.raises((openai.OpenAIError, ModelError)) as failed:
            call(model)
        assert not isinstance(failed.value, CircuitOpenError)
    with track_usage() as usage, pytest.raises(CircuitOpenError, match=r"is taken for dead: 3 attempts"):
        call(model)
    assert len(server.requests) == 3
    assert usage.attempts == 0


@every_call
def test_without_a_breaker_every_call_is_sent(call: Any, simulate: Any, make_model: Any) -> None:
    server = simulate(faults=["server_error"] * 12)
    model = make_model(retry=ONE_TRY, circuit_breaker=None)
    for _ in range(12):
        with pytest.raises((openai.InternalServerError, ModelError)):
            call(model)
    call(model)
    assert len(server.requests) == 13


@every_call
def test_it_is_left_alone_from_within_a_call(call: Any, simulate: Any, make_model: Any) -> None:
    """The retries stop, and the error names what they were for."""
    server = simulate(faults=["unavailable"] * 20)
    with pytest.raises(CircuitOpenError) as caught:
        call(make_model(retry=MANY_TRIES, circuit_breaker=AT_ONCE))
    assert len(server.requests) == 3
    assert isinstance(caught.value.__cause__, openai.InternalServerError)
    assert caught.value.last_error_kind == "server_error"


@every_call
def test_a_probe_that_comes_through_ends_it(
    call: Any, simulate: Any, make_model: Any, fake_clock: Any
) -> None:
    server = simulate(faults=["server_error"] * 4)
    model = make_model(retry=ONE_TRY, circuit_breaker=AT_ONCE, rate_limits=None)
    kill(model)
    fake_clock.advance(33)  # the longest that jitter makes of 30 s
    kill(model, 1)
    with pytest.raises(CircuitOpenError):
        call(model)
    fake_clock.advance(66)
    call(model)
    call(model)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "fault",
    ["rate_limit", "bad_request", "unauthorized", "forbidden", "not_found", "unprocessable", "conflict"],
)
def test_a_server_that_says_no_is_alive(fault: str, simulate: Any, make_model: Any) -> None:
    simulate(faults=[fault] * 12)
    kill(make_model(retry=ONE_TRY, circuit_breaker=AT_ONCE, rate_limits=None), 12)


def test_a_port_where_nobody_listens(make_model: Any, free_port: int) -> None:
    model = make_model(base_url=f"http://127.0.0.1:{free_port}/v1", retry=ONE_TRY, circuit_breaker=AT_ONCE)
    kill(model)
    with pytest.raises(CircuitOpenError, match=rf"127\.0\.0\.1:{free_port} .* connection\.") as caught:
        model.invoke("Hi")
    assert 0 < caught.value.retry_after_seconds <= 33


@pytest.fixture
def free_port() -> int:

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_it_can_be_switched_off(simulate: Any, make_model: Any) -> None:
    server = simulate(faults=["server_error"] * 30)
    kill(make_model(retry=ONE_TRY, circuit_breaker=None), 30)
    assert len(server.requests) == 30


@pytest.mark.parametrize("is_async", [False, True], ids=["batch", "abatch"])
def test_what_waits_in_line_when_it_opens_is_not_sent(
    is_async: bool, simulate: Any, make_model: Any, tmp_path: Any
) -> None:
    server = simulate(faults=["server_error"] * 30)
    with UsageLedger(tmp_path / "usage.db") as ledger:
        model = make_model(
            retry=ONE_TRY, circuit_breaker=AT_ONCE, rate_limits=RateLimits(max_concurrency=1), ledger=ledger
        )
        prompts = [str(number) for number in range(20)]
        if is_async:
            answers = asyncio.run(model.abatch(prompts, return_exceptions=True))
        else:
            answers = model.batch(prompts, return_exceptions=True)
        records = list(ledger.records())
    refused = [isinstance(answer, CircuitOpenError) for answer in answers]
    assert (refused.count(False), refused.count(True)) == (3, 17)
    assert len(server.requests) == len(records) == 3


@pytest.mark.parametrize("is_async", [False, True], ids=["batch", "abatch"])
@pytest.mark.parametrize("says", ["the model", "the run"])
def test_patient_calls_lose_nothing(
    is_async: bool, says: str, simulate: Any, make_model: Any, tmp_path: Any
) -> None:
    server = simulate(faults=["server_error"] * 8)
    with UsageLedger(tmp_path / "usage.db") as ledger:
        model = make_model(
            retry=MANY_TRIES,
            circuit_breaker=PATIENT if says == "the model" else QUICK,
            rate_limits=RateLimits(max_concurrency=4),
            ledger=ledger,
        )
        prompts = [str(number) for number in range(12)]

        def run() -> list[Any]:
            return asyncio.run(model.abatch(prompts)) if is_async else model.batch(prompts)

        if says == "the run":
            with waiting_for_endpoints():
                answers = run()
        else:
            answers = run()
        records = list(ledger.records())
    assert len(answers) == 12
    assert len(server.requests) == len(records) == 20
    attempts: dict[Any, list[int]] = {}
    for record in records:
        attempts.setdefault(record.call_id, []).append(record.attempt)
    for numbers in attempts.values():
        assert sorted(numbers) == list(range(1, len(numbers) + 1)), "what was not sent has no number"


def test_a_stream_that_is_left_leaves_its_probe(simulate: Any, make_model: Any, fake_clock: Any) -> None:
    simulate(faults=["server_error"] * 3)
    model = make_model(retry=ONE_TRY, circuit_breaker=AT_ONCE, rate_limits=None)
    kill(model)
    fake_clock.advance(33)
    stream = model.stream("Hi")
    next(stream)  # its first chunk shows that the endpoint lives
    model.invoke("Hi")
    del stream
    gc.collect()
    model.invoke("Hi")


async def test_a_probe_that_is_cancelled_lets_the_next_one_go(
    simulate: Any, make_model: Any, fake_clock: Any
) -> None:

    server = simulate(faults=["server_error"] * 3 + [Fault("slow", delay_seconds=5)])
    model = make_model(retry=ONE_TRY, circuit_breaker=AT_ONCE, rate_limits=None)
    for _ in range(3):
        with pytest.raises(openai.OpenAIError):
            await model.ainvoke("Hi")
    fake_clock.advance(33)
    probe = asyncio.create_task(model.ainvoke("Hi"))
    while len(server.requests) < 4:  # noqa: ASYNC110  another thread's
        await asyncio.sleep(0.001)
    with pytest.raises(CircuitOpenError, match="A probe is under way"):
        await model.ainvoke("Hi")
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    await model.ainvoke("Hi")
