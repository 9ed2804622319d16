"""Copied requests: sent, refused and failed as those that the SDK builds; where not, it builds them."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx2
import openai
import pytest
from langchain_openai import ChatOpenAI
from openai._legacy_response import LegacyAPIResponse
from openai.resources.chat.completions import AsyncCompletions, Completions

from lc_service import ReliableChatOpenAI
from lc_service.models import plain_request
from lc_service.models.http import LoopBoundAsyncClient, ProcessBoundClient
from lc_service.models.plain_request import Template, is_the_sdks

REPLY = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4.1-mini",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
}
ANSWER = json.dumps(REPLY).encode()
ASK: dict[str, Any] = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "Grüße"}]}
Handler = Callable[[httpx2.Request], httpx2.Response]


class Wire:
    """Keeps requests; answers, or does what it was told."""

    def __init__(self, handler: Handler | None = None) -> None:
        self.requests: list[httpx2.Request] = []
        self._handler = handler or (lambda _: httpx2.Response(200, json=REPLY, headers={"x-request-id": "r"}))

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._handler(request)


class Pair:
    """One SDK account asked through ours and by the SDK alone, sync or async."""

    def __init__(self, is_async: bool, handler: Handler | None = None, **options: Any) -> None:
        self.is_async = is_async
        self.ours, self.sdk = Wire(handler), Wire(handler)
        self.model = self._make(ReliableChatOpenAI, self.ours, options)
        self.stock = self._make(ChatOpenAI, self.sdk, options)
        self.clients = [
            each.root_async_client if is_async else each.root_client for each in (self.model, self.stock)
        ]

    def _make(self, cls: type[ChatOpenAI], wire: Wire, options: dict[str, Any]) -> ChatOpenAI:
        transport = httpx2.MockTransport(wire)
        clients: dict[str, Any] = {
            "http_client": ProcessBoundClient(lambda: httpx2.Client(transport=transport)),
            "http_async_client": LoopBoundAsyncClient(lambda: httpx2.AsyncClient(transport=transport)),
        }
        said = {"model": "gpt-4.1-mini", "api_key": "sk-test", "base_url": "https://test.invalid/v1"}
        return cls(**{**said, "max_retries": 0, "timeout": 30.0, **clients, **options})

    async def ask(self, **said: Any) -> list[Any]:
        """Return what each of the two answered, or raised."""
        told = []
        for model in (self.model, self.stock):
            resource = model.async_client if self.is_async else model.client
            try:
                raw = resource.with_raw_response.create(**{**ASK, **said})
                told.append(await raw if self.is_async else raw)
            except Exception as error:
                told.append(error)
        return told

    @property
    def sent(self) -> tuple[list[Any], list[Any]]:
        return [_sent(request) for request in self.ours.requests], [
            _sent(request) for request in self.sdk.requests
        ]


def _sent(request: httpx2.Request) -> Any:
    request.read()
    timeout = request.extensions.get("timeout")
    return request.method, str(request.url), request.headers.raw, request.content, timeout


@pytest.fixture(params=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return request.param == "async"


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies of the requests that were copied from a template."""
    bodies: list[bytes] = []
    real = Template.request
    monkeypatch.setattr(
        Template, "request", lambda self, content: bodies.append(content) or real(self, content)
    )
    return bodies


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"organization": "org", "default_headers": {"X-All": "1", "User-Agent": "me"}},
        {"default_query": {"q": "1", "list": ["a", "b"]}},
        {"base_url": "https://test.invalid/deep/path/?key=1", "default_query": {"q": "1"}},
        {"base_url": "http://[::1]:8080/v1"},
        {"timeout": (3.0, 5.0)},
        {"timeout": httpx2.Timeout(5.0, read=None)},
        {"timeout": None},
        {"default_headers": {"Authorization": "Basic abc", "X-Stainless-Retry-Count": "7"}},
    ],
    ids=str,
)
async def test_copies_are_on_the_wire_what_the_sdk_builds(options, is_async, copied):
    pair = Pair(is_async, **options)
    for text in ("Hello", "Grüße \U0001f600", "x" * 10_000, ""):
        await pair.ask(messages=[{"role": "user", "content": text}])
    ours, sdks = pair.sent
    assert ours == sdks
    assert len(ours) == 4
    assert len(copied) == (3 if is_async else 4)  # the SDK looks at the platform in the first async one


async def test_a_copy_has_its_body_to_be_read_and_sent_again(is_async):
    pair = Pair(is_async)
    await pair.ask()
    for request in (await pair.ask())[0].http_response.request, pair.ours.requests[-1]:
        assert json.loads(request.content)["model"] == ASK["model"]
        assert b"".join(request.stream) == request.content


async def test_a_redirect_is_followed_with_the_body(is_async):
    def handler(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/there"):
            return httpx2.Response(200, json=REPLY)
        return httpx2.Response(307, headers={"location": "https://test.invalid/there"})

    pair = Pair(is_async, handler)
    clients = pair.model.http_client, pair.model.http_async_client
    assert all(type(client) in (ProcessBoundClient, LoopBoundAsyncClient) for client in clients)
    told = [await pair.ask(), await pair.ask()]
    # these inner clients are plain ones, which follow none: both raise alike
    assert [type(each) for pair_told in told for each in pair_told] == [openai.APIStatusError] * 4
    ours, sdks = pair.sent
    assert ours == sdks


# ---- where the SDK builds each request


@pytest.mark.parametrize(
    "said",
    [
        {"extra_headers": {"X-Mine": "1"}},
        {"extra_query": {"a": "b"}},
        {"timeout": 3.5},
        {"timeout": None},
    ],
    ids=str,
)
async def test_options_of_one_request_are_the_sdks(said, is_async, copied):
    pair = Pair(is_async)
    for each in ({}, {}, said, {}):
        await pair.ask(**each)
    ours, sdks = pair.sent
    assert ours == sdks
    assert len(copied) == (2 if is_async else 3)


@pytest.mark.parametrize("option", ["api_key", "max_retries", "workload", "client"])
async def test_what_signs_or_repeats_requests_is_the_sdks(option, is_async, copied):
    async def fetch() -> str:
        return "sk-fetched"

    options = {"api_key": fetch if is_async else (lambda: "sk-fetched")} if option == "api_key" else {}
    pair = Pair(is_async, **options)
    for client in pair.clients:
        if option == "max_retries":
            client.max_retries = 1
        if option == "workload":
            client._idempotency_header = "Idempotency-Key"
        if option == "client":
            kind = httpx2.AsyncClient if is_async else httpx2.Client
            wire = pair.ours if client is pair.clients[0] else pair.sdk
            client._client = kind(transport=httpx2.MockTransport(wire))
    for _ in range(2):
        await pair.ask()
    ours, sdks = pair.sent
    assert len(ours) == len(sdks) == 2
    if option != "workload":  # that one sends a random key
        assert ours == sdks
    assert copied == []


async def test_an_unknown_sdk_has_every_request_built(monkeypatch, copied):
    monkeypatch.setattr(plain_request, "_SIGNING", (*plain_request._SIGNING, "_gone"))
    pair = Pair(is_async=False)
    await pair.ask()
    assert copied == []
    assert len(pair.ours.requests) == 1


CHANGES: dict[str, Callable[[Any], None]] = {
    "another key": lambda client: setattr(client, "api_key", "sk-other"),
    "another organization": lambda client: setattr(client, "organization", "other"),
    "another server": lambda client: setattr(client, "base_url", "https://other.invalid/v2"),
    "another timeout": lambda client: setattr(client, "timeout", 1.5),
    "a header": lambda client: client._custom_headers.update({"X-New": "1"}),
    "a query": lambda client: client._custom_query.update({"new": "1"}),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_client_that_changed_sends_what_it_says_now(name, is_async, copied):
    pair = Pair(is_async, default_headers={"X-All": "1"}, default_query={"q": "1"})
    for _ in range(2):
        await pair.ask()
    for client in pair.clients:
        CHANGES[name](client)
    for _ in range(2):
        await pair.ask()
    ours, sdks = pair.sent
    assert ours == sdks
    assert ours[1] != ours[2] == ours[3]
    assert len(copied) == (3 if is_async else 4)


async def test_the_sdks_debug_log_is_written(is_async, copied, caplog):
    pair = Pair(is_async)
    await pair.ask()
    copied.clear()
    with caplog.at_level(logging.DEBUG, logger="openai._base_client"):
        await pair.ask()
    told = [record.message for record in caplog.records if record.name == "openai._base_client"]
    assert told.count("Sending HTTP Request: POST") == 2
    assert copied == []


async def test_a_create_that_was_replaced_is_asked(is_async, monkeypatch, copied):
    asked: list[Any] = []
    cls: Any = AsyncCompletions if is_async else Completions
    real = cls.create

    def traced(self: Any, **said: Any) -> Any:
        asked.append(said["model"])
        return real(self, **said)

    monkeypatch.setattr(cls, "create", traced)
    pair = Pair(is_async)
    told = await pair.ask()
    assert asked == ["gpt-4.1-mini"] * 2
    assert copied == []
    assert told[0].parse() == told[1].parse()


def test_only_the_sdks_own_functions_are_taken_for_its_own():
    assert is_the_sdks(Completions.create)
    assert is_the_sdks(AsyncCompletions.create)

    class Proxy:
        __code__ = Completions.create.__code__

        def __call__(self) -> None: ...

    assert not is_the_sdks(Proxy())
    assert not is_the_sdks(lambda: None)


# ---- what comes of it

STATUSES = [304, 400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 529]
BODIES = [
    json.dumps({"error": {"message": "No.", "type": "t", "code": "c", "param": "p"}}).encode(),
    json.dumps({"message": "plain"}).encode(),
    json.dumps({"error": "text"}).encode(),
    b"<html>Gateway</html>",
    b"",
    b"\xff\xfe",
]


def facts(error: Any) -> Any:
    """All that an SDK's error tells, but the objects themselves."""
    response = getattr(error, "response", None)
    return (
        type(error), str(error), type(error.__cause__), str(error.__cause__), error.__suppress_context__,
        getattr(error, "code", None), getattr(error, "body", None), getattr(error, "param", None),
        getattr(error, "type", None), getattr(error, "request_id", None),
        _sent(error.request) if isinstance(error, openai.APIError) else None,
        None if response is None else (response.status_code, response.headers.raw, response.content),
    )  # fmt: skip


@pytest.mark.parametrize("status", STATUSES)
async def test_statuses_raise_as_by_the_sdk(status, is_async, copied):
    for body in BODIES:
        pair = Pair(
            is_async,
            lambda _, body=body: httpx2.Response(status, content=body, headers={"x-request-id": "r"}),
        )
        for _ in range(2):
            ours, sdks = await pair.ask()
        assert isinstance(ours, openai.APIStatusError)
        assert facts(ours)[:4] == facts(sdks)[:4]
        assert facts(ours)[5:] == facts(sdks)[5:]
    assert copied


FAILURES: list[Exception] = [
    *(
        cls("Broken")
        for cls in (
            httpx2.ConnectTimeout, httpx2.ReadTimeout, httpx2.WriteTimeout, httpx2.PoolTimeout,
            httpx2.ConnectError, httpx2.ReadError, httpx2.WriteError, httpx2.CloseError, httpx2.ProxyError,
            httpx2.RemoteProtocolError, httpx2.LocalProtocolError, httpx2.UnsupportedProtocol,
            httpx2.DecodingError, httpx2.TooManyRedirects, httpx2.StreamError, httpx2.InvalidURL,
        )
    ),
    ssl.SSLError("TLS"),
    anyio.EndOfStream(),
    openai.OpenAIError("own"),
    openai.APIConnectionError(message="own", request=httpx2.Request("GET", "https://a.invalid")),
    OSError("disk"),
    ValueError("odd"),
    RuntimeError("closed"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(FAILURES)), ids=lambda number: type(FAILURES[number]).__name__)
async def test_failures_raise_as_by_the_sdk(number, is_async, copied):
    def handler(_: httpx2.Request) -> httpx2.Response:
        error = FAILURES[number]
        raise error if isinstance(error, openai.APIError) else type(error)(*error.args)

    pair = Pair(is_async, handler)
    for _ in range(2):
        ours, sdks = await pair.ask()
    assert facts(ours)[:4] == facts(sdks)[:4]
    assert facts(ours)[5:] == facts(sdks)[5:]
    assert copied


async def test_a_cancelled_call_is_cancelled():
    async def handler(_: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(30)
        raise AssertionError

    client = LoopBoundAsyncClient(lambda: httpx2.AsyncClient(transport=httpx2.MockTransport(handler)))
    model = ReliableChatOpenAI(
        model="m", api_key="sk-test", base_url="https://a.invalid", http_async_client=client
    )
    model.root_async_client._platform = "Linux"
    task = asyncio.ensure_future(model.async_client.with_raw_response.create(**ASK))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.aclose()


async def test_the_raw_response_is_the_sdks(is_async, copied):
    pair = Pair(is_async)
    await pair.ask()
    ours, sdks = await pair.ask()
    assert copied
    assert isinstance(ours._raw, LegacyAPIResponse)
    for name in (
        "status_code",
        "request_id",
        "retries_taken",
        "url",
        "method",
        "content",
        "text",
        "is_closed",
    ):
        assert getattr(ours, name) == getattr(sdks, name)
    assert ours._raw.parse() == sdks.parse()
    assert vars(ours._raw)["_options"].url == vars(sdks)["_options"].url


# ---- a real server


@pytest.fixture
def listener() -> Iterator[tuple[str, list[bytes]]]:
    """A server on loopback that keeps the bytes of each request, and its address."""
    server = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            while head := b"".join(iter(stream.readline, b"\r\n")):
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                seen.append(head + stream.read(length))
                answered = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                stream.write(answered % len(ANSWER) + ANSWER)
                stream.flush()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/v1", seen
    server.close()


async def test_every_byte_on_a_real_wire_is_the_sdks(is_async, listener, copied):
    base_url, seen = listener
    said: dict[str, Any] = {
        "model": "gpt-4.1-mini",
        "api_key": "sk-test",
        "base_url": base_url,
        "timeout": 10.0,
    }
    ours = ReliableChatOpenAI(**said, temperature=0.5)
    http_client = openai.DefaultAioHttpClient() if is_async else openai.DefaultHttpxClient()
    name = "http_async_client" if is_async else "http_client"
    stock = ChatOpenAI(**said, **{name: http_client}, temperature=0.5)
    for model in (ours, stock):
        for text in ("Hello", "Grüße"):
            answer = await model.ainvoke(text) if is_async else model.invoke(text)
            assert answer.text == "Hi"
    assert seen[:2] == seen[2:]
    assert len(copied) == (1 if is_async else 2)
    if is_async:
        await http_client.aclose()
        await ours.root_async_client._client.aclose()
    else:
        http_client.close()


@pytest.mark.parametrize("fault", ["nobody listens", "closes at once"])
async def test_a_dead_server_is_told_as_by_the_sdk(fault, is_async):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def close_all() -> None:
            try:
                while True:
                    server.accept()[0].close()
            except OSError:
                return

        if fault == "nobody listens":
            server.close()
        else:
            threading.Thread(target=close_all, daemon=True).start()
        said: dict[str, Any] = {
            "model": "m",
            "api_key": "sk",
            "base_url": f"http://127.0.0.1:{port}",
            "timeout": 5,
        }
        ours = ReliableChatOpenAI(**said, max_retries=0, circuit_breaker=None)
        ours.root_async_client._platform = "Linux"
        with pytest.raises(openai.APIConnectionError) as told:
            await ours.ainvoke("Hello") if is_async else ours.invoke("Hello")
        assert not isinstance(told.value, openai.APITimeoutError)
        if is_async:
            await ours.root_async_client._client.aclose()
        server.close()
