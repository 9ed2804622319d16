"""The OpenAI SDK underneath: its clients, what it does with an HTTP client of ours, its own retries."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import warnings
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import httpx2
import openai
import pytest
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models import _client_utils

from lc_service.simulator import Fault

MESSAGES: list[Any] = [{"role": "user", "content": "Hello there"}]
ASK: dict[str, Any] = {"model": "gpt-4.1-mini", "messages": MESSAGES}


# ---- clients


def test_the_public_names_we_take_from_the_sdk_exist():
    """DEFAULT_TIMEOUT is 600 s and 5 s to connect; the limits, and both async client classes, are public.

    Ours: `models/http.py`, and `_own_clients` in `models/chat.py` and `models/embeddings.py`; the 600 s are
    in docstrings and README.
    """
    assert httpx2.Timeout(600, connect=5) == openai.DEFAULT_TIMEOUT
    assert isinstance(openai.DEFAULT_CONNECTION_LIMITS, httpx2.Limits)
    for cls in (openai.DefaultAioHttpClient, openai.DefaultAsyncHttpxClient):
        assert issubclass(cls, httpx2.AsyncClient)


async def test_both_async_clients_take_an_ssl_context_as_verify():
    """DefaultAioHttpClient and DefaultAsyncHttpxClient accept `verify=SSLContext`, a `proxy`, a `transport`.

    Ours: `_shared_async_client`, `proxied_async_client`, `socket_options_async_client` in `models/http.py`.
    """
    context = httpx2.create_ssl_context()
    async with (
        openai.DefaultAioHttpClient(verify=context),
        openai.DefaultAsyncHttpxClient(verify=context),
        openai.DefaultAsyncHttpxClient(proxy="http://127.0.0.1:9"),
        openai.DefaultAsyncHttpxClient(
            transport=httpx2.AsyncHTTPTransport(
                socket_options=[], limits=openai.DEFAULT_CONNECTION_LIMITS, verify=context
            )
        ),
    ):
        pass


@pytest.mark.parametrize("is_async", [False, True])
async def test_with_options_keeps_everything_it_is_not_told(canned, sync_client, async_client, is_async):
    """`with_options(max_retries=0, http_client=…)` keeps key, URL, headers, query, organisation, project.

    Ours: `_own_clients` in `models/chat.py` and `models/embeddings.py` makes its clients from LangChain's.
    """
    server = canned({"data": []})
    options: dict[str, Any] = {
        "api_key": "sk-kept",
        "base_url": server.base_url,
        "organization": "org-kept",
        "project": "proj-kept",
        "default_headers": {"x-kept": "yes"},
        "default_query": {"kept": "1"},
    }
    with contextlib.suppress(openai.OpenAIError, ValueError, TypeError):
        if is_async:
            client = openai.AsyncOpenAI(**options)
            again = client.with_options(max_retries=0, timeout=7.0, http_client=async_client)
            await again.embeddings.create(model="m", input="x")
        else:
            sync = openai.OpenAI(**options)
            again = sync.with_options(max_retries=0, timeout=7.0, http_client=sync_client)
            again.embeddings.create(model="m", input="x")
    assert again._client is (async_client if is_async else sync_client)
    assert (again.max_retries, again.timeout) == (0, 7.0)
    (request,) = server.requests
    assert request.path == "/v1/embeddings?kept=1"
    wanted = {
        "authorization": "Bearer sk-kept",
        "openai-organization": "org-kept",
        "openai-project": "proj-kept",
        "x-kept": "yes",
    }
    assert {name: request.headers[name] for name in wanted} == wanted


def test_with_options_without_an_http_client_shares_the_old_one(sync_client):
    """`with_options(max_retries=0)` goes on with the client that it had.

    Ours: `_own_clients` leaves a caller's HTTP client, and LangChain's synchronous one, in place.
    """
    client = openai.OpenAI(api_key="k", http_client=sync_client)
    assert client.with_options(max_retries=0)._client is sync_client


class Sends(httpx2.AsyncClient):
    """An async client that has no transport of its own and hands every request on."""

    def __init__(self, real: httpx2.AsyncClient) -> None:
        super().__init__(transport=httpx2.MockTransport(lambda _: httpx2.Response(599)), trust_env=False)
        self.real = real
        self.sent: list[tuple[httpx2.Request, dict[str, Any]]] = []

    async def send(self, request: httpx2.Request, **kwargs: Any) -> httpx2.Response:
        self.sent.append((request, kwargs))
        return await self.real.send(request, **kwargs)


async def test_async_openai_sends_everything_through_its_clients_send(simulate, async_client):
    """AsyncOpenAI takes a subclass of httpx2.AsyncClient, and sends all calls and streams by its `send`.

    The request it hands over is complete: an absolute URL, and the SDK's own timeout, not the client's.

    Ours: `LoopBoundAsyncClient` in `models/http.py` overrides `send` and nothing else.
    """
    http_client = Sends(async_client)
    sim = simulate()
    client = openai.AsyncOpenAI(api_key="k", base_url=sim.base_url, http_client=http_client)
    await client.chat.completions.create(**ASK)
    async for _ in await client.chat.completions.create(**ASK, stream=True):
        pass
    await client.responses.create(model="gpt-4.1-mini", input="Hello")
    await client.embeddings.create(model="text-embedding-3-small", input="Hello")
    assert len(http_client.sent) == len(sim.requests) == 4
    for request, kwargs in http_client.sent:
        assert str(request.url).startswith(sim.base_url)
        assert request.extensions["timeout"] == openai.DEFAULT_TIMEOUT.as_dict()
        assert set(kwargs) <= {"stream", "auth", "follow_redirects"}
    await http_client.aclose()


async def test_closing_the_sdks_client_calls_aclose_of_the_http_client(async_client):
    """`AsyncOpenAI.close()` awaits `http_client.aclose()`.

    Ours: `LoopBoundAsyncClient.aclose` in `models/http.py` closes the running loop's connections only.
    """
    closed = []

    class Closes(Sends):
        async def aclose(self) -> None:
            closed.append(True)
            await super().aclose()

    await openai.AsyncOpenAI(api_key="k", http_client=Closes(async_client)).close()
    assert closed == [True]


def test_an_embeddings_resource_leads_back_to_its_client():
    """`client.embeddings` is an `openai.resources.(Async)Embeddings` whose `_client` is the client.

    Ours: `_own_clients` in `models/embeddings.py`: LangChain keeps the resource only.
    """
    client, aclient = openai.OpenAI(api_key="k"), openai.AsyncOpenAI(api_key="k")
    assert type(client.embeddings) is openai.resources.Embeddings
    assert type(aclient.embeddings) is openai.resources.AsyncEmbeddings
    assert client.embeddings._client is client
    assert aclient.embeddings._client is aclient
    assert client.embeddings._client.with_options(max_retries=0).embeddings._client.max_retries == 0


def test_the_bare_sdk_times_out_and_chat_openai_does_not(simulate, chat):
    """The SDK's default timeout is DEFAULT_TIMEOUT; ChatOpenAI passes None: no limit (langchain#35597).

    Ours: `_own_clients` in `models/chat.py` gives the SDK's default where the caller said nothing, told by
    `"request_timeout" in model_fields_set`.
    """
    assert openai.OpenAI(api_key="k").timeout == openai.DEFAULT_TIMEOUT
    model = chat(simulate())
    assert model.root_client.timeout is model.root_async_client.timeout is None
    assert "request_timeout" not in model.model_fields_set
    assert "request_timeout" in chat(simulate(), timeout=None).model_fields_set


# ---- event loops


def test_a_loop_closes_started_async_generators_when_it_shuts_down():
    """`asyncio.run` and `asyncio.Runner` finish every async generator that was started and not ended.

    Also one that somebody still holds, and inside the loop, which still runs.

    Ours: `_close_with_loop` in `models/http.py` closes a loop's connections in one.
    """
    closed = []

    async def guard() -> Any:
        try:
            yield
        finally:
            await asyncio.sleep(0)
            closed.append(asyncio.get_running_loop())

    held = []

    async def start() -> asyncio.AbstractEventLoop:
        held.append(guard())
        await anext(held[-1])
        return asyncio.get_running_loop()

    first = asyncio.run(start())
    with asyncio.Runner() as runner:
        second = runner.run(start())
        assert closed == [first]
    assert closed == [first, second]


@pytest.fixture
def leaves_sockets_behind() -> Iterator[None]:
    """Let a test leave the sockets of a closed loop to the garbage collector, which complains of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        _client_utils._cached_async_httpx_client.cache_clear()
        _client_utils._cached_sync_httpx_client.cache_clear()
        gc.collect()


def test_the_cached_async_client_sends_then_fails_in_a_second_loop(simulate, leaves_sockets_behind):
    """ChatOpenAI's async HTTP client is cached for the process (langchain#35783).

    In a second `asyncio.run` a request is sent and then fails with "Event loop is closed". (FACTS: it is
    then sent again. On openai 3.54 the SDK does not retry it, whatever `max_retries`; the user will.)

    Ours: `LoopBoundAsyncClient` in `models/http.py` exists for it. If this is fixed, it may go.
    """
    sim = simulate()

    def model() -> ChatOpenAI:
        return ChatOpenAI(model="gpt-4.1-mini", api_key="k", base_url=sim.base_url)

    assert model().root_async_client._client is model().root_async_client._client
    asyncio.run(model().ainvoke("Hello there"))
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        asyncio.run(model().ainvoke("Hello there again"))
    for _ in range(100):
        if len(sim.requests) == 2:
            break
        time.sleep(0.01)
    assert b"again" in sim.requests[1].body


# ---- response hooks and the SDK's own retries


async def test_response_hooks_see_every_attempt(simulate, sync_client, async_client):
    """`event_hooks={"response": […]}` is told of every response: errors, SDK retries, streams, embeddings.

    Ours: DESIGN's "One chat call", step 3; nothing else shows the headers of a success.
    """
    seen: list[tuple[int, bool]] = []

    def hook(response: httpx2.Response) -> None:
        seen.append((response.status_code, "x-request-id" in response.headers))

    async def ahook(response: httpx2.Response) -> None:
        hook(response)

    sync_client.event_hooks = {"response": [hook]}
    async_client.event_hooks = {"response": [ahook]}
    rate_limit = Fault("rate_limit", retry_after_seconds=0.001)
    sim = simulate(faults=[rate_limit, "ok", rate_limit, "ok", "ok"])
    client = openai.OpenAI(api_key="k", base_url=sim.base_url, http_client=sync_client)
    aclient = openai.AsyncOpenAI(api_key="k", base_url=sim.base_url, http_client=async_client)
    client.chat.completions.create(**ASK)
    async for _ in await aclient.chat.completions.create(**ASK, stream=True):
        pass
    client.embeddings.create(model="text-embedding-3-small", input="x")
    assert seen == [(429, True), (200, True), (429, True), (200, True), (200, True)]


def throttled(**headers: str) -> tuple[int, dict[str, str], bytes]:
    return 429, {name.replace("_", "-"): value for name, value in headers.items()}, b"{}"


@pytest.mark.parametrize(
    ("headers", "asked_seconds"),
    [
        ({"retry_after_ms": "40", "retry_after": "9"}, 0.04),
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after": "0"}, None),
        ({"retry_after": "-3"}, None),
        ({"retry_after": "nonsense"}, None),
        ({"retry_after_ms": "nonsense", "retry_after": "2"}, 2),
        ({}, None),
    ],
)
def test_the_sdk_reads_retry_after_as_we_do(canned, sync_client, sleeps, headers, asked_seconds):
    """The SDK: `retry-after-ms` first, then `retry-after`; zero, negative and unreadable count as not said.

    Ours: `retry_after_seconds` in `retry/retry_after.py` says "as in the OpenAI SDKs".
    """
    server = canned(throttled(**headers))
    client = openai.OpenAI(api_key="k", base_url=server.base_url, http_client=sync_client, max_retries=1)
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**ASK)
    assert len(sleeps) == 1
    if asked_seconds is None:
        assert 0.375 <= sleeps[0] <= 0.5  # its own first backoff
    else:
        assert sleeps == [asked_seconds]


def test_the_sdk_reads_a_retry_after_date_by_the_clients_clock(canned, sync_client, sleeps):
    """The SDK takes an HTTP date in `retry-after` against its own clock.

    Ours: `retry/retry_after.py` uses the response's `date` where there is one, which is better.
    """
    server = canned(throttled(retry_after=formatdate(time.time() + 60, usegmt=True)))
    client = openai.OpenAI(api_key="k", base_url=server.base_url, http_client=sync_client, max_retries=1)
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**ASK)
    assert 50 < sleeps[0] <= 60


@pytest.mark.parametrize(
    ("reply", "attempts"),
    [
        ((429, {}, b"{}"), 2),
        ((408, {}, b"{}"), 2),
        ((409, {}, b"{}"), 2),
        ((500, {}, b"{}"), 2),
        ((400, {}, b"{}"), 1),
        ((401, {}, b"{}"), 1),
        ((422, {}, b"{}"), 1),
        ((400, {"x-should-retry": "true"}, b"{}"), 2),
        ((503, {"x-should-retry": "false"}, b"{}"), 1),
        ((429, {"retry-after": "121"}, b"{}"), 1),
    ],
)
def test_what_the_sdk_itself_would_retry(canned, sync_client, sleeps, reply, attempts):
    """The SDK retries 408, 409, 429 and 5xx, obeys `x-should-retry`, and gives up on waits over 120 s.

    Ours: `classify` in `retry/errors.py` calls the same transient ("as the OpenAI SDKs do"), less what its
    code says cannot succeed.
    """
    server = canned(reply)
    client = openai.OpenAI(api_key="k", base_url=server.base_url, http_client=sync_client, max_retries=1)
    with pytest.raises(openai.APIStatusError):
        client.chat.completions.create(**ASK)
    assert len(server.requests) == attempts


def test_the_sdk_retries_an_exhausted_quota(simulate, sync_client, sleeps):
    """The SDK looks at the status only: `insufficient_quota` is sent three times.

    Ours: `classify` in `retry/errors.py` says QUOTA_EXHAUSTED, not transient.
    """
    sim = simulate(faults=["insufficient_quota"] * 3)
    client = openai.OpenAI(api_key="k", base_url=sim.base_url, http_client=sync_client)
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**ASK)
    assert len(sim.requests) == 3


def test_the_sdk_does_not_retry_a_stream_that_broke(simulate, sync_client):
    """The SDK's retries end with the response's headers.

    Ours: `retry/stream.py` goes on until the first content, and raises TruncatedResponseError after it.
    """
    sim = simulate(faults=[Fault("cut", after_chunks=0)])
    client = openai.OpenAI(api_key="k", base_url=sim.base_url, http_client=sync_client)
    with pytest.raises(openai.APIConnectionError):
        list(client.chat.completions.create(**ASK, stream=True))
    assert len(sim.requests) == 1
