"""One attempt: what its record says, and that nobody who reads it can spoil it for another."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from typing import Any

import httpx2
import openai
import pytest

from lc_service import TokenCounter
from lc_service.accounting.prompt import PromptEstimate
from lc_service.accounting.record import AttemptRecord, AttemptStatus, Certainty
from lc_service.accounting.reported import Reported
from lc_service.accounting.tokenizer import TokenEstimator
from lc_service.accounting.usage import TokenUsage
from lc_service.models import guard
from lc_service.models.pipeline import Call
from lc_service.models.request import NO_ACCOUNTS, Accounts, Request, accounts
from lc_service.retry.errors import MalformedResponseError, TruncatedResponseError

USAGE = TokenUsage(input_tokens=12, output_tokens=3)


class Ledger:
    def __init__(self, error: Exception | None = None) -> None:
        self.records: list[AttemptRecord] = []
        self._error = error

    def record(self, record: AttemptRecord) -> None:
        if self._error is not None:
            raise self._error
        self.records.append(record)

    async def arecord(self, record: AttemptRecord) -> None:
        self.record(record)

    def post(self, record: AttemptRecord) -> None:
        self.record(record)


def make_call(*ledgers: Any, **options: Any) -> Call:
    request = Request(
        model="m",
        estimator=TokenEstimator("m"),
        measure=options.pop("measure", lambda: PromptEstimate(10, 10)),
        bound=lambda: 100,
        **options,
    )
    return Call(request, Accounts(ledgers=ledgers), None)


def run(call: Call, is_async: bool, *, error: BaseException | None = None, **evidence: Any) -> None:
    """Drive one attempt that ends with `error`, or well."""

    def act(attempt: Any) -> None:
        for name, value in evidence.items():
            setattr(attempt, name, value)
        if error is not None:
            raise error

    async def arun() -> None:
        async with call.attempt() as attempt:
            act(attempt)

    if is_async:
        asyncio.run(arun())
    else:
        with call.attempt() as attempt:
            act(attempt)


both = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@both
def test_a_record_tells_when_and_how_long(is_async: bool, fake_clock: Any) -> None:
    ledger = Ledger()
    call = make_call(ledger, is_stream=True)

    def act() -> None:
        with call.attempt() as attempt:
            fake_clock.advance(2)
            attempt.see_content()
            fake_clock.advance(3)
            attempt.see_content()
            attempt.reported = Reported(usage=USAGE, model="m-2", service_tier="flex")

    async def aact() -> None:
        async with call.attempt() as attempt:
            fake_clock.advance(2)
            attempt.see_content()
            fake_clock.advance(3)
            attempt.reported = Reported(usage=USAGE, model="m-2", service_tier="flex")

    began = fake_clock.wall_time
    asyncio.run(aact()) if is_async else act()
    (record,) = ledger.records
    assert record.started_at == datetime.fromtimestamp(began, UTC)
    assert (record.first_chunk_seconds, record.latency_seconds) == (2, 5)
    assert (record.model, record.response_model, record.service_tier) == ("m", "m-2", "flex")
    assert (record.status, record.certainty, record.usage) == ("ok", "measured", USAGE)


ENDS = [
    (TruncatedResponseError("cut"), AttemptStatus.TRUNCATED, Certainty.UNKNOWN, "truncated"),
    (MalformedResponseError("half a body"), AttemptStatus.FAILED, Certainty.UNKNOWN, "malformed"),
    (SystemExit(143), AttemptStatus.CANCELLED, Certainty.UNKNOWN, None),
    (RuntimeError("of a signal handler"), AttemptStatus.FAILED, Certainty.UNKNOWN, "unknown"),
    (openai.APITimeoutError(httpx2.Request("POST", "https://x")), "failed", "unknown", "timeout"),
    (ValueError("a program's own"), AttemptStatus.FAILED, Certainty.MEASURED, "unknown"),
    (KeyboardInterrupt(), AttemptStatus.CANCELLED, Certainty.UNKNOWN, None),
    (GeneratorExit(), AttemptStatus.ABANDONED, Certainty.UNKNOWN, None),
]


@pytest.mark.parametrize(("error", "status", "certainty", "kind"), ENDS, ids=lambda each: type(each).__name__)
def test_every_end_has_one_record(error: Any, status: Any, certainty: Any, kind: Any) -> None:
    ledger = Ledger()
    with pytest.raises(type(error)) as caught:
        run(make_call(ledger), is_async=False, error=error)
    assert caught.value is error
    (record,) = ledger.records
    assert (record.status, record.certainty, record.error_kind) == (status, certainty, kind)
    assert record.usage == TokenUsage()


@pytest.mark.parametrize("error", [httpx2.ConnectTimeout("slow"), httpx2.PoolTimeout("full")], ids=repr)
def test_what_was_never_sent_cost_nothing(error: Exception) -> None:
    ledger = Ledger()
    with pytest.raises(openai.APITimeoutError):
        run(make_call(ledger), is_async=False, error=error, is_sent=True)
    assert (ledger.records[0].certainty, ledger.records[0].error_kind) == ("measured", "timeout")


def test_an_error_after_sending_is_not_taken_for_a_programs_own_mistake() -> None:
    ledger = Ledger()
    with pytest.raises(ValueError, match="own"):
        run(make_call(ledger), is_async=False, error=ValueError("a handler's own"), is_sent=True)
    assert ledger.records[0].certainty is Certainty.UNKNOWN


async def test_ledgers_that_a_cancelled_wait_did_not_reach_have_the_record_posted() -> None:
    class Slow(Ledger):
        async def arecord(self, record: AttemptRecord) -> None:
            self.records.append(record)
            await asyncio.sleep(60)

    slow, other = Slow(), Ledger()
    call = make_call(slow, other)

    async def attempt() -> None:
        async with call.attempt() as attempt:
            attempt.reported = Reported(usage=USAGE)

    task = asyncio.create_task(attempt())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(slow.records) == len(other.records) == 1


def test_a_closed_generator_awaits_nothing() -> None:
    class Waiting(Ledger):
        async def arecord(self, record: AttemptRecord) -> None:
            raise AssertionError("awaited")

    ledger = Waiting()
    attempt = make_call(ledger).attempt()
    with pytest.raises(StopIteration):
        attempt.__aenter__().send(None)
    with pytest.raises(StopIteration):
        attempt.__aexit__(GeneratorExit, GeneratorExit(), None).send(None)
    assert ledger.records[0].status is AttemptStatus.ABANDONED


def test_a_cancelled_attempt_has_a_record() -> None:
    ledger = Ledger()
    with pytest.raises(asyncio.CancelledError):
        run(make_call(ledger), is_async=True, error=asyncio.CancelledError())
    assert ledger.records[0].status is AttemptStatus.CANCELLED


def test_what_a_server_told_comes_before_any_estimate() -> None:
    ledger = Ledger()
    with pytest.raises(TruncatedResponseError) as caught:
        run(
            make_call(ledger, is_stream=True),
            is_async=False,
            error=TruncatedResponseError("cut"),
            reported=Reported(usage=USAGE),
            received=lambda: ["some", "text"],
        )
    assert ledger.records[0].certainty is Certainty.MEASURED
    assert caught.value.usage == ledger.records[0].usage == USAGE


@both
def test_a_cut_stream_is_estimated_by_prompt_and_text(is_async: bool) -> None:
    ledger = Ledger()
    with pytest.raises(TruncatedResponseError) as caught:
        run(
            make_call(ledger, is_stream=True),
            is_async,
            error=TruncatedResponseError("cut"),
            received=lambda: ["a"] * 7,
        )
    (record,) = ledger.records
    assert record.certainty is Certainty.ESTIMATED
    assert record.usage == TokenUsage(input_tokens=10, output_tokens=7), "no chunk is less than a token"
    assert caught.value.usage == record.usage


def test_an_opened_stream_has_read_the_prompt() -> None:
    ledger = Ledger()
    call = make_call(ledger, is_stream=True)
    response = httpx2.Response(200, headers={"x-request-id": "req_1"})
    attempt = call.attempt()
    attempt.__enter__()
    attempt.on_response(response)
    attempt.__exit__(GeneratorExit, GeneratorExit(), None)
    (record,) = ledger.records
    assert (record.certainty, record.usage) == ("estimated", TokenUsage(input_tokens=10))
    assert (record.request_id, record.status_code) == ("req_1", 200)


def test_a_prompt_that_cannot_be_measured_does_not_stop_a_call(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(guard, "_logged", set())

    def measure() -> PromptEstimate:
        raise TypeError("secret prompt")

    ledger = Ledger()
    run(make_call(ledger, measure=measure), is_async=False, reported=Reported(usage=USAGE))
    assert ledger.records[0].usage == USAGE
    assert "secret" not in caplog.text
    assert "TypeError" in caplog.text


class Broken(TokenCounter):
    def on_attempt(self, record: AttemptRecord) -> None:
        raise RuntimeError("secret answer")


@both
def test_one_observer_that_raises_loses_nothing_of_the_others(
    is_async: bool, caplog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(guard, "_logged", set())
    broken, sound = Ledger(OSError("secret answer")), Ledger()
    call = make_call(broken, sound)
    counter = TokenCounter()
    call.counters = (Broken(), counter)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            run(call, is_async, reported=Reported(usage=USAGE))
    assert [record.attempt for record in sound.records] == [1, 2, 3]
    assert counter.usage.total.total_tokens == 45
    assert len(caplog.records) == 2, "one line for each of the two that fail"
    assert "secret" not in caplog.text


def test_answers_teach_the_estimator() -> None:
    call = make_call()
    before = call.request.estimator.scale
    for _ in range(20):
        run(call, is_async=False, reported=Reported(usage=TokenUsage(input_tokens=20, output_tokens=1)))
    assert before == 1
    assert call.request.estimator.scale > 1.7


def test_accounts_include_the_ledgers_of_budgets() -> None:
    class Kept:
        def __init__(self, ledger: Any) -> None:
            self.ledger = ledger

    one, other = Ledger(), Ledger()
    budget, free = Kept(other), Kept(None)
    assert accounts(None, None, None) is NO_ACCOUNTS
    assert accounts(budget, None, None).ledgers == (other,)
    assert accounts([budget, free], one, None).ledgers == (one, other)
    assert accounts([budget, free], other, None).ledgers == (other,)
    assert accounts(budget, one, None).budgets == (budget,)


@both
def test_usage_that_cannot_be_worked_out_is_unknown_and_loses_nothing(is_async: bool) -> None:
    def received() -> list[str]:
        raise TypeError("an odd chunk")

    ledger = Ledger()
    run(make_call(ledger, is_stream=True), is_async, received=received)
    assert (ledger.records[0].status, ledger.records[0].certainty) == ("ok", "unknown")


EVERY_KIND = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10, "audio_tokens": 5},
    "completion_tokens_details": {
        "reasoning_tokens": 7,
        "audio_tokens": 3,
        "accepted_prediction_tokens": 2,
        "rejected_prediction_tokens": 1,
    },
}


def _answer(request: httpx2.Request) -> httpx2.Response:
    """Answer with every kind of token, which the simulator does not bill."""
    said = {"id": "c", "created": 1, "model": "gpt-4.1-mini", "service_tier": "flex"}
    if not json.loads(request.content).get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
        whole = {**said, "object": "chat.completion", "choices": [choice], "usage": EVERY_KIND}
        return httpx2.Response(200, json=whole)
    first = {"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    events = ({"choices": [first]}, {"choices": [last]}, {"choices": [], "usage": EVERY_KIND})
    lines = [json.dumps({**said, "object": "chat.completion.chunk", **event}) for event in events]
    text = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])
    return httpx2.Response(200, text=text, headers={"content-type": "text/event-stream"})


@pytest.mark.parametrize("is_stream", [False, True])
def test_every_kind_of_token_and_the_tier_are_kept(is_stream: bool, make_model: Any) -> None:
    ledger = Ledger()
    with httpx2.Client(transport=httpx2.MockTransport(_answer)) as client:
        model = make_model(http_client=client, ledger=ledger)
        list(model.stream("Hello")) if is_stream else model.invoke("Hello")
    (record,) = ledger.records
    assert record.service_tier == "flex"
    assert record.usage == TokenUsage(
        input_tokens=100,
        cached_input_tokens=40,
        cache_write_tokens=10,
        audio_input_tokens=5,
        output_tokens=20,
        reasoning_tokens=7,
        audio_output_tokens=3,
        accepted_prediction_tokens=2,
        rejected_prediction_tokens=1,
    )
