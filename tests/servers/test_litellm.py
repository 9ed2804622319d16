"""LiteLLM's proxy: limits that are enforced by the minute of the clock, in headers of its own kind."""

from __future__ import annotations

import time

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from lc_service import track_usage
from lc_service.retry.errors import ErrorKind, MalformedResponseError, classify

pytestmark = pytest.mark.servers


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"Sunny in {city}."


def wait_for_a_minute_with(needed_seconds: float) -> None:
    """Wait until the clock's minute, which the limits are counted by, has `needed_seconds` left."""
    left = 60 - time.time() % 60
    if left < needed_seconds:
        time.sleep(left + 0.1)


@pytest.mark.timeout(200)
async def test_a_batch_above_the_limit_finishes_without_loss(litellm):
    model = litellm.chat(model="mock-120-a-minute")
    with track_usage() as usage:
        answers = await model.abatch(["hello"] * 150)
    assert [answer.text for answer in answers] == ["let through"] * 150
    assert usage.group_by("status")["ok"].attempts == usage.calls == 150
    assert usage.attempts <= 200, "in the dark one asks at a time"


@pytest.mark.timeout(200)
def test_a_batch_within_the_limit_goes_through_at_once(litellm):
    wait_for_a_minute_with(15)
    model = litellm.chat(model="mock-120-a-minute")
    with track_usage() as usage:
        answers = model.batch(["hello"] * 40)
    assert [answer.text for answer in answers] == ["let through"] * 40
    assert usage.attempts == 40


@pytest.mark.timeout(200)
def test_what_is_counted_is_what_the_limit_was_charged(litellm):
    wait_for_a_minute_with(10)

    def left() -> int:
        headers = litellm.ask(model="mock-3000-tokens-a-minute").headers
        return int(headers["x-ratelimit-remaining-tokens"])

    before = left()
    with track_usage() as usage:
        litellm.chat(model="mock-3000-tokens-a-minute").batch(["hello"] * 8)
    own = litellm.ask(model="mock").json()["usage"]["total_tokens"]
    assert before - left() == usage.total.total_tokens + own > own


def test_what_a_call_costs_is_what_the_proxy_says(litellm):
    told = float(litellm.ask("hello").headers["x-litellm-response-cost"])
    with track_usage() as usage:
        litellm.chat().invoke("hello")
    assert told > 0
    assert float(usage.cost_usd) == pytest.approx(told, rel=1e-9)


def test_an_agent_through_the_proxy_has_all_its_requests_counted(litellm):
    agent = create_agent(litellm.chat(), [get_weather])
    with track_usage() as usage:
        messages = agent.invoke({"messages": [("user", "What is the weather in Paris?")]})["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[-1].text == "It is sunny in Paris."
    assert usage.attempts == usage.measured == 2


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_through_the_proxy(litellm, method):
    model = litellm.chat().with_structured_output(Person, method=method)
    assert model.invoke("who is it?") == Person(name="Ada", age=36)


def test_several_choices_are_counted_once(litellm):
    with track_usage() as usage:
        result = litellm.chat(model="mock", n=3).generate([[HumanMessage("hello")]])
    assert [generation.text for generation in result.generations[0]] == ["Hello from the mock."] * 3
    assert usage.total.total_tokens == litellm.ask(model="mock", n=3).json()["usage"]["total_tokens"]


@pytest.mark.parametrize(
    ("model", "kind"), [("mock-429", ErrorKind.RATE_LIMIT), ("mock-500", ErrorKind.SERVER_ERROR)]
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_fault_that_stays_is_raised_after_all_its_attempts(litellm, model, kind, is_stream):
    faulty = litellm.chat(model=model, streaming=is_stream, circuit_breaker=None)
    with track_usage() as usage, pytest.raises(Exception) as caught:
        faulty.invoke("hello")
    assert classify(caught.value).kind is kind
    assert usage.attempts == 1 + faulty.retry.max_retries
    assert usage.total.total_tokens == 0


def test_vectors_that_are_none_are_not_passed_off_as_some(litellm):
    model = litellm.embeddings(model="mock-one-vector")  # one for all texts, and that is a string
    with track_usage() as usage, pytest.raises(MalformedResponseError):
        model.embed_documents(["copper", "tin"])
    assert usage.attempts == 1 + model.retry.max_retries
