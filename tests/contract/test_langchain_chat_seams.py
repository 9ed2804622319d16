"""The seams of ChatOpenAI and BaseChatModel that `ReliableChatOpenAI` takes hold of."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.load import dumpd, dumps, loads
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field, model_validator

HELLO = "Hello there"


class Seams(ChatOpenAI):
    """ChatOpenAI that notes which of its four methods a call comes through, and with a run manager or not."""

    seen: list[tuple[str, bool]] = Field(default_factory=list, exclude=True)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.seen.append(("_generate", isinstance(run_manager, CallbackManagerForLLMRun)))
        return super()._generate(messages, stop, run_manager, **kwargs)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.seen.append(("_agenerate", isinstance(run_manager, AsyncCallbackManagerForLLMRun)))
        return await super()._agenerate(messages, stop, run_manager, **kwargs)

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        self.seen.append(("_stream", isinstance(run_manager, CallbackManagerForLLMRun)))
        yield from super()._stream(messages, stop, run_manager, **kwargs)

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        self.seen.append(("_astream", isinstance(run_manager, AsyncCallbackManagerForLLMRun)))
        async for chunk in super()._astream(messages, stop, run_manager, **kwargs):
            yield chunk


class Answer(BaseModel):
    """An answer."""

    text: str


def look_up(word: str) -> str:
    """Look a word up."""
    return word


async def collect(chunks: Any) -> list[Any]:
    return [chunk async for chunk in chunks]


def agent(model: ChatOpenAI) -> Any:
    return create_agent(model, [])


def ask() -> dict[str, Any]:
    return {"messages": [("user", HELLO)]}


PROMPT = ChatPromptTemplate.from_template("{x}")
SYNC_CALLS: list[tuple[str, Callable[[Any], Any], list[tuple[str, bool]]]] = [
    ("invoke", lambda model: model.invoke(HELLO), [("_generate", True)]),
    ("batch", lambda model: model.batch([HELLO, HELLO]), [("_generate", True)] * 2),
    ("batch_as_completed", lambda model: list(model.batch_as_completed([HELLO])), [("_generate", True)]),
    ("stream", lambda model: list(model.stream(HELLO)), [("_stream", False)]),
    ("invoke streaming", lambda model: model.bind(stream=True).invoke(HELLO), [("_stream", False)]),
    ("bind_tools", lambda model: model.bind_tools([look_up]).invoke(HELLO), [("_generate", True)]),
    ("structured", lambda model: model.with_structured_output(Answer).invoke(HELLO), [("_generate", True)]),
    ("chain", lambda model: (PROMPT | model).invoke({"x": HELLO}), [("_generate", True)]),
    ("chain.stream", lambda model: list((PROMPT | model).stream({"x": HELLO})), [("_stream", False)]),
    ("agent", lambda model: agent(model).invoke(ask()), [("_generate", True)]),
    (
        "agent.stream",
        lambda model: list(agent(model).stream(ask(), stream_mode="messages")),
        [("_stream", False)],
    ),
]
ASYNC_CALLS: list[tuple[str, Callable[[Any], Any], list[tuple[str, bool]]]] = [
    ("ainvoke", lambda model: model.ainvoke(HELLO), [("_agenerate", True)]),
    ("abatch", lambda model: model.abatch([HELLO, HELLO]), [("_agenerate", True)] * 2),
    ("astream", lambda model: collect(model.astream(HELLO)), [("_astream", False)]),
    ("structured", lambda model: model.with_structured_output(Answer).ainvoke(HELLO), [("_agenerate", True)]),
    ("chain", lambda model: (PROMPT | model).ainvoke({"x": HELLO}), [("_agenerate", True)]),
    ("chain.astream", lambda model: collect((PROMPT | model).astream({"x": HELLO})), [("_astream", False)]),
    ("astream_events", lambda model: collect(model.astream_events(HELLO)), [("_astream", False)]),
    ("agent", lambda model: agent(model).ainvoke(ask()), [("_agenerate", True)]),
    (
        "agent.astream",
        lambda model: collect(agent(model).astream(ask(), stream_mode="messages")),
        [("_astream", False)],
    ),
]


@pytest.mark.parametrize(("call", "way"), [row[1:] for row in SYNC_CALLS], ids=[row[0] for row in SYNC_CALLS])
def test_every_sync_call_comes_through_generate_or_stream(simulate, chat, call, way):
    """Every synchronous call goes through `_generate` with a run manager, or `_stream` without one.

    Ours: `ReliableChatOpenAI` overrides these two and nothing of invoke, batch, stream, bind_tools,
    with_structured_output or agents; a retry inside a stream cannot tell `on_retry`.
    """
    sim = simulate()
    model = chat(sim, Seams)
    call(model)
    assert model.seen == way
    assert len(sim.requests) == len(way)


@pytest.mark.parametrize(
    ("call", "way"), [row[1:] for row in ASYNC_CALLS], ids=[row[0] for row in ASYNC_CALLS]
)
async def test_every_async_call_comes_through_agenerate_or_astream(simulate, chat, call, way):
    """Every asynchronous call goes through `_agenerate` with a run manager, or `_astream` without one.

    Ours: as for the synchronous ones.
    """
    sim = simulate()
    model = chat(sim, Seams)
    await call(model)
    assert model.seen == way
    assert len(sim.requests) == len(way)


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_version_3_of_events_passes_its_run_manager_to_stream(simulate, chat):
    """Only `stream_events(version="v3")` gives `_stream` and `_astream` a run manager.

    Ours: `_tell` and `_atell` in `models/chat.py` do without one.
    """
    model = chat(simulate(), Seams)
    assert model.stream_events(HELLO, version="v3").output.text
    stream = await model.astream_events(HELLO, version="v3")
    assert (await stream.output).text
    assert model.seen == [("_stream", True), ("_astream", True)]


def test_a_failed_item_of_a_models_batch_stays_in_its_place(simulate, chat):
    """`ChatOpenAI.batch(return_exceptions=True)` keeps each error on its item.

    Ours: with the retry inside `_generate`, batches need nothing of ours.
    """
    model = chat(simulate(faults=["ok", "bad_request", "ok"]))
    results = model.batch(["one", "two", "three"], {"max_concurrency": 1}, return_exceptions=True)
    assert [isinstance(result, Exception) for result in results] == [False, True, False]
    assert "one" in results[0].text
    assert "three" in results[2].text


# ---- what the four methods give back


def test_a_chat_results_info_names_its_finish_reason_even_where_there_is_none(simulate, chat):
    """`generation_info` of a Chat Completions answer always has the key finish_reason; Responses' never has.

    An answer with finish_reason null is success in stock, and so is a Responses answer in_progress.

    Ours: `require_end` in `models/answer.py` tells the two APIs apart by that key.
    """
    messages = [HumanMessage(HELLO)]
    sim = simulate(faults=["ok", "no_finish", "ok", "no_finish"])
    for reason in ("stop", None):
        (generation,) = chat(sim)._generate(messages).generations
        assert generation.generation_info["finish_reason"] == reason
    for status in ("completed", "in_progress"):
        (generation,) = chat(sim, use_responses_api=True)._generate(messages).generations
        assert "finish_reason" not in (generation.generation_info or {})
        assert generation.message.response_metadata["status"] == status


def test_a_choice_without_a_finish_reason_takes_the_one_before_it(canned, chat):
    """With n > 1 a choice whose finish_reason is null is given that of the choice before it.

    Ours: `require_end` in `models/answer.py` cannot see that such a choice was cut off, unless it is first.
    """
    message = {"role": "assistant", "content": "x"}
    whole = {"index": 0, "message": message, "finish_reason": "stop"}
    cut = {"index": 1, "message": message, "finish_reason": None}
    model = chat(canned({"choices": [whole, cut]}, {"choices": [cut, whole]}))
    reasons = [
        [generation.generation_info["finish_reason"] for generation in model._generate([]).generations]
        for _ in range(2)
    ]
    assert reasons == [["stop", "stop"], [None, "stop"]]


def test_the_end_of_a_stream_is_in_one_chunks_info(simulate, chat):
    """One chunk of a stream has finish_reason in `generation_info`; the opening one has no content at all.

    With usage on, one more chunk comes after it.

    Ours: `_is_end` and `has_content` in `models/answer.py`.
    """
    chunks = list(chat(simulate(), stream_usage=True)._stream([HumanMessage(HELLO)]))
    ends = [index for index, chunk in enumerate(chunks) if (chunk.generation_info or {}).get("finish_reason")]
    assert ends == [len(chunks) - 2]
    assert chunks[-1].message.usage_metadata is not None
    opening = chunks[0].message
    assert (opening.content, opening.tool_call_chunks, opening.additional_kwargs) == ("", [], {})


def test_the_end_of_a_responses_stream_is_in_its_last_chunks_status(simulate, chat):
    """The last chunk of a Responses stream has status "completed", or "incomplete"; no chunk before has one.

    Ours: `_is_end` and `_FINAL_STATUSES` in `models/answer.py`.
    """
    for status, options in (("completed", {}), ("incomplete", {"max_tokens": 2})):
        model = chat(simulate(), use_responses_api=True, **options)
        chunks = list(model._stream([HumanMessage(HELLO)]))
        statuses = [chunk.message.response_metadata.get("status") for chunk in chunks]
        assert [each for each in statuses if each] == [status]
        assert statuses[-1] == status


def test_a_streamed_tool_call_is_content(simulate, chat):
    """The first chunk that shows anything of a tool call has `tool_call_chunks`, and no text.

    Ours: `has_content` in `models/answer.py` ends the retrying there.
    """
    model = chat(simulate()).bind_tools([look_up], tool_choice="any")
    chunks = list(model.stream(HELLO))
    assert any(chunk.tool_call_chunks for chunk in chunks)
    assert not any(chunk.content for chunk in chunks)


@pytest.mark.parametrize("use_responses_api", [False, True])
async def test_a_stream_that_ends_without_an_end_is_success(simulate, chat, use_responses_api):
    """A stream that closes cleanly with no finish_reason is reported as a whole answer.

    Ours: `StreamEnd.close` in `models/answer.py` raises TruncatedResponseError.
    """
    model = chat(simulate(faults=["no_finish"] * 2), use_responses_api=use_responses_api)
    chunks = list(model.stream(HELLO))
    assert "".join(chunk.text for chunk in chunks)
    assert not any(
        {"finish_reason", "status"} & chunk.response_metadata.keys()
        for chunk in [*chunks, *await collect(model.astream(HELLO))]
    )


async def test_create_chat_result_is_where_a_chat_answer_is_read(simulate, chat):
    """`_generate` and `_agenerate` read an answer by `self._create_chat_result(response, generation_info)`.

    Ours: `ReliableChatOpenAI._create_chat_result` in `models/chat.py` marks what fails there as malformed.
    """
    calls: list[tuple[Any, ...]] = []

    class Reading(ChatOpenAI):
        def _create_chat_result(self, *args: Any) -> ChatResult:
            calls.append(args)
            return super()._create_chat_result(*args)

    model = chat(simulate(), Reading)
    model.invoke(HELLO)
    await model.ainvoke(HELLO)
    assert [tuple(map(type, args)) for args in calls] == [(openai.types.chat.ChatCompletion, dict)] * 2
    names = list(inspect.signature(ChatOpenAI._create_chat_result).parameters)
    assert names == ["self", "response", "generation_info"]


def test_response_headers_in_the_metadata_go_into_the_history(simulate, chat):
    """`include_response_headers=True` leaves the headers in each message's `response_metadata`.

    Ours: DESIGN reads headers in the HTTP client's response hook instead.
    """
    message = chat(simulate(), include_response_headers=True).invoke(HELLO)
    assert message.response_metadata["headers"]["x-request-id"] == "req_000001"


# ---- usage of streams


def test_a_base_url_or_a_client_switches_stream_usage_off(sync_client, monkeypatch):
    """`stream_usage` is on by default for OpenAI's own URL and LangChain's own client only.

    Ours: `ReliableChatOpenAI.stream_usage` is on whatever the URL.
    """
    assert ChatOpenAI(api_key="k").stream_usage is True
    assert ChatOpenAI(api_key="k", base_url="http://127.0.0.1:9").stream_usage is None
    assert ChatOpenAI(api_key="k", http_client=sync_client).stream_usage is None
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    assert ChatOpenAI(api_key="k").stream_usage is None


def test_stream_usage_asks_for_usage(simulate, chat):
    """`stream_usage=True` sends `stream_options.include_usage` on streams, and False or None does not.

    Ours: `ReliableChatOpenAI.stream_usage`, whose False is for servers that refuse it.
    """
    sim = simulate()
    for stream_usage in (True, False, None):
        list(chat(sim, stream_usage=stream_usage).stream(HELLO))
    asked = [json.loads(request.body).get("stream_options") for request in sim.requests]
    assert asked == [{"include_usage": True}, None, None]


# ---- pydantic


def test_validators_run_base_first_and_stay_callable(simulate, chat):
    """An after-validator of a subclass runs when `validate_environment` has made the clients.

    Both stay methods that can be called; `validate_environment` makes clients only where there are none.

    Ours: `_own_clients` and `__setstate__` in `models/chat.py`.
    """
    orders: list[bool] = []

    class Validated(ChatOpenAI):
        @model_validator(mode="after")
        def _look(self) -> Any:
            orders.append(isinstance(self.root_client, openai.OpenAI))
            return self

    model: Any = chat(simulate(), Validated)
    assert model._look() is model
    assert orders == [True, True]
    names = ("client", "async_client", "root_client", "root_async_client")
    before = [getattr(model, name) for name in names]
    assert model.validate_environment() is model
    assert [getattr(model, name) for name in names] == before
    for name in names:
        setattr(model, name, None)
    model.validate_environment()
    assert type(model.root_client) is openai.OpenAI
    assert type(model.root_async_client) is openai.AsyncOpenAI
    assert model.client._client is model.root_client
    assert model.async_client._client is model.root_async_client


def test_all_requests_go_through_client_or_root_client(simulate, chat):
    """Chat Completions use `client` and `async_client`; structured output and Responses use the root clients.

    Ours: `_own_clients` in `models/chat.py` replaces these four and no more.
    """
    model = chat(simulate())
    assert type(model.client) is openai.resources.chat.Completions
    assert type(model.async_client) is openai.resources.chat.AsyncCompletions
    model.client = None
    with pytest.raises(ValueError, match="Sync client is not available"):
        model.invoke(HELLO)
    model = chat(simulate())
    model.root_client = None
    assert model.invoke(HELLO).text
    with pytest.raises(AttributeError):
        model.with_structured_output(Answer).invoke(HELLO)


def test_the_state_of_a_model_is_pydantics(simulate, chat):
    """`__getstate__` gives a dict whose `__dict__` holds the fields, and cached properties among them.

    Ours: `__getstate__` and `model_copy` in `models/chat.py` take the clients and `_serialized` out.
    """
    model = chat(simulate())
    model.invoke(HELLO)
    assert {"client", "root_client", "_serialized"} <= model.__getstate__()["__dict__"].keys()


def test_a_proxys_clients_are_kept_in_the_callers_fields():
    """`openai_proxy=` fills `http_client` and `http_async_client`, which cannot be given along with it.

    Ours: `__getstate__` in `models/chat.py` and `models/embeddings.py` empties them again.
    """
    model = ChatOpenAI(api_key="k", openai_proxy="http://127.0.0.1:9")
    assert model.http_client is not None
    assert model.http_async_client is not None
    with pytest.raises(ValueError, match="Cannot specify 'openai_proxy'"):
        ChatOpenAI(api_key="k", openai_proxy="http://127.0.0.1:9", http_client=model.http_client)


# ---- serialisation


def test_a_model_is_dumped_as_its_constructor(simulate, chat):
    """`dumps(ChatOpenAI)`: lc 1, a constructor, this id, the class's name, and the key as a secret.

    Ours: `lc_id` and `to_json` in `models/chat.py` give a subclass the same shape.
    """
    sim = simulate()
    dumped = json.loads(dumps(chat(sim)))
    kwargs = dumped.pop("kwargs")
    assert dumped == {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain", "chat_models", "openai", "ChatOpenAI"],
        "name": "ChatOpenAI",
    }
    assert kwargs == {
        "model_name": "gpt-4.1-mini",
        "openai_api_key": {"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"]},
        "openai_api_base": sim.base_url,
        "max_retries": 0,
    }


class Renamed(ChatOpenAI):
    """A third party's subclass that says it is ChatOpenAI, with a field of its own."""

    extra: int = Field(default=0, exclude=True)

    @classmethod
    def lc_id(cls) -> list[str]:
        return [*cls.get_lc_namespace(), "ChatOpenAI"]


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_a_subclass_can_only_be_loaded_under_chat_openais_id(simulate, chat):
    """`loads` refuses a third party's subclass, and takes it where `lc_id` says ChatOpenAI.

    A field with `exclude=True` is not dumped; the name is the subclass's.

    Ours: `lc_id`, `to_json` and the excluded `retry` field of `models/chat.py`.
    """
    options: Any = {"allowed_objects": "all", "secrets_map": {"OPENAI_API_KEY": "k"}}
    sim = simulate()
    assert dumpd(chat(sim, Seams))["id"][-1] == "Seams"
    with pytest.raises(ValueError, match="not allowed"):
        loads(dumps(chat(sim, Seams)), **options)
    dumped = dumpd(chat(sim, Renamed, extra=5))
    assert "extra" not in dumped["kwargs"]
    assert dumped["name"] == "Renamed"
    assert type(loads(json.dumps(dumped), **options)) is ChatOpenAI


def test_chunks_add_up_to_a_message_with_their_usage(simulate, chat):
    """Message chunks add with `+`; the sum holds the text, the usage and the metadata.

    Ours: `StreamEnd._partial` in `models/answer.py`.
    """
    chunks = list(chat(simulate(), stream_usage=True).stream(HELLO))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert isinstance(whole, AIMessage)
    assert whole.text == "".join(chunk.text for chunk in chunks)
    assert whole.usage_metadata["output_tokens"] > 0
    assert whole.response_metadata["finish_reason"] == "stop"


class Cached(ChatOpenAI):
    """ChatOpenAI that notes the run manager of every call that is not `stream`, by where it comes through."""

    seen: list[Any] = Field(default_factory=list, exclude=True)

    def _generate_with_cache(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.seen.append(run_manager)
        return super()._generate_with_cache(messages, stop, run_manager, **kwargs)

    async def _agenerate_with_cache(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.seen.append(run_manager)
        return await super()._agenerate_with_cache(messages, stop, run_manager, **kwargs)


async def test_generate_with_cache_has_the_run_manager_that_stream_lacks(simulate, chat):
    """Every call but `stream` and `astream` comes through `_generate_with_cache` with its run manager.

    Ours: `ReliableChatOpenAI` overrides the two, and hands the run on to `_stream`, which
    `test_every_sync_call_comes_through_generate_or_stream` shows to get none.
    """
    server = simulate()
    for method in ("_generate_with_cache", "_agenerate_with_cache"):
        names = list(inspect.signature(getattr(ChatOpenAI, method)).parameters)
        assert names == ["self", "messages", "stop", "run_manager", "kwargs"]
    model = chat(server, cls=Cached)
    model.invoke(HELLO)
    agent(model).invoke(ask())
    list(agent(model).stream(ask(), stream_mode="messages"))
    assert [type(manager) for manager in model.seen] == [CallbackManagerForLLMRun] * 3
    await model.ainvoke(HELLO)
    await collect(agent(model).astream(ask(), stream_mode="messages"))
    assert [type(manager) for manager in model.seen[3:]] == [AsyncCallbackManagerForLLMRun] * 2
    list(model.stream(HELLO))
    await collect(model.astream(HELLO))
    assert len(model.seen) == 5


def test_the_sdk_sends_through_its_http_clients_send(simulate):
    """The SDK sends every request with `send` of the HTTP client it was given.

    Ours: `ProcessBoundClient.send` and `LoopBoundAsyncClient.send` show the response's head to an attempt.
    """
    simulator = simulate()
    sent: list[str] = []

    class Client(httpx2.Client):
        def send(self, request: httpx2.Request, **kwargs: Any) -> httpx2.Response:
            response = super().send(request, **kwargs)
            sent.append(response.headers["x-request-id"])
            return response

    with Client() as http:
        client = openai.OpenAI(base_url=simulator.base_url, api_key="k", http_client=http)
        message: Any = {"role": "user", "content": HELLO}
        client.chat.completions.create(model="gpt-4.1-mini", messages=[message])
        for _ in client.chat.completions.create(model="gpt-4.1-mini", messages=[message], stream=True):
            pass
        client.embeddings.create(model="text-embedding-3-small", input="x")
    assert len(set(sent)) == len(simulator.requests) == 3
