"""`ReliableChatOpenAI` at work: what LangChain's other parts do with it, with faults in the way."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import ConfigurableField
from langchain_openai import ChatOpenAI, StreamChunkTimeoutError
from pydantic import BaseModel, Field, ValidationError, field_validator

from lc_service.models.chat import ReliableChatOpenAI
from lc_service.retry.errors import ErrorKind, TruncatedResponseError, classify
from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.simulator import Fault, FaultPlan

APIS = pytest.mark.parametrize("api", [{}, {"use_responses_api": True}], ids=["chat", "responses"])


@pytest.fixture(params=["sync", "async"])
def invoke(request: pytest.FixtureRequest):
    """Invoke any runnable, both ways."""
    if request.param == "sync":
        return lambda runnable, *args: runnable.invoke(*args)
    return lambda runnable, *args: asyncio.run(runnable.ainvoke(*args))


@pytest.fixture(params=["sync", "async"])
def stream(request: pytest.FixtureRequest):
    """Stream any runnable into a list, both ways."""

    async def collect(runnable, *args, **kwargs) -> list[Any]:
        return [chunk async for chunk in runnable.astream(*args, **kwargs)]

    if request.param == "sync":
        return lambda runnable, *args, **kwargs: list(runnable.stream(*args, **kwargs))
    return lambda runnable, *args, **kwargs: asyncio.run(collect(runnable, *args, **kwargs))


def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"Rain in {city}."


class Person(BaseModel):
    """A person."""

    name: str
    age: int = Field(ge=0)


# Waits and policies


@pytest.mark.parametrize("kind", ["rate_limit", "rate_limit_seconds", "rate_limit_reset"])
def test_the_server_says_how_long(kind, simulate, make_model, invoke, fake_clock):
    simulate(faults=[Fault(kind, retry_after_seconds=seconds) for seconds in (0.25, 7.5, 90)])
    invoke(make_model(max_retries=3), "Hello")
    assert fake_clock.waits == [0.25, 7.5, 60]  # at most max_delay


def test_the_deadline_ends_it(simulate, make_model, invoke, fake_clock):
    sim = simulate(faults=[Fault("rate_limit", retry_after_seconds=4)] * 9)
    model = make_model(retry=RetryWithExponentialBackoff(max_retries=9, deadline_seconds=10))
    with pytest.raises(openai.RateLimitError) as caught:
        invoke(model, "Hello")
    assert fake_clock.waits == [4.0, 4.0]
    assert len(sim.requests) == 3
    assert "gave up after 3 attempts in 8.0 s" in caught.value.__notes__[0]


def test_max_retries_0_is_one_request(simulate, make_model, invoke, stream):
    sim = simulate(faults=["server_error"] * 2)
    model = make_model(max_retries=0)
    for call in (invoke, stream):
        with pytest.raises(openai.InternalServerError):
            call(model, "Hello")
    assert len(sim.requests) == 2


class Watch(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def on_chat_model_start(self, *args, run_id, **kwargs) -> None:
        self.seen.append(("start", run_id))

    def on_llm_end(self, *args, run_id, **kwargs) -> None:
        self.seen.append(("end", run_id))

    def on_llm_error(self, *args, run_id, **kwargs) -> None:
        self.seen.append(("error", run_id))

    def on_retry(self, state, *, run_id, **kwargs) -> None:
        failed = state.outcome.exception()
        self.seen.append(
            (f"retry {state.attempt_number} {state.upcoming_sleep:g} {type(failed).__name__}", run_id)
        )


class AsyncWatch(Watch, AsyncCallbackHandler):
    async def on_retry(self, state, *, run_id, **kwargs) -> None:
        Watch.on_retry(self, state, run_id=run_id)

    async def on_chat_model_start(self, *args, run_id, **kwargs) -> None:
        self.seen.append(("start", run_id))

    async def on_llm_end(self, *args, run_id, **kwargs) -> None:
        self.seen.append(("end", run_id))


EXPECTED = ["start", "retry 1 7 OpenAIRateLimitError", "retry 2 2 OpenAIConnectionError", "end"]
FAULTS = [Fault("rate_limit", retry_after_seconds=7), "reset"]


def test_langchains_on_retry_fires_before_each_wait(simulate, make_model, invoke, fake_clock):
    simulate(faults=FAULTS)
    model = make_model(retry=RetryWithExponentialBackoff(jitter="none"))
    watch = Watch()
    invoke(model, "Hello", {"callbacks": [watch]})
    assert [word for word, _ in watch.seen] == EXPECTED
    assert len({run for _, run in watch.seen}) == 1


async def test_an_async_handler_is_told_too(simulate, make_model, fake_clock):
    simulate(faults=FAULTS)
    watch = AsyncWatch()
    model = make_model(retry=RetryWithExponentialBackoff(jitter="none"))
    await model.ainvoke("Hello", {"callbacks": [watch]})
    assert [word for word, _ in watch.seen] == EXPECTED


def test_the_policys_own_hook_is_told(simulate, make_model, invoke, stream, fake_clock):
    simulate(faults=["unavailable", None, "unavailable"])
    told = []
    model = make_model(retry=RetryWithExponentialBackoff(jitter="none", on_retry=told.append))
    invoke(model, "Hello")
    stream(model, "Hello")
    assert [(event.attempt, event.wait_seconds, event.verdict.kind) for event in told] == (
        [(1, 1.0, ErrorKind.SERVER_ERROR)] * 2
    )


# What is asked for


def test_n_answers(simulate, make_model):
    sim = simulate(faults=["rate_limit"])
    result = make_model(n=3).generate([[HumanMessage("Hello")]])
    assert len({generation.text for generation in result.generations[0]}) == 3
    assert result.llm_output["token_usage"]["total_tokens"] == sim.bill.total.total_tokens
    assert len(sim.requests) == 2


@APIS
def test_tools(api, simulate, make_model, invoke, stream):
    sim = simulate(faults=["rate_limit", None, "server_error"])
    model = make_model(**api).bind_tools([get_weather])
    call = invoke(model, "get_weather in Rome").tool_calls[0]
    assert (call["name"], "Rome" in call["args"]["city"]) == ("get_weather", True)
    first, *rest = stream(model, "get_weather in Rome")
    assert sum(rest, first).tool_calls[0]["args"] == call["args"]
    assert len(sim.requests) == 4


@APIS
@pytest.mark.parametrize("choice", ["any", "get_weather", True])
def test_a_forced_tool(choice, api, simulate, make_model, invoke):
    simulate(faults=["unavailable"])
    model = make_model(**api).bind_tools([get_weather], tool_choice=choice)
    assert invoke(model, "Say nothing of it").tool_calls[0]["name"] == "get_weather"


@APIS
def test_a_tool_call_that_breaks_off_is_truncated(api, simulate, make_model, stream):
    simulate(faults=[Fault("cut", after_chunks=2)])
    model = make_model(**api).bind_tools([get_weather])
    with pytest.raises(TruncatedResponseError) as caught:
        stream(model, "get_weather in Rome")
    assert caught.value.partial.tool_call_chunks[0]["name"] == "get_weather"


class Note(BaseModel):
    """A note."""

    title: str
    text: str


@APIS
@pytest.mark.parametrize("method", ["function_calling", "json_mode", "json_schema"])
def test_structured_output(method, api, simulate, make_model, invoke):
    faults = ["rate_limit", "not_json", "broken_json", "no_finish", "cut"]
    sim = simulate(faults=faults)
    model = make_model(**api).with_structured_output(Note, method=method)
    note = invoke(model, 'Ada found a swan. Answer as JSON with "title" and "text".')
    assert isinstance(note, Note)
    assert len(sim.requests) == len(faults) + 1


# of upstream's own serialisation of a parsed answer; stock ChatOpenAI warns too
UPSTREAM_WARNS = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


@UPSTREAM_WARNS
@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_streams(method, simulate, make_model, stream):
    sim = simulate(faults=["rate_limit", "reset"])
    structured = make_model().with_structured_output(Person, method=method)
    assert isinstance(stream(structured, "Ada is 36.")[-1], Person)
    assert len(sim.requests) == 3


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_that_breaks_off_is_truncated(method, simulate, make_model, stream):
    sim = simulate(faults=[Fault("cut", after_chunks=3)])
    structured = make_model().with_structured_output(Person, method=method)
    with pytest.raises(TruncatedResponseError):
        stream(structured, "Ada is 36.")
    assert len(sim.requests) == 1


def test_an_answer_the_schema_refuses_is_not_asked_for_again(simulate, make_model, invoke):
    class Picky(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def refuse(cls, value: str) -> str:
            raise ValueError("not good enough")

    sim = simulate()
    with pytest.raises(ValidationError, match="not good enough"):
        invoke(make_model().with_structured_output(Picky, method="json_schema"), "Ada")
    assert len(sim.requests) == 1


def test_a_structured_answer_beyond_the_callers_limit_is_not_asked_for_again(
    simulate, make_model, invoke, stream
):
    sim = simulate()
    structured = make_model(max_tokens=2).with_structured_output(Person, method="json_schema")
    for call in (invoke, stream):
        with pytest.raises(openai.LengthFinishReasonError):
            call(structured, "Ada is 36.")
    assert len(sim.requests) == 2


def test_a_limit_of_the_callers_own_is_an_end(simulate, make_model, invoke, stream):
    sim = simulate()
    for api in ({}, {"use_responses_api": True}):
        model = make_model(max_tokens=3, **api)
        assert invoke(model, "What is the meaning of all this?").text
        assert stream(model, "What is the meaning of all this?")
    assert len(sim.requests) == 4


def test_reasoning_through_the_responses_api(simulate, make_model, invoke, stream):
    sim = simulate(faults=["rate_limit", None, "reset"])
    model = make_model(model="o4-mini", reasoning={"effort": "low"})
    answer = invoke(model, "Hello")
    assert answer.usage_metadata["output_token_details"]["reasoning"] > 0
    assert "Hello" in "".join(chunk.text for chunk in stream(model, "Hello"))
    assert {request.path for request in sim.requests} == {"/v1/responses"}
    assert len(sim.requests) == 4


@APIS
def test_streaming_true_retries_until_content_and_is_billed_once(api, simulate, make_model, invoke):
    sim = simulate(faults=["rate_limit", "reset", Fault("cut", after_chunks=0)])
    answer = invoke(make_model(streaming=True, **api), "Hello")
    assert "Hello" in answer.text
    assert answer.usage_metadata["total_tokens"] == sim.requests[-1].usage.total_tokens
    assert len(sim.requests) == 4
    assert all(request.streamed for request in sim.requests)


@APIS
def test_streaming_true_has_shown_its_chunks_to_the_callbacks(api, simulate, make_model, invoke):
    # invoke is a stream inside: on_llm_new_token had the first chunks, so it is not begun again
    sim = simulate(faults=[Fault("cut", after_chunks=3)])
    with pytest.raises(TruncatedResponseError) as caught:
        invoke(make_model(streaming=True, **api), "Hello")
    assert caught.value.partial.text
    assert len(sim.requests) == 1


def sse(*chunks: dict[str, Any]) -> bytes:
    base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    events = [
        base | {"choices": [{"index": 0, "delta": {}, "finish_reason": None} | chunk]} for chunk in chunks
    ]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


class Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A response body that may end in an error."""

    def __init__(self, data: bytes, error: Exception | None = None) -> None:
        self._data, self._error = data, error

    def __iter__(self):
        yield self._data
        if self._error is not None:
            raise self._error

    async def __aiter__(self):
        for data in self:
            yield data


OPENING = {"delta": {"role": "assistant", "content": "", "refusal": None}}
ANSWER = ({"delta": {"content": "Hello"}}, {"finish_reason": "stop"})


@UPSTREAM_WARNS
@pytest.mark.parametrize(
    "first",
    [
        Body(sse(OPENING), httpx2.ReadError("reset")),
        Body(sse(OPENING), httpx2.ReadTimeout("silence")),
        Body(sse(OPENING)),
        Body(sse(OPENING) + b'data: {"error": {"message": "m", "type": "server_error", "code": null}}\n\n'),
        Body(sse(OPENING) + b"data: {half a"),
        Body(sse(OPENING) + b'data: {"choices": 7}\n\n'),
    ],
    ids=["reset", "timeout", "ends", "error-event", "broken-json", "no-chunk"],
)
def test_a_stream_that_dies_after_its_opening_is_retried_unseen(first, make_model, stream):
    bodies = [first, Body(sse(OPENING, *ANSWER))]

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=bodies.pop(0))

    async def aanswer(request: httpx2.Request) -> httpx2.Response:
        return answer(request)

    model = make_model(
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
        http_async_client=httpx2.AsyncClient(transport=httpx2.MockTransport(aanswer)),
    )
    chunks = stream(model, "x")
    assert "".join(chunk.text for chunk in chunks) == "Hello"
    assert bodies == []
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_chunk_timeout_is_retried_and_stays_langchains_own(simulate, make_model):
    async def collect(model) -> None:
        async for _ in model.astream("Hello"):
            pass

    sim = simulate(faults=[Fault("stall", after_chunks=0, delay_seconds=2)] * 2)
    model = make_model(stream_chunk_timeout=0.03, max_retries=1).with_retry(
        exponential_jitter_params={"max": 0.001}
    )
    with pytest.raises(StreamChunkTimeoutError):
        asyncio.run(collect(model))
    assert len(sim.requests) == 2


# Inside LangChain's other parts


def test_a_chain(simulate, make_model, invoke, stream):
    sim = simulate(faults=["rate_limit", None, "reset"])
    chain = ChatPromptTemplate.from_template("Say hello to {name}.") | make_model() | StrOutputParser()
    assert "Ada" in invoke(chain, {"name": "Ada"})
    pieces = stream(chain, {"name": "Ada"})
    assert len(pieces) > 1
    assert "Ada" in "".join(pieces)
    assert len(sim.requests) == 4


def test_fallbacks(simulate, make_model, invoke):
    sim = simulate(faults=["server_error"] * 2)
    chain = make_model(model="first", max_retries=1).with_fallbacks([make_model(model="second")])
    answer = invoke(chain, "Hello")
    assert answer.response_metadata["model_name"] == "second"
    assert [request.model for request in sim.requests] == ["first", "first", "second"]


def test_alternatives(simulate, make_model, invoke):
    sim = simulate(faults=["rate_limit"])
    model = make_model(model="first").configurable_alternatives(
        ConfigurableField("which"), default_key="first", second=make_model(model="second")
    )
    assert invoke(model, "Hello").text
    assert invoke(model, "Hello", {"configurable": {"which": "second"}}).text
    assert [request.model for request in sim.requests] == ["first", "first", "second"]


def test_a_model_by_name_at_call_time(simulate, make_model):
    sim = simulate(faults=["rate_limit"])
    make_model().invoke("Hello", model="another")
    assert [request.model for request in sim.requests] == ["another"] * 2


STATE = {"messages": [HumanMessage("get_weather in Rome")]}
PLAN = {"rate": 0.2, "kinds": ("rate_limit", "server_error", "unavailable", "reset", "not_json")}


def assert_weather(messages: list[Any]) -> None:
    assert [type(message) for message in messages] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert "Rain in" in messages[-1].text


@APIS
def test_an_agent_under_faults(api, simulate, make_model, invoke):
    faulty = 0
    for seed in range(5):
        sim = simulate(faults=FaultPlan(seed=seed, **PLAN))
        agent = create_agent(make_model(**api), tools=[get_weather])
        messages = invoke(agent, STATE)["messages"]
        assert_weather(messages)
        assert sum(m.usage_metadata["total_tokens"] for m in messages if isinstance(m, AIMessage)) == (
            sim.bill.total.total_tokens
        )
        faulty += len(sim.requests) > 2
    assert faulty  # or the test has shown nothing


@APIS
def test_a_streamed_agent_under_faults(api, simulate, make_model, stream):
    faulty = 0
    for seed in range(5):
        sim = simulate(faults=FaultPlan(seed=seed, **PLAN))
        agent = create_agent(make_model(**api), tools=[get_weather])
        parts = stream(agent, STATE, stream_mode=["messages", "values"])
        assert_weather([part for mode, part in parts if mode == "values"][-1]["messages"])
        tokens = [part[0].text for mode, part in parts if mode == "messages"]
        assert "Rain in" in "".join(tokens)
        faulty += len(sim.requests) > 2
    assert faulty


def test_an_agent_with_a_retried_model(simulate, make_model, invoke):
    sim = simulate(faults=["server_error"] * 2)
    model = make_model(max_retries=0).with_retry(
        retry=RetryWithExponentialBackoff(initial_delay=0.001, max_retries=2)
    )
    assert_weather(invoke(create_agent(model, tools=[get_weather]), STATE)["messages"])
    assert len(sim.requests) == 4


def summarizer(model: ReliableChatOpenAI) -> SummarizationMiddleware:
    return SummarizationMiddleware(model=model, trigger=("messages", 4), keep=("messages", 2))


def test_summarization_retries_inside_the_model(simulate, make_model, invoke):
    sim = simulate(faults=["rate_limit", None, "rate_limit"])
    model = make_model()
    middleware = summarizer(model)
    assert isinstance(middleware._summary_model, ReliableChatOpenAI)
    agent = create_agent(model, tools=[], middleware=[middleware])
    history = [HumanMessage("One."), AIMessage("Two."), HumanMessage("Three."), AIMessage("Four.")]
    result = invoke(agent, {"messages": [*history, HumanMessage("Five?")]})
    assert "Five?" in result["messages"][-1].text
    assert len(sim.requests) == 4


def test_summarization_recovers_from_context_overflow(simulate, make_model, invoke):
    # it catches ContextOverflowError only, which stock langchain-openai no longer raises with openai 3
    sim = simulate(faults=["context_length"])
    agent = create_agent(make_model(), tools=[], middleware=[summarizer(make_model())])
    history = [make("Long. " * 50) for make in (HumanMessage, AIMessage) * 4]
    assert "Five?" in invoke(agent, {"messages": [*history, HumanMessage("Five?")]})["messages"][-1].text
    assert [request.status for request in sim.requests] == [400, 200, 200]


def test_upstream_still_names_context_overflow_wrongly(simulate, make_model):
    # when this fails, langchain-openai has been mended: pipeline._rightly_named can lose its first half
    simulate(faults=["context_length"])
    with pytest.raises(openai.BadRequestError) as caught:
        make_model(ChatOpenAI, max_retries=0).invoke("Hello")
    assert not isinstance(caught.value, ContextOverflowError)


def test_upstream_still_calls_a_reset_a_timeout(simulate, make_model):
    # when this fails, openai's aiohttp transport has been mended: so can pipeline._is_lost_connection
    simulate(faults=["reset"])

    async def main() -> None:
        async with openai.DefaultAioHttpClient() as client:
            await make_model(ChatOpenAI, max_retries=0, http_async_client=client).ainvoke("Hello")

    with pytest.raises(openai.APITimeoutError) as caught:
        asyncio.run(main())
    assert classify(caught.value).kind is ErrorKind.TIMEOUT


def test_an_agent_streamed_by_message_has_shown_its_tokens(simulate, make_model):
    sim = simulate(faults=[None, Fault("cut", after_chunks=3)])
    agent = create_agent(make_model(), tools=[get_weather])
    with pytest.raises(TruncatedResponseError):
        list(agent.stream(STATE, stream_mode="messages"))
    assert len(sim.requests) == 2
    sim = simulate(faults=[None, Fault("cut", after_chunks=3)])
    assert_weather(list(agent.stream(STATE, stream_mode="values"))[-1]["messages"])
    assert len(sim.requests) == 3


def test_a_callers_rate_limiter_is_asked_for_each_attempt(simulate, make_model, invoke):
    class Counting(BaseRateLimiter):
        asked = 0

        def acquire(self, *, blocking: bool = True) -> bool:
            self.asked += 1
            return blocking

        async def aacquire(self, *, blocking: bool = True) -> bool:
            return self.acquire(blocking=blocking)

    sim, limiter = simulate(faults=["unavailable", "unavailable"]), Counting()
    invoke(make_model(rate_limiter=limiter), "Hello")
    assert limiter.asked == len(sim.requests) == 3
