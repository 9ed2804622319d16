"""Hedged calls against a server with slow answers: what is asked, answered and counted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.rate_limiters import InMemoryRateLimiter

from lc_service import (
    Budget,
    Hedge,
    RateLimits,
    RetryWithExponentialBackoff,
    UsageLedger,
    track_usage,
)
from lc_service.simulator import Fault

SOON = Hedge(after=0.02, max_extra=1)
SLOW = Fault("slow", delay_seconds=0.5)
ONE_TRY = RetryWithExponentialBackoff(max_retries=0)

CALLS: dict[str, Callable[..., Any]] = {
    "invoke": lambda model, **options: model.invoke("Hi", **options),
    "ainvoke": lambda model, **options: asyncio.run(model.ainvoke("Hi", **options)),
    "batch": lambda model, **options: model.batch(["Hi"], **options)[0],
    "abatch": lambda model, **options: asyncio.run(model.abatch(["Hi"], **options))[0],
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
both = pytest.mark.parametrize("call", [CALLS["invoke"], CALLS["ainvoke"]], ids=["invoke", "ainvoke"])


def losers_end() -> None:
    for thread in threading.enumerate():
        if thread.name == "lc_service-hedge":
            thread.join(5)


@pytest.fixture
def records(tmp_path: Path) -> Any:
    with UsageLedger(tmp_path / "usage.db") as ledger:
        yield ledger


@every_call
def test_a_slow_request_is_sent_again(call: Any, simulate: Any, make_model: Any) -> None:
    server = simulate(faults=[SLOW])
    assert call(make_model(hedge=SOON)).text
    first, second = server.requests
    assert (first.status, second.status) == (None, 200), "nobody waited for the slow one"
    assert first.body == second.body
    losers_end()


def test_the_loser_of_two_threads_is_counted_to_the_token(
    simulate: Any, make_model: Any, records: UsageLedger
) -> None:
    server = simulate(faults=[SLOW])
    budget = Budget(tokens=100_000)
    with track_usage() as usage:
        make_model(hedge=SOON, ledger=records, budget=budget).invoke("Hi")
        losers_end()
    rows = list(records.records())
    assert [(row.status, row.certainty) for row in rows] == [("ok", "measured")] * 2
    assert sorted(row.attempt for row in rows) == [1, 2]
    assert len({row.call_id for row in rows}) == len({row.run_id for row in rows}) == 1
    assert (usage.calls, usage.attempts) == (1, 2)
    billed = server.bill.total.total_tokens
    assert usage.total.total_tokens == budget.spent.tokens == billed == 2 * rows[0].usage.total_tokens
    assert budget.reserved.tokens == 0


async def test_the_loser_of_two_tasks_is_unknown(
    simulate: Any, make_model: Any, records: UsageLedger
) -> None:
    server = simulate(faults=[SLOW])
    with track_usage() as usage:
        await make_model(hedge=SOON, ledger=records).ainvoke("Hi")
    rows = list(records.records())
    assert {row.attempt: (row.status, row.certainty) for row in rows} == {
        1: ("cancelled", "unknown"),
        2: ("ok", "measured"),
    }
    assert (usage.calls, usage.attempts) == (1, 2)
    assert len(server.requests) == 2


@both
def test_a_quick_answer_is_the_only_one(call: Any, simulate: Any, make_model: Any) -> None:
    server = simulate()
    model = make_model(hedge=Hedge(after=5, max_extra=1))
    for _ in range(5):
        call(model)
    assert len(server.requests) == 5


def test_late_is_learned(simulate: Any, make_model: Any) -> None:
    """From 24 quick answers; before them nothing is sent again, however slow."""
    model = make_model(hedge=Hedge(after="p90", max_extra=0.2))
    server = simulate(faults=[Fault("slow", delay_seconds=0.1)])
    model.invoke("first")
    assert len(server.requests) == 1
    model.batch([str(number) for number in range(24)], {"max_concurrency": 1})
    server = simulate(faults=[SLOW])
    model.invoke("last")
    assert [request.status for request in server.requests] == [None, 200]
    losers_end()


async def test_never_more_than_the_allowance(simulate: Any, make_model: Any) -> None:
    """All answers are slow; every tenth call may ask again."""
    server = simulate(latency_seconds=0.05)
    model = make_model(hedge=Hedge(after=0.001, max_extra=0.1))
    await model.abatch([str(number) for number in range(59)])
    assert 59 < len(server.requests) <= 59 + 5


@both
def test_the_good_answer_is_taken(call: Any, simulate: Any, make_model: Any) -> None:
    server = simulate(faults=[Fault("slow", delay_seconds=0.15), "server_error"])
    assert call(make_model(hedge=SOON, retry=ONE_TRY)).text
    assert len(server.requests) == 2


@both
def test_two_failures_are_one_retry(call: Any, simulate: Any, make_model: Any, records: UsageLedger) -> None:
    stalled = Fault("stall", delay_seconds=0.1)
    server = simulate(faults=[stalled, stalled, "ok"])
    events: list[Any] = []
    retry = RetryWithExponentialBackoff(initial_delay=0.001, max_retries=1, on_retry=events.append)
    assert call(make_model(hedge=SOON, retry=retry, ledger=records)).text
    assert len(server.requests) == 3
    assert len(events) == 1
    assert sorted(row.attempt for row in records.records()) == [1, 2, 3]


@both
def test_callbacks_hear_of_one_call(call: Any, simulate: Any, make_model: Any) -> None:
    heard: list[str] = []

    class Listener(BaseCallbackHandler):
        def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            heard.append("start")

        def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
            heard.append("token")

        def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
            heard.append("end")

        def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
            heard.append("error")

    simulate(faults=[SLOW])
    call(make_model(hedge=SOON), config={"callbacks": [Listener()]})
    losers_end()
    assert heard == ["start", "end"]


@pytest.mark.parametrize("how", ["stream", "astream", "invoke as a stream"])
def test_streams_are_not_hedged(how: str, simulate: Any, make_model: Any) -> None:
    server = simulate(faults=[Fault("slow", delay_seconds=0.1)])
    model = make_model(hedge=SOON, **({"streaming": True} if how == "invoke as a stream" else {}))

    async def read() -> list[Any]:
        return [chunk async for chunk in model.astream("Hi")]

    if how == "stream":
        assert list(model.stream("Hi"))
    elif how == "astream":
        assert asyncio.run(read())
    else:
        assert model.invoke("Hi").text
    assert len(server.requests) == 1


@both
@pytest.mark.parametrize("limits", [{"max_concurrency": 1}, {"requests_per_minute": 60}], ids=str)
def test_without_room_nothing_is_sent_again(
    call: Any, limits: dict[str, Any], simulate: Any, make_model: Any
) -> None:
    server = simulate(faults=[Fault("slow", delay_seconds=0.15)])
    call(make_model(hedge=SOON, rate_limits=RateLimits(**limits)))
    losers_end()
    assert len(server.requests) == 1


@both
def test_langchains_rate_limiter_is_asked_too(call: Any, simulate: Any, make_model: Any) -> None:
    limiter = InMemoryRateLimiter(requests_per_second=1, check_every_n_seconds=0.001, max_bucket_size=1)
    limiter._consume()  # starts its clock
    limiter.available_tokens = 1.0
    server = simulate(faults=[Fault("slow", delay_seconds=0.15)])
    call(make_model(hedge=SOON, rate_limiter=limiter))
    assert len(server.requests) == 1


@both
def test_a_rejection_keeps_it_quiet(call: Any, simulate: Any, make_model: Any) -> None:
    server = simulate(faults=["rate_limit", "ok", Fault("slow", delay_seconds=0.1)])
    model = make_model(hedge=SOON, rate_limits=None)
    call(model)
    call(model)
    assert len(server.requests) == 3


@both
def test_a_rejection_while_it_learns_keeps_it_quiet_too(call: Any, simulate: Any, make_model: Any) -> None:
    model = make_model(hedge=Hedge(after="p90", max_extra=0.2), rate_limits=None)
    simulate()
    model.batch([str(number) for number in range(19)], {"max_concurrency": 1})
    simulate(faults=["rate_limit"])
    call(model)  # the 20th answer, after which it knows what late is
    server = simulate(faults=[Fault("slow", delay_seconds=0.1)])
    call(model)
    assert len(server.requests) == 1


@both
def test_a_second_requests_rejection_keeps_it_quiet_too(call: Any, simulate: Any, make_model: Any) -> None:
    slow = Fault("slow", delay_seconds=0.1)
    server = simulate(faults=[slow, "rate_limit", slow])
    model = make_model(hedge=SOON, rate_limits=None)
    call(model)
    assert [request.status for request in server.requests] == [200, 429]
    call(model)
    assert len(server.requests) == 3


@both
def test_a_budget_for_one_sends_one(call: Any, simulate: Any, make_model: Any) -> None:
    server = simulate(faults=[Fault("slow", delay_seconds=0.15)])
    budget = Budget(tokens=200, strict=True)
    model = make_model(hedge=SOON, budget=budget, max_tokens=50)
    assert call(model).text
    losers_end()
    assert len(server.requests) == 1
    assert budget.reserved.tokens == 0


@both
def test_tools_and_structured_answers_are_hedged(call: Any, simulate: Any, make_model: Any) -> None:
    server = simulate(faults=[SLOW])
    schema = {"title": "Answer", "type": "object", "properties": {"text": {"type": "string"}}}
    answer = call(make_model(hedge=SOON).with_structured_output(schema))
    assert answer is not None
    assert len(server.requests) == 2
    losers_end()


async def test_a_call_that_is_cancelled_leaves_nothing_under_way(
    simulate: Any, make_model: Any, records: UsageLedger
) -> None:
    server = simulate(faults=[Fault("slow", delay_seconds=5)] * 2)
    budget = Budget(tokens=100_000)
    model = make_model(hedge=SOON, ledger=records, budget=budget)
    task = asyncio.create_task(model.ainvoke("Hi"))
    while len(server.requests) < 2:  # noqa: ASYNC110  another thread's
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [row.status for row in records.records()] == ["cancelled"] * 2
    assert budget.reserved.tokens == 0


def test_a_wrong_rule_is_refused(make_model: Any) -> None:
    with pytest.raises(ValueError, match="hedge"):
        make_model(hedge="p95")
    with pytest.raises(ValueError, match="circuit_breaker"):
        make_model(circuit_breaker=True)


def test_both_failing_raise_the_first_requests_error(simulate: Any, make_model: Any) -> None:
    simulate(faults=[Fault("stall", delay_seconds=0.1), "bad_request"])
    with pytest.raises(openai.APIConnectionError):
        make_model(hedge=SOON, retry=ONE_TRY).invoke("Hi")
