"""What is counted equals what the server billed, call shape by call shape."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from lc_service import RetryWithExponentialBackoff, TokenCounter, track_usage, with_retry

TEXTS = [f"Text number {number} is about the sea." for number in range(5)]
PROMPT = ChatPromptTemplate.from_template("Tell me about {topic}.")


class Place(BaseModel):
    """Describe a place."""

    name: str
    country: str


@tool
def get_weather(city: str) -> str:
    """Say what the weather is like in a city."""
    return f"It is sunny in {city}."


def chain(bench: Any, **options: Any) -> Any:
    return PROMPT | bench.model(**options) | StrOutputParser()


# --- plain calls ------------------------------------------------------------------------------------------


def invoke(bench: Any) -> None:
    bench.model().invoke("Hello", bench.config)


async def ainvoke(bench: Any) -> None:
    await bench.model().ainvoke("Hello", bench.config)


def batch(bench: Any) -> None:
    bench.model().batch(TEXTS, bench.config)


async def abatch(bench: Any) -> None:
    await bench.model().abatch(TEXTS, bench.config)


def batch_as_completed(bench: Any) -> None:
    assert len(list(bench.model().batch_as_completed(TEXTS, bench.config))) == 5


async def abatch_as_completed(bench: Any) -> None:
    assert len([item async for item in bench.model().abatch_as_completed(TEXTS, bench.config)]) == 5


def generate(bench: Any) -> None:
    with warnings.catch_warnings():  # ChatOpenAI's own sum of several answers stumbles over null details
        warnings.filterwarnings("ignore", "Unexpected type for token usage")
        bench.model().generate([[HumanMessage(text)] for text in TEXTS], callbacks=[bench.counter])


def tools(bench: Any) -> None:
    answer = bench.model().bind_tools([get_weather]).invoke("get_weather of Paris, please", bench.config)
    assert answer.tool_calls


def forced_tool(bench: Any) -> None:
    model = bench.model().bind_tools([get_weather], tool_choice="get_weather")
    assert model.invoke("Hello", bench.config).tool_calls


def structured_by_schema(bench: Any) -> None:
    place = bench.model().with_structured_output(Place).invoke("Paris in France", bench.config)
    assert isinstance(place, Place)


async def structured_by_function(bench: Any) -> None:
    model = bench.model().with_structured_output(Place, method="function_calling")
    assert isinstance(await model.ainvoke("Paris in France", bench.config), Place)


def structured_by_json_mode(bench: Any) -> None:
    model = bench.model().with_structured_output(Place, method="json_mode", include_raw=True)
    answer = model.invoke("JSON with 'name' and 'country' of Paris in France", bench.config)
    assert isinstance(answer["parsed"], Place)


def several_choices(bench: Any) -> None:
    result = bench.model(n=3).generate([[HumanMessage("Hello")]], callbacks=[bench.counter])
    assert len(result.generations[0]) == 3


async def several_choices_async(bench: Any) -> None:
    await bench.model(n=3).ainvoke("Hello", bench.config)


def responses_api(bench: Any) -> None:
    bench.model(use_responses_api=True).invoke("Hello", bench.config)


def same_counter_twice(bench: Any) -> None:
    (PROMPT | bench.model(callbacks=[bench.counter])).invoke({"topic": "the sea"}, bench.config)


# --- streams ----------------------------------------------------------------------------------------------


def stream(bench: Any) -> None:
    assert len(list(bench.model().stream("Hello", bench.config))) > 3


async def astream(bench: Any) -> None:
    assert len([chunk async for chunk in bench.model().astream("Hello", bench.config)]) > 3


def streaming_switched_on(bench: Any) -> None:
    bench.model(streaming=True).invoke("Hello", bench.config)


async def streaming_switched_on_async(bench: Any) -> None:
    await bench.model(streaming=True).abatch(TEXTS, bench.config)


def streamed_tools(bench: Any) -> None:
    list(bench.model().bind_tools([get_weather]).stream("get_weather of Paris, please", bench.config))


def responses_api_stream(bench: Any) -> None:
    list(bench.model(use_responses_api=True).stream("Hello", bench.config))


async def responses_api_astream(bench: Any) -> None:
    async for _ in bench.model(use_responses_api=True).astream("Hello", bench.config):
        pass


def chain_stream(bench: Any) -> None:
    assert len(list(chain(bench).stream({"topic": "the sea"}, bench.config))) > 3


async def events(bench: Any) -> None:
    seen = [e async for e in chain(bench).astream_events({"topic": "the sea"}, bench.config, version="v2")]
    assert any(event["event"] == "on_chat_model_stream" for event in seen)


async def events_of_the_model(bench: Any) -> None:
    async for _ in bench.model().astream_events("Hello", bench.config, version="v2"):
        pass


# --- compositions -----------------------------------------------------------------------------------------


def parallel(bench: Any) -> None:
    both = RunnableParallel(one=chain(bench), two=chain(bench, model="gpt-4.1-mini", reasoning_effort=None))
    both.invoke({"topic": "the sea"}, bench.config)


async def aparallel(bench: Any) -> None:
    both = RunnableParallel(one=chain(bench), two=chain(bench, model="gpt-4.1-mini", reasoning_effort=None))
    await both.ainvoke({"topic": "the sea"}, bench.config)


def chain_batch(bench: Any) -> None:
    chain(bench).batch([{"topic": text} for text in TEXTS], bench.config)


def chain_with_config(bench: Any) -> None:
    chain(bench).with_config(bench.config).invoke({"topic": "the sea"})


def fallbacks(bench: Any) -> None:
    lame = bench.model(base_url="http://127.0.0.1:1/v1", max_retries=0)
    (PROMPT | lame.with_fallbacks([bench.model()])).invoke({"topic": "the sea"}, bench.config)


async def afallbacks(bench: Any) -> None:
    lame = bench.model(base_url="http://127.0.0.1:1/v1", max_retries=0)
    await lame.with_fallbacks([bench.model()]).ainvoke("Hello", bench.config)


def retried_chain(bench: Any) -> None:
    policy = RetryWithExponentialBackoff(0.001, 0.001)
    with_retry(chain(bench, max_retries=0), policy).invoke({"topic": "the sea"}, bench.config)


def in_a_lambda(bench: Any) -> None:
    RunnableLambda(bench.model().invoke).invoke("Hello", bench.config)


def agent(bench: Any) -> None:
    answer = _agent(bench).invoke(_question(), bench.config)
    assert "sunny" in answer["messages"][-1].text


async def aagent(bench: Any) -> None:
    answer = await _agent(bench).ainvoke(_question(), bench.config)
    assert "sunny" in answer["messages"][-1].text


def agent_stream(bench: Any) -> None:
    assert list(_agent(bench).stream(_question(), bench.config, stream_mode="messages"))


async def agent_astream(bench: Any) -> None:
    steps = _agent(bench).astream(_question(), bench.config, stream_mode="messages")
    assert [step async for step in steps]


def _agent(bench: Any) -> Any:
    return create_agent(bench.model(), tools=[get_weather])


def _question() -> Any:
    return {"messages": [{"role": "user", "content": "Call get_weather for Paris."}]}


# --- threads and tasks ------------------------------------------------------------------------------------


def threads(bench: Any) -> None:
    model = bench.model()
    running = [
        threading.Thread(target=copy_context().run, args=(model.invoke, text, bench.config)) for text in TEXTS
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


async def tasks(bench: Any) -> None:
    model = bench.model()
    async with asyncio.TaskGroup() as group:
        for text in TEXTS:
            group.create_task(model.ainvoke(text, bench.config))


async def gather(bench: Any) -> None:
    model = bench.model()
    await asyncio.gather(*(model.ainvoke(text, bench.config) for text in TEXTS))


async def to_thread(bench: Any) -> None:
    model = bench.model()
    await asyncio.gather(*(asyncio.to_thread(model.invoke, text, bench.config) for text in TEXTS))


def ten_event_loops(bench: Any) -> None:
    model, embeddings = bench.model(), bench.embeddings(callbacks=[bench.counter])

    async def both(text: str) -> None:
        await model.ainvoke(text, bench.config)
        await embeddings.aembed_query(text)

    for number in range(10):
        asyncio.run(both(f"Hello number {number}"))


# --- embeddings -------------------------------------------------------------------------------------------


def embed(bench: Any) -> None:
    embeddings = bench.embeddings(callbacks=[bench.counter])
    embeddings.embed_documents(TEXTS)
    embeddings.embed_query("Where is the sea?")


async def aembed(bench: Any) -> None:
    embeddings = bench.embeddings(callbacks=[bench.counter])
    await embeddings.aembed_documents(TEXTS)
    await embeddings.aembed_query("Where is the sea?")


def embed_in_chunks(bench: Any) -> None:
    bench.embeddings(callbacks=[bench.counter], chunk_size=2).embed_documents(TEXTS)
    assert bench.sim.bill.requests == 3


async def aembed_long_texts(bench: Any) -> None:
    embeddings = bench.embeddings(callbacks=[bench.counter], chunk_size=3, embedding_ctx_length=8)
    await embeddings.aembed_documents(TEXTS)
    assert bench.sim.bill.requests > 3


def embed_in_a_chain(bench: Any) -> None:
    embeddings = bench.embeddings()
    step = RunnableLambda(embeddings.embed_query) | (lambda vector: str(vector[0])) | bench.model()
    step.invoke("Where is the sea?", bench.config)


async def aembed_in_a_chain(bench: Any) -> None:
    embeddings = bench.embeddings()
    step = RunnableLambda(embeddings.embed_query, afunc=embeddings.aembed_query) | (lambda v: str(v[0]))
    await (step | bench.model()).ainvoke("Where is the sea?", bench.config)


Shape = Callable[[Any], Awaitable[None] | None]
SHAPES: list[Shape] = [
    invoke, ainvoke, batch, abatch, batch_as_completed, abatch_as_completed, generate, tools, forced_tool,
    structured_by_schema, structured_by_function, structured_by_json_mode, several_choices,
    several_choices_async, responses_api, same_counter_twice,
    stream, astream, streaming_switched_on, streaming_switched_on_async, streamed_tools, responses_api_stream,
    responses_api_astream, chain_stream, events, events_of_the_model,
    parallel, aparallel, chain_batch, chain_with_config, fallbacks, afallbacks, retried_chain, in_a_lambda,
    agent, aagent, agent_stream, agent_astream,
    threads, tasks, gather, to_thread, ten_event_loops,
    embed, aembed, embed_in_chunks, aembed_long_texts, embed_in_a_chain, aembed_in_a_chain,
]  # fmt: skip


def run(shape: Shape, bench: Any) -> None:
    if asyncio.iscoroutinefunction(shape):
        asyncio.run(shape(bench))
    else:
        shape(bench)


@pytest.mark.parametrize("plan", ["clean", "rate_limited"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_counted_is_what_was_billed(shape: Shape, plan: str, make_bench: Any) -> None:
    bench = make_bench(plan)
    with track_usage() as outer, track_usage() as inner:
        run(shape, bench)
    failed_calls = int(
        shape in (fallbacks, afallbacks) or (shape is retried_chain and plan == "rate_limited")
    )
    bench.assert_counted(bench.counter.usage, inner, outer, failed_calls=failed_calls)
    refused = sum(request.status == 429 for request in bench.sim.requests)
    assert refused == (0 if plan == "clean" else bench.sim.bill.requests)
    if bench.sim.bill.by("o4-mini").requests:
        assert bench.counter.usage.total.reasoning_tokens > 0


# A stream that has begun cannot be repeated, so a stream's truncation is an error, not a retry.
PLAIN = [
    invoke, ainvoke, batch, abatch, batch_as_completed, abatch_as_completed, generate, forced_tool,
    structured_by_schema, several_choices, several_choices_async, responses_api, same_counter_twice, parallel,
    aparallel, chain_batch, retried_chain, in_a_lambda, agent, aagent, threads, gather, to_thread,
]  # fmt: skip


@pytest.mark.parametrize("shape", PLAIN, ids=lambda shape: shape.__name__)
def test_a_paid_attempt_that_was_cut_off_and_retried_is_counted(shape: Shape, make_bench: Any) -> None:
    bench = make_bench("no_finish")
    with track_usage() as outer, track_usage() as inner:
        run(shape, bench)
    assert bench.sim.bill.interrupted_requests * 2 == bench.sim.bill.requests
    # a chain that is retried from outside calls its model anew
    bench.assert_counted(bench.counter.usage, inner, outer, failed_calls=int(shape is retried_chain))


# --- LangChain's cache ------------------------------------------------------------------------------------


@pytest.fixture
def _llm_cache() -> Any:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


@pytest.mark.usefixtures("_llm_cache")
@pytest.mark.parametrize("options", [{}, {"n": 2}, {"use_responses_api": True}, {"streaming": True}], ids=str)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_answer_from_the_cache_counts_as_a_call_without_tokens(
    options: dict[str, Any], is_async: bool, bench: Any
) -> None:
    async def aask() -> list[Any]:
        return [await model.ainvoke("Hello", bench.config) for _ in range(3)]

    model = bench.model(**options)
    with track_usage() as usage:
        answers = asyncio.run(aask()) if is_async else [model.invoke("Hello", bench.config) for _ in range(3)]
    assert len({answer.text for answer in answers}) == 1
    assert bench.sim.bill.requests == 1
    for report in (usage, bench.counter.usage):
        assert report.total == bench.usage_of(bench.sim.bill.total)
        assert (report.calls, report.unknown) == (3, 0)
        if "n" not in options:  # LangChain keeps no model name with several choices
            assert list(report.group_by("model")) == ["o4-mini"]


# --- what LangChain's own handler says --------------------------------------------------------------------


def _stock(bench: Any, **options: Any) -> tuple[Any, UsageMetadataCallbackHandler]:
    handler = UsageMetadataCallbackHandler()
    return bench.model(ChatOpenAI, callbacks=[handler, bench.counter], **options), handler


def _stock_total(handler: UsageMetadataCallbackHandler) -> int:
    return sum(usage["total_tokens"] for usage in handler.usage_metadata.values())


def test_langchains_handler_counts_nothing_of_several_choices(bench: Any) -> None:
    model, handler = _stock(bench, n=3)
    model.invoke("Hello")
    bench.assert_counted(bench.counter.usage)
    assert _stock_total(handler) == 0


def test_langchains_handler_counts_nothing_of_a_stream_from_another_url(bench: Any) -> None:
    model, handler = _stock(bench)
    list(model.stream("Hello"))
    assert _stock_total(handler) == 0
    # The server was not asked, so nobody can know; we say so instead of zero.
    assert (bench.counter.usage.calls, bench.counter.usage.unknown) == (1, 1)
    bench.sim.reset()
    counter = TokenCounter()
    list(bench.model().stream("Hello", {"callbacks": [counter]}))
    bench.assert_counted(counter.usage)


@pytest.mark.usefixtures("_llm_cache")
def test_langchains_handler_counts_what_the_cache_answered(bench: Any) -> None:
    model, handler = _stock(bench)
    model.invoke("Hello")
    model.invoke("Hello")
    assert _stock_total(handler) == 2 * bench.sim.bill.total.total_tokens
    assert bench.counter.usage.total == bench.usage_of(bench.sim.bill.total)
