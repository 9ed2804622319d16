"""Plain completions: what is on the wire, and what comes of an answer, is as by the SDK's own resource."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai._base_client import get_platform
from pydantic import BaseModel

from lc_service import ReliableChatOpenAI
from lc_service.models import completions
from lc_service.models.completions import AsyncPlainCompletions, PlainCompletions, PlainResponse
from lc_service.models.http import LoopBoundAsyncClient, ProcessBoundClient
from lc_service.retry.errors import MalformedResponseError

MESSAGE = {"role": "assistant", "content": "Hi"}
CHOICE = {"index": 0, "finish_reason": "stop", "message": MESSAGE}
USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
REPLY = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4.1-mini",
    "choices": [CHOICE], "usage": USAGE,
}  # fmt: skip
RUN_ID = uuid.UUID(int=1)
JSON = "application/json"


class BySdk(ReliableChatOpenAI):
    """Ours with the SDK's own resources: somebody else reads the answer."""

    def _create_chat_result(self, response: Any, generation_info: Any = None) -> Any:
        assert not isinstance(response, dict)
        return super()._create_chat_result(response, generation_info)


class Wire:
    """Answers every request with the same reply, and keeps the requests."""

    def __init__(
        self, content: Any = REPLY, content_type: str = "application/json", status: int = 200
    ) -> None:
        self.requests: list[httpx2.Request] = []
        self._content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self._headers = {"content-type": content_type, "x-request-id": "req_1"}
        self._status = status

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        return httpx2.Response(self._status, content=self._content, headers=self._headers)


def make(cls: type[ChatOpenAI], wire: Wire, *, is_brought: bool = False, **options: Any) -> ChatOpenAI:
    """Make a model whose HTTP clients are of our kinds, as they are where none is brought."""
    transport = httpx2.MockTransport(wire)
    bound: dict[str, Any] = {
        "http_client": ProcessBoundClient(lambda: httpx2.Client(transport=transport)),
        "http_async_client": LoopBoundAsyncClient(lambda: httpx2.AsyncClient(transport=transport)),
    }
    brought = {
        "http_client": httpx2.Client(transport=transport),
        "http_async_client": httpx2.AsyncClient(transport=transport),
    }
    said = {"model": "gpt-4.1-mini", "api_key": "sk-test", "base_url": "https://test.invalid/v1"}
    clients = brought if is_brought else bound
    model = cls(**{**said, "max_retries": 0, "timeout": 30.0, **clients, **options})
    model.root_async_client._platform = get_platform()  # as after its first call
    return model


async def outcome(model: ChatOpenAI, is_async: bool, prompt: Any = "Hello", **options: Any) -> Any:
    """Return what came of a call, in a form that can be compared."""
    messages = [HumanMessage(prompt)] if isinstance(prompt, str) else prompt
    try:
        if is_async:
            result = await model.agenerate([messages], run_id=RUN_ID, **options)
        else:
            result = model.generate([messages], run_id=RUN_ID, **options)
    except Exception as error:
        return type(error), str(error), getattr(error, "partial", None)
    generations = [
        (each.message.model_dump(), type(each.message), each.generation_info)
        for each in result.generations[0]
    ]
    return generations, result.llm_output


@pytest.fixture(params=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return request.param == "async"


@pytest.fixture
def dumps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What became of each answer: a dictionary, or None where the SDK was asked."""
    made: list[Any] = []
    real = completions.dump
    monkeypatch.setattr(completions, "dump", lambda body: made.append(real(body)) or made[-1])
    return made


def reply(
    choice: dict[str, Any] | None = None, /, message: dict[str, Any] | None = None, **fields: Any
) -> Any:
    made = {**CHOICE, **(choice or {}), "message": {**MESSAGE, **(message or {})}}
    return {**REPLY, "choices": [made], **fields}


CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
BROKEN_CALL = {**CALL, "function": {"name": "add", "arguments": "{"}}
LOGPROBS = {"content": [{"token": "Hi", "bytes": [72], "logprob": -0.5, "top_logprobs": []}], "refusal": None}
PLAIN_REPLIES = {
    "plain": REPLY,
    "no usage": {name: value for name, value in REPLY.items() if name != "usage"},
    "usage in detail": {
        **REPLY,
        "usage": {
            **USAGE,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    },
    "service tier": {**REPLY, "service_tier": "priority", "system_fingerprint": "fp"},
    "unknown service tier": {**REPLY, "service_tier": "unheard-of"},
    "tool calls": reply({"finish_reason": "tool_calls"}, {"content": None, "tool_calls": [CALL]}),
    "broken tool call": reply(message={"tool_calls": [BROKEN_CALL]}),
    "function call": reply(message={"function_call": {"name": "f", "arguments": "{}"}}),
    "refusal": reply(message={"content": None, "refusal": "No."}),
    "logprobs": reply({"logprobs": LOGPROBS}),
    "audio": reply(message={"audio": {"id": "a", "data": "", "expires_at": 1, "transcript": "t"}}),
    "a provider's own": reply({"stop_reason": 1}, {"reasoning_content": "Hm"}, provider={"name": "p"}),
    "length": reply({"finish_reason": "length"}),
    "no end": reply({"finish_reason": None}),
    "no content": reply(message={"content": None}),
    "another role": reply(message={"role": "tool"}),
    "no id, no model": {"choices": [CHOICE]},
    "no choices": {**REPLY, "choices": []},
    "null choices": {**REPLY, "choices": None},
    "no answer": {"detail": "nothing here"},
    "an error": {"error": {"message": "Overloaded", "code": 503}},
    "several": {**REPLY, "choices": [CHOICE, {**CHOICE, "index": 1, "finish_reason": "length"}]},
}
ODD_REPLIES = {
    "custom tool call": reply(message={"tool_calls": [{"id": "c", "type": "of-its-own"}]}),
    "tool call without a type": reply(message={"tool_calls": [{"id": "c", "function": CALL["function"]}]}),
    "usage as text": {**REPLY, "usage": dict.fromkeys(USAGE, "9")},
    "usage as floats": {**REPLY, "usage": dict.fromkeys(USAGE, 9.0)},
    "logprob as an integer": reply({"logprobs": {"content": [{**LOGPROBS["content"][0], "logprob": 0}]}}),
    "parsed": reply(message={"parsed": {"a": 1}}),
    "content in parts": reply(message={"content": [{"type": "text", "text": "Hi"}]}),
    "message is text": {**REPLY, "choices": [{**CHOICE, "message": "Hi"}]},
    "choices are text": {**REPLY, "choices": "Hi"},
    "metadata": {**REPLY, "metadata": {"a": "b"}},
    "a list": [REPLY],
    "null": None,
}


@pytest.mark.parametrize("name", [*PLAIN_REPLIES, *ODD_REPLIES])
async def test_what_comes_of_an_answer_is_as_by_the_sdk(name, is_async, dumps):
    body = {**PLAIN_REPLIES, **ODD_REPLIES}[name]
    ours = await outcome(make(ReliableChatOpenAI, Wire(body)), is_async)
    assert ours == await outcome(make(BySdk, Wire(body)), is_async)
    assert [dump is not None for dump in dumps] == [name in PLAIN_REPLIES]  # once, and not for `BySdk`
    stock = await outcome(make(ChatOpenAI, Wire(body)), is_async)
    if isinstance(ours[0], list) and name != "several":  # ours gives each choice its own reason for its end
        assert ours == stock


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (json.dumps(REPLY).encode(), "application/json; charset=utf-8"),
        (json.dumps(REPLY).encode(), "application/vnd.api+json"),
        (json.dumps(REPLY).encode(), "text/plain"),
        (json.dumps(reply(message={"content": "Grüße \U0001f600"}), ensure_ascii=False).encode(), JSON),
        (json.dumps(REPLY).encode("utf-16"), "application/json"),
        (b"<html><body>Gateway</body></html>", "text/html"),
        (b"<html><body>Gateway</body></html>", "application/json"),
        (json.dumps(REPLY).encode()[:-20], "application/json"),
        (b"\xff\xfe\xfa", "application/json"),
        (b"", "application/json"),
    ],
)  # fmt: skip
async def test_any_body_is_read_as_by_the_sdk(content, content_type, is_async):
    ours = await outcome(make(ReliableChatOpenAI, Wire(content, content_type)), is_async)
    by_sdk = await outcome(make(BySdk, Wire(content, content_type)), is_async)
    assert ours == by_sdk
    assert isinstance(ours[0], list) or ours[0] is MalformedResponseError


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 429, 500, 503])
async def test_an_error_is_the_sdks(status, is_async):
    body = {"error": {"message": "No.", "type": "t", "code": "c"}}
    ours = await outcome(make(ReliableChatOpenAI, Wire(body, status=status)), is_async)
    by_sdk = await outcome(make(BySdk, Wire(body, status=status)), is_async)
    assert ours == by_sdk
    assert issubclass(ours[0], openai.APIStatusError)


async def test_headers_and_gateway_metadata_are_kept(is_async):
    ours = await outcome(make(ReliableChatOpenAI, Wire(), include_response_headers=True), is_async)
    stock = await outcome(make(ChatOpenAI, Wire(), include_response_headers=True), is_async)
    assert ours == stock
    assert ours[0][0][2]["headers"]["x-request-id"] == "req_1"


class Level(enum.StrEnum):
    LOW = "low"


class Note(BaseModel):
    text: str
    empty: str | None = None


@tool
def add(a: int, b: int = 2) -> int:
    """Add."""
    return a + b


CONVERSATION = [
    SystemMessage("Grüße, \U0001f600 \ud83d"[:-1]),
    HumanMessage([
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]),
    AIMessage("", tool_calls=[{"id": "c", "name": "add", "args": {"a": 1}}]),
    ToolMessage("3", tool_call_id="c"),
]  # fmt: skip
PLAIN_CALLS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "sampling": {"temperature": 0.3, "top_p": 0.5, "seed": 7, "n": 2, "presence_penalty": 1},
    "tokens and stop": {"max_tokens": 7, "stop": ["a", "b"]},
    "logprobs": {"logprobs": True, "top_logprobs": 2, "logit_bias": {"50": -1}},
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
    "null": {"user": None, "stop": None},
    "options of the account": {"store": True, "service_tier": "flex", "user": "u", "safety_identifier": "s"},
    "prediction": {"prediction": {"type": "content", "content": "x"}},
    "a tuple, an enum, keys that are numbers": {
        "modalities": ("text",), "reasoning_effort": Level.LOW, "logit_bias": {50: 1},
    },
    "extra body": {"extra_body": {"top_k": 3, "temperature": 0.9, "best_of": None}, "temperature": 0.1},
    "extra headers": {"extra_headers": {"X-Mine": "1", "User-Agent": "me"}},
    "extra query": {"extra_query": {"a": "b", "c": [1, 2]}},
    "timeout": {"timeout": 3.5},
    "timeout in parts": {"timeout": httpx2.Timeout(5.0, read=2.0)},
    "no timeout": {"timeout": None},
    "not a stream": {"stream": False},
}  # fmt: skip
ODD_CALLS: dict[str, dict[str, Any]] = {
    "omitted": {"user": openai.omit, "seed": openai.NOT_GIVEN},
    "a model": {"prediction": Note(text="x")},
    "a model inside": {"prediction": {"type": "content", "content": Note(text="x")}},
    "a moment": {"prediction": {"at": datetime(2026, 1, 1, tzinfo=UTC)}},
    "a moment in the extra body": {"extra_body": {"at": datetime(2026, 1, 1, tzinfo=UTC)}},
    "removed by the extra body": {"temperature": 1.0, "extra_body": {"temperature": openai.omit}},
    "a generator": {"stop": (word for word in ("a", "b"))},
    "an unknown option": {"unheard_of": 1},
    "not a number": {"temperature": float("nan")},
    "a set": {"stop": {"a"}},
}


def sent(request: httpx2.Request) -> Any:
    timeout = request.extensions["timeout"]
    return request.method, str(request.url), request.headers.raw, request.content, timeout


@pytest.mark.parametrize("is_brought", [False, True], ids=["our client", "a client that was brought"])
@pytest.mark.parametrize("name", [*PLAIN_CALLS, *ODD_CALLS])
async def test_the_wire_is_as_by_the_sdk(name, is_async, is_brought, monkeypatch):
    written: list[Any] = []
    real = completions._written
    monkeypatch.setattr(completions, "_written", lambda said: written.append(real(said)) or written[-1])
    ours, stock = Wire(), Wire()
    options = {**PLAIN_CALLS, **ODD_CALLS}[name]
    made = make(ReliableChatOpenAI, ours, is_brought=is_brought)
    told = await outcome(made, is_async, CONVERSATION, **again(options))
    expected = await outcome(make(ChatOpenAI, stock), is_async, CONVERSATION, **again(options))
    assert [sent(request) for request in ours.requests] == [sent(request) for request in stock.requests]
    assert (written[0] is not None) == (name in PLAIN_CALLS)
    assert told[0] == expected[0]


def again(options: dict[str, Any]) -> dict[str, Any]:
    """Copy options; a generator can be read once."""
    return {
        name: (word for word in ("a", "b")) if hasattr(value, "send") else value
        for name, value in options.items()
    }


@pytest.mark.parametrize(
    "options",
    [
        {"organization": "org", "default_headers": {"X-All": "1"}, "default_query": {"q": "1"}},
        {"model_kwargs": {"user": "u"}, "extra_body": {"k": 1}, "metadata": {"a": "b"}},
        {"base_url": "https://test.invalid/deep/path/?key=1"},
        {"api_key": lambda: "sk-fetched"},
        {"model": "o3-mini", "reasoning_effort": "low"},
    ],
    ids=lambda options: next(iter(options)),
)
async def test_a_models_fields_reach_the_wire(options, is_async):
    ours, stock = Wire(), Wire()
    await outcome(make(ReliableChatOpenAI, ours, **options), is_async, CONVERSATION)
    await outcome(make(ChatOpenAI, stock, **options), is_async, CONVERSATION)
    assert [sent(request) for request in ours.requests] == [sent(request) for request in stock.requests]
    assert len(ours.requests) == 1


async def test_what_is_no_plain_call_is_the_sdks(is_async, monkeypatch):
    monkeypatch.setattr(completions, "_written", lambda said: pytest.fail("a plain call"))
    answer = Wire(reply(message={"content": '{"text": "x"}'}))
    structured = make(ReliableChatOpenAI, answer).with_structured_output(Note)
    got = await structured.ainvoke("Hello") if is_async else structured.invoke("Hello")
    assert got == Note(text="x")
    responses = make(ReliableChatOpenAI, Wire({"id": "r"}), use_responses_api=True)
    await outcome(responses, is_async)  # what came of it is another test's


def test_streams_are_the_sdks(simulate, make_model, monkeypatch):
    monkeypatch.setattr(completions, "dump", lambda body: pytest.fail("a whole answer"))
    simulate()
    for options in ({}, {"include_response_headers": True}):
        assert "".join(chunk.text for chunk in make_model(**options).stream("Hello"))
        assert make_model(streaming=True, **options).invoke("Hello").text


def test_bound_tools_come_back_as_calls(simulate, make_model, dumps):
    simulate()
    answer = make_model().bind_tools([add], tool_choice="add").invoke("Add 1 and 2")
    assert [call["name"] for call in answer.tool_calls] == ["add"]
    assert dumps[0] is not None


def test_somebody_elses_reader_or_client_keeps_the_sdks_resource():
    assert isinstance(make(ReliableChatOpenAI, Wire()).client, PlainCompletions)
    assert isinstance(make(ReliableChatOpenAI, Wire()).async_client, AsyncPlainCompletions)
    assert not isinstance(make(BySdk, Wire()).client, PlainCompletions)
    assert not isinstance(make(BySdk, Wire()).async_client, AsyncPlainCompletions)

    class OwnClient(openai.OpenAI):
        pass

    own = OwnClient(api_key="sk-test", base_url="https://test.invalid/v1")
    model = ReliableChatOpenAI(
        model="gpt-4.1-mini", api_key="sk-test", client=own.chat.completions, root_client=own
    )
    assert not isinstance(model.client, PlainCompletions)


@pytest.mark.parametrize(
    "again", [copy.copy, ReliableChatOpenAI.model_copy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_copies_keep_it(again: Callable[[Any], Any], simulate, make_model):
    simulate()
    copied = again(make_model())
    assert isinstance(copied.client, PlainCompletions)
    assert copied.invoke("Hello").text


def test_the_raw_response_is_still_there():
    model = make(ReliableChatOpenAI, Wire())
    raw = model.client.with_raw_response.create(model="m", messages=[{"role": "user", "content": "Hello"}])
    assert isinstance(raw, PlainResponse)
    assert (raw.status_code, raw.request_id, raw.retries_taken) == (200, "req_1", 0)
    assert raw.headers["x-request-id"] == "req_1"
