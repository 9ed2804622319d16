"""aimock: a server of scripted answers, with tools and faults, whose journal says how often it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from pydantic import BaseModel

from lc_service import RetryWithExponentialBackoff, track_usage
from lc_service.retry.errors import ErrorKind, TruncatedResponseError, classify


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"Sunny in {city}."


@pytest.fixture
def asked(aimock) -> Callable[[], int]:
    """How many requests the server has in its journal since the test began."""
    aimock.post("/__aimock/reset/journal", {}).raise_for_status()
    return lambda: len(aimock.get("/__aimock/journal").json())


@pytest.fixture
def chaos(aimock) -> Iterator[Callable[..., None]]:
    """Let requests fail at a rate from 0 to 1, until the test ends."""
    yield lambda **rates: aimock.post("/__aimock/chaos", rates).raise_for_status()
    aimock.delete("/__aimock/chaos").raise_for_status()


def test_each_answer_of_a_batch_belongs_to_its_input(aimock):
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"] * 3
    answers = aimock.chat().batch([f"number {word}, please" for word in words])
    assert [answer.text for answer in answers] == [str(n) for n in range(1, 9)] * 3


def test_an_agent_calls_a_tool_and_all_its_requests_are_counted(aimock, asked):
    agent = create_agent(aimock.chat(), [get_weather])
    with track_usage() as usage:
        messages = agent.invoke({"messages": [("user", "What is the weather in Paris?")]})["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[2].text == "Sunny in Paris."
    assert messages[-1].text == "It is sunny in Paris."
    assert usage.attempts == usage.measured == asked() == 2
    assert usage.total.total_tokens == sum(
        message.usage_metadata["total_tokens"] for message in messages if message.type == "ai"
    )


def test_a_streamed_tool_call_is_put_together(aimock):
    chunks = list(aimock.chat().bind_tools([get_weather]).stream("What is the weather?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("get_weather", {"city": "Paris"})]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_in_each_method(aimock, asked, method):
    with track_usage() as usage:
        person = aimock.chat().with_structured_output(Person, method=method).invoke("Who is it? who is it")
    assert person == Person(name="Ada", age=36)
    assert usage.measured == asked() == 1


def test_the_responses_api(aimock):
    model = aimock.chat(use_responses_api=True)
    with track_usage() as usage:
        answer = model.invoke("hello")
        pieces = [chunk.text for chunk in model.stream("hello")]
    assert answer.text == "".join(pieces) == "Hello! How can I help you today?"
    assert (usage.calls, usage.attempts) == (2, 2)
    assert usage.total.total_tokens == 0  # as it tells


def test_a_rejection_waits_as_long_as_the_server_asks(aimock, asked, fake_clock):
    model = aimock.chat(retry=RetryWithExponentialBackoff(initial_delay=0.01, max_delay=60))
    with track_usage() as usage:
        assert model.invoke("I am limited").text == "let through"
    assert sum(fake_clock.waits) == pytest.approx(7, abs=0.5)
    assert usage.attempts == asked() == 2
    assert usage.group_by("status").keys() == {"ok", "failed"}


def test_an_overload_is_tried_again(aimock, asked):
    with track_usage() as usage:
        assert aimock.chat().invoke("are you overloaded?").text == "recovered"
    assert usage.attempts == asked() == 2


FAULTS = {
    "dropRate": ErrorKind.SERVER_ERROR,
    "malformedRate": ErrorKind.MALFORMED,
    "disconnectRate": ErrorKind.CONNECTION,
}


@pytest.mark.parametrize("rate", FAULTS)
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_fault_that_stays_is_raised_after_all_its_attempts(aimock, asked, chaos, rate, is_stream):
    chaos(**{rate: 1})
    model = aimock.chat(circuit_breaker=None, streaming=is_stream)
    with track_usage() as usage, pytest.raises(Exception) as caught:
        model.invoke("hello")
    assert classify(caught.value).kind is FAULTS[rate]
    assert usage.attempts == asked() == 1 + model.retry.max_retries
    assert usage.total.output_tokens == 0


async def test_a_batch_through_all_faults_at_once_loses_nothing(aimock, asked, chaos):
    chaos(**dict.fromkeys(FAULTS, 0.15))
    retry = RetryWithExponentialBackoff(initial_delay=0.001, max_delay=0.002, max_retries=30)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"] * 5
    with track_usage() as usage:
        model = aimock.chat(retry=retry, circuit_breaker=None)
        answers = await model.abatch([f"number {word}" for word in words])
    assert [answer.text for answer in answers] == [str(n) for n in range(1, 9)] * 5
    assert (usage.calls, usage.group_by("status")["ok"].attempts) == (40, 40)
    assert usage.attempts == asked() > 40


def test_vectors_through_faults_still_belong_to_their_texts(aimock, chaos):
    texts = [f"metal {n}" for n in range(20)]
    before = aimock.embeddings().embed_documents(texts)
    chaos(**dict.fromkeys(FAULTS, 0.2))
    retry = RetryWithExponentialBackoff(initial_delay=0.001, max_delay=0.002, max_retries=30)
    model = aimock.embeddings(retry=retry, chunk_size=2, circuit_breaker=None)
    assert model.embed_documents(texts) == before


def test_a_stream_that_breaks_off_is_no_answer(aimock, asked):
    pieces: list[str] = []
    with track_usage() as usage, pytest.raises(TruncatedResponseError) as caught:
        pieces.extend(chunk.text for chunk in aimock.chat().stream("a story that breaks off"))
    assert "".join(pieces) == caught.value.partial.text
    assert caught.value.partial.text.startswith("It bega")
    assert (usage.attempts, usage.estimated) == (asked(), 1) == (1, 1)


async def test_a_stream_that_breaks_off_is_no_answer_to_those_who_await_it(aimock, asked):
    with track_usage() as usage, pytest.raises(TruncatedResponseError) as caught:
        await aimock.chat(streaming=True).ainvoke("a story that breaks off")
    assert caught.value.partial.text.startswith("It bega")
    assert (usage.attempts, usage.estimated) == (asked(), 1) == (1, 1)


def test_a_server_that_does_not_know_the_question_is_asked_once(aimock, asked):
    with pytest.raises(Exception) as caught:
        aimock.chat().invoke("nobody has scripted this")
    assert classify(caught.value).kind is ErrorKind.NOT_FOUND
    assert asked() == 1
