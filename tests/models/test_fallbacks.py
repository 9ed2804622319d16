"""`with_fallbacks`: a second model answers where the first one cannot, and both are counted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from lc_service import (
    Budget,
    BudgetExceeded,
    CircuitBreaker,
    CircuitOpenError,
    MalformedResponseError,
    ResponseFailedError,
    RetryWithExponentialBackoff,
    TruncatedResponseError,
    track_usage,
)
from lc_service.simulator import Simulator

TWO_TRIES = RetryWithExponentialBackoff(initial_delay=0.001, max_retries=1)
AT_ONCE = CircuitBreaker(failures=4, min_seconds=0)
PROVIDER_ERRORS = (  # as in docs/reliability.md
    openai.OpenAIError,
    CircuitOpenError,
    TruncatedResponseError,
    MalformedResponseError,
    ResponseFailedError,
)


async def drain(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"

CALLS: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda model: model.invoke("Hi"),
    "ainvoke": lambda model: asyncio.run(model.ainvoke("Hi")),
    "batch": lambda model: model.batch(["Hi"])[0],
    "abatch": lambda model: asyncio.run(model.abatch(["Hi"]))[0],
    "stream": lambda model: list(model.stream("Hi")),
    "astream": lambda model: asyncio.run(drain(model.astream("Hi"))),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture(scope="module")
def second_server() -> Any:
    with Simulator(max_lifetime_seconds=120) as server:
        yield server


@pytest.fixture
def second(make_model: Any, second_server: Simulator) -> Any:
    return make_model(model="gpt-4.1-nano", base_url=second_server.base_url)


@every_call
def test_the_second_answers_when_the_firsts_retries_are_used_up(
    call: Any, simulate: Any, make_model: Any, second: Any, second_server: Simulator
) -> None:
    server = simulate(faults=["server_error"] * 2)
    before = len(second_server.requests)
    with track_usage() as usage:
        assert call(make_model(retry=TWO_TRIES).with_fallbacks([second]))
    assert len(server.requests) == 2
    assert len(second_server.requests) == before + 1
    assert (usage.calls, usage.attempts) == (2, 3)
    attempts = {model: part.attempts for model, part in usage.group_by("model").items()}
    assert sorted(attempts.values()) == [1, 2]


@every_call
def test_the_second_answers_at_once_while_the_first_is_left_alone(
    call: Any, simulate: Any, make_model: Any, second: Any
) -> None:
    server = simulate(faults=["server_error"] * 9)
    model = make_model(retry=TWO_TRIES, circuit_breaker=AT_ONCE).with_fallbacks([second])
    for _ in range(2):
        call(model)
    assert len(server.requests) == 4
    with track_usage() as usage:
        for _ in range(3):
            assert call(model)
    assert len(server.requests) == 4
    assert usage.attempts == 3


def test_where_both_fail_the_firsts_error_is_raised(simulate: Any, make_model: Any) -> None:
    simulate(faults=["bad_request", "unauthorized"])
    with pytest.raises(openai.BadRequestError):
        make_model().with_fallbacks([make_model(model="gpt-4.1-nano")]).invoke("Hi")


def test_a_budget_stops_the_first_and_a_fallback_under_it_too(
    simulate: Any, make_model: Any, second: Any
) -> None:
    server = simulate()
    budget = Budget(tokens=10, strict=True)
    model = make_model(budget=budget)
    with pytest.raises(BudgetExceeded):
        model.with_fallbacks([make_model(model="gpt-4.1-nano", budget=budget)]).invoke("Hi")
    assert model.with_fallbacks([second]).invoke("Hi").text, "LangChain's default handles every Exception"
    with pytest.raises(BudgetExceeded):
        model.with_fallbacks([second], exceptions_to_handle=PROVIDER_ERRORS).invoke("Hi")
    assert server.requests == []


@pytest.mark.parametrize(
    "fault", ["reset", "unavailable", "insufficient_quota", "context_length", "not_json", "no_finish"]
)
def test_a_providers_failures_can_be_named(fault: str, simulate: Any, make_model: Any, second: Any) -> None:
    simulate(faults=[fault] * 2)
    model = make_model(retry=TWO_TRIES).with_fallbacks([second], exceptions_to_handle=PROVIDER_ERRORS)
    assert model.invoke("Hi").text


def test_the_documents_examples_run(simulate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = simulate(faults=["unauthorized", "ok"])
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    examples = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    for example in examples:
        exec(example, names)
    assert names["model"].invoke("Hi").text
    assert [request.model for request in server.requests] == ["gpt-5.4-mini", "gpt-5.4-nano"]


def test_tools_reach_both(simulate: Any, make_model: Any, second: Any) -> None:
    simulate(faults=["unauthorized"])
    schema = {"title": "Answer", "type": "object", "properties": {"text": {"type": "string"}}}
    model = make_model().with_fallbacks([second])
    answer = model.bind_tools([schema], tool_choice="any").invoke("Hi")
    assert [call["name"] for call in answer.tool_calls] == ["Answer"]
