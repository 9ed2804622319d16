"""LangChain's own ways to make, switch, watch and cache a model: what is counted is what was billed.

Structured output, fallbacks, event streams of versions 1 and 2, batches and agents are in
`tests/accounting/test_call_shapes.py`.
"""

from __future__ import annotations

import gc
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import BaseCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models.chat_model_stream import ChatModelStream
from langchain_core.load import dumps, loads
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableConfig
from langchain_core.tools import tool
from pydantic import BaseModel

from lc_service import track_usage

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*version=.v3.*beta"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),  # upstream's, of parsed answers
]
PROMPT = ChatPromptTemplate.from_template("Tell me about {topic}.")
FIELD = ConfigurableField(id="model")


class Place(BaseModel):
    """Describe a place."""

    name: str
    country: str


@tool
def get_weather(city: str) -> str:
    """Say what the weather is like in a city."""
    return f"It is sunny in {city}."


def configured(**values: Any) -> RunnableConfig:
    return {"configurable": values}


# --- stream_events(version="v3"): typed projections over one stream ---------------------------------------


def v3_output(bench: Any) -> None:
    stream = bench.model().stream_events("Hello", version="v3")
    assert isinstance(stream, ChatModelStream)
    assert stream.output.text
    assert stream.output.usage_metadata["output_tokens"] == bench.sim.bill.total.output_tokens


def v3_text(bench: Any) -> None:
    stream = bench.model().stream_events("Hello", version="v3")
    pieces = list(stream.text)
    assert len(pieces) > 3
    assert "".join(pieces) == stream.output.text


async def v3_text_async(bench: Any) -> None:
    stream = await bench.model().astream_events("Hello", version="v3")
    assert "".join([piece async for piece in stream.text]) == (await stream.output).text


def v3_tools(bench: Any) -> None:
    bound = bench.model().bind_tools([get_weather])
    assert bound.stream_events("get_weather of Paris, please", version="v3").output.tool_calls


def v3_responses_api(bench: Any) -> None:
    assert bench.model(use_responses_api=True).stream_events("Hello", version="v3").output.text


# --- one model, switched by the config --------------------------------------------------------------------


def a_configurable_field(bench: Any) -> None:
    chain = PROMPT | bench.model().configurable_fields(model_name=FIELD) | StrOutputParser()
    chain.invoke({"topic": "the sea"})
    chain.invoke({"topic": "the sea"}, configured(model="gpt-4.1-nano"))
    assert [request.model for request in bench.sim.requests[-1:]] == ["gpt-4.1-nano"]
    assert bench.sim.bill.by("gpt-4.1-mini").requests == bench.sim.bill.by("gpt-4.1-nano").requests == 1


async def a_configurable_policy(bench: Any) -> None:
    field = ConfigurableField(id="temperature")
    model = bench.model().configurable_fields(temperature=field)
    assert [piece async for piece in model.astream("Hello", configured(temperature=0.1))]


def configurable_alternatives(bench: Any) -> None:
    model = bench.model().configurable_alternatives(
        FIELD, default_key="small", smallest=bench.model(model="gpt-4.1-nano")
    )
    chain = PROMPT | model | StrOutputParser()
    chain.invoke({"topic": "the sea"})
    list(chain.stream({"topic": "the sea"}, configured(model="smallest")))
    assert bench.sim.bill.by("gpt-4.1-nano").requests == 1


def configured_tools(bench: Any) -> None:
    model = bench.model().configurable_alternatives(FIELD, nano=bench.model(model="gpt-4.1-nano"))
    # LangChain picks the alternative where tools are bound, so it is chosen before.
    bound = model.with_config(configured(model="nano")).bind_tools([get_weather])
    assert bound.invoke("get_weather of Paris").tool_calls
    assert bench.sim.bill.by("gpt-4.1-nano").requests == 1


# --- structured output where it is streamed, batched or behind a fallback ---------------------------------


@pytest.fixture(params=["json_schema", "function_calling", "json_mode"])
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_structured_output_in_a_batch_and_a_stream(method: str, bench: Any) -> None:
    def shape(bench: Any) -> None:
        structured = bench.model().with_structured_output(Place, method=method)
        question = "JSON with 'name' and 'country' of Paris in France"
        assert all(isinstance(place, Place) for place in structured.batch([question, f"{question}."]))
        assert isinstance(list(structured.stream(question))[-1], Place)

    bench.run(shape)


async def structured_behind_a_fallback(bench: Any) -> None:
    bench.failed_calls = 1
    lame = bench.model(base_url="http://127.0.0.1:1/v1", max_retries=0).with_structured_output(Place)
    place = await lame.with_fallbacks([bench.model().with_structured_output(Place)]).ainvoke("Paris, France")
    assert isinstance(place, Place)


SHAPES: list[Callable[[Any], Any]] = [
    v3_output, v3_text, v3_text_async, v3_tools, v3_responses_api,
    a_configurable_field, a_configurable_policy, configurable_alternatives, configured_tools,
    structured_behind_a_fallback,
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_counted_is_what_was_billed(shape: Callable[[Any], Any], bench: Any) -> None:
    bench.run(shape)


def test_a_v3_stream_that_is_left_is_counted_as_such(clean_bench: Any) -> None:
    with track_usage() as usage:
        stream = clean_bench.model().stream_events("Tell me a long story.", version="v3")
        assert next(iter(stream.text))
        del stream
        gc.collect()  # LangChain's stream has no close, and refers to itself
    assert clean_bench.sim.wait_until_idle()
    assert (usage.calls, usage.estimated) == (1, 1)
    # an estimate, as good as what this process has seen of the model so far
    assert usage.total.input_tokens == pytest.approx(clean_bench.sim.bill.total.input_tokens, rel=0.35)


# --- a cache in SQLite ------------------------------------------------------------------------------------


class SQLiteCache(BaseCache):
    """Keeps answers as langchain-community's SQLiteCache does: each as its JSON, by prompt and model."""

    def __init__(self, path: Path) -> None:
        self._rows = sqlite3.connect(path, check_same_thread=False)
        self._rows.execute("CREATE TABLE IF NOT EXISTS answers (prompt, llm, answer)")

    def lookup(self, prompt: str, llm_string: str) -> Any:
        found = self._rows.execute(
            "SELECT answer FROM answers WHERE (prompt, llm) = (?, ?)", (prompt, llm_string)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `loads` is in beta
            answers = [loads(answer) for (answer,) in found]
        return answers or None

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        rows = [(prompt, llm_string, dumps(each)) for each in return_val]
        self._rows.executemany("INSERT INTO answers VALUES (?, ?, ?)", rows)
        self._rows.commit()

    def clear(self, **kwargs: Any) -> None:
        self._rows.execute("DELETE FROM answers")

    def close(self) -> None:
        self._rows.close()


@pytest.fixture
def open_cache(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Open LangChain's cache on one file, again and again, as each process of a program would."""
    opened: list[SQLiteCache] = []

    def open_again() -> None:
        opened.append(SQLiteCache(tmp_path / "cache.sqlite"))
        set_llm_cache(opened[-1])

    yield open_again
    set_llm_cache(None)
    for cache in opened:
        cache.close()


@pytest.mark.parametrize("options", [{}, {"use_responses_api": True}, {"n": 2}], ids=str)
def test_an_answer_from_a_cache_on_disk_uses_nothing(options: Any, open_cache: Any, clean_bench: Any) -> None:
    answers = []
    with track_usage() as usage:
        for _ in range(3):
            open_cache()
            answers.append(clean_bench.model(**options).invoke("Hello").text)
    assert len(set(answers)) == 1
    assert clean_bench.sim.bill.requests == 1
    assert usage.total.total_tokens == clean_bench.sim.bill.total.total_tokens
    assert (usage.calls, usage.unknown) == (3, 0)


def test_a_cached_tool_call_is_one_again(open_cache: Any, clean_bench: Any) -> None:
    bound = clean_bench.model().bind_tools([get_weather])
    open_cache()
    first = bound.invoke("get_weather of Paris, please").tool_calls
    open_cache()
    assert bound.invoke("get_weather of Paris, please").tool_calls == first != []
    assert clean_bench.sim.bill.requests == 1


# --- tracing ----------------------------------------------------------------------------------------------


def test_langsmith_gets_nothing_until_the_user_turns_it_on(
    clean_bench: Any, posts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langsmith import Client, utils
    from langsmith.run_helpers import tracing_context

    monkeypatch.setenv("LANGSMITH_ENDPOINT", posts.url)
    monkeypatch.setenv("LANGSMITH_API_KEY", "a-key")
    utils.get_env_var.cache_clear()
    chain = PROMPT | clean_bench.model() | StrOutputParser()
    chain.invoke({"topic": "the sea"})
    assert not utils.tracing_is_enabled()
    assert posts.bodies == []
    client = Client(api_url=posts.url, api_key="a-key", auto_batch_tracing=False)
    with tracing_context(enabled=True, client=client), track_usage() as usage:
        chain.invoke({"topic": "the hills"})
    assert any(b'"run_type":"llm"' in body for body in posts.bodies)
    assert not any(b"sk-test" in body for body in posts.bodies)
    assert usage.calls == 1
