"""HTTP clients that belong to an event loop, or to a process, and are not used outside of it.

A client shared between loops sends a request and cannot read its answer (langchain#35783); a connection
shared with a forked process brings one the other's answer. Knows nothing of OpenAI's API.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import urllib.request
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from functools import lru_cache
from ssl import SSLContext
from typing import Any, Protocol

import httpx2
import openai


class Watcher(Protocol):
    """Whoever wants to know what becomes of a request."""

    def on_send(self) -> None:
        """Take note that a request is being sent."""

    def on_response(self, response: httpx2.Response) -> None:
        """Take note of a response's head."""


watcher: ContextVar[Watcher | None] = ContextVar("lc_service_watcher", default=None)
"""Told of every request that is sent in its context by one of these clients, and of its response's head."""


class LoopBoundAsyncClient(httpx2.AsyncClient):
    """An async client for the OpenAI SDK that keeps one real client for each running event loop.

    The real client is made at a loop's first request and closed when that loop shuts down
    (`asyncio.run`, `asyncio.Runner`, uvicorn: whoever calls `loop.shutdown_asyncgens`). `aclose` closes the
    running loop's client only; the next request opens a new one. Safe to share between threads. A loop that
    is closed without such a shutdown leaves its client to the garbage collector, which asyncio reports.

    Args:
        make_client: Makes the real client; called in the loop that will use it.
    """

    def __init__(self, make_client: Callable[[], httpx2.AsyncClient]) -> None:
        # This object only builds requests. A transport of its own would load certificates and read the
        # proxy environment for nothing.
        super().__init__(transport=_NoTransport(), trust_env=False)
        self._make_client = make_client
        self._bound: dict[asyncio.AbstractEventLoop, tuple[httpx2.AsyncClient, AsyncGenerator[None]]] = {}

    async def send(self, request: httpx2.Request, **kwargs: Any) -> httpx2.Response:
        """Send `request` with the running loop's client; arguments as `httpx2.AsyncClient.send`."""
        bound = self._bound.get(asyncio.get_running_loop())
        client = bound[0] if bound is not None else await self._bind()
        if (told := watcher.get()) is None:
            return await client.send(request, **kwargs)
        told.on_send()
        response = await client.send(request, **kwargs)
        told.on_response(response)
        return response

    async def aclose(self) -> None:
        """Close the running loop's client."""
        bound = self._bound.pop(asyncio.get_running_loop(), None)
        if bound is not None:
            await bound[1].aclose()

    async def _bind(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        # A loop that was closed without a shutdown took its sockets with it.
        for stale in [other for other in list(self._bound) if other.is_closed()]:
            self._bound.pop(stale, None)
        client = self._make_client()
        client.event_hooks["request"].append(self._on_request)
        guard = self._close_with_loop(loop, client)
        self._bound[loop] = (client, guard)
        await anext(guard)
        return client

    async def _on_request(self, request: httpx2.Request) -> None:
        """Run the hooks that the SDK puts on this object, on redirects as well: Azure's keys stay at home."""
        for hook in self.event_hooks["request"]:
            await hook(request)

    async def _close_with_loop(
        self, loop: asyncio.AbstractEventLoop, client: httpx2.AsyncClient
    ) -> AsyncGenerator[None]:
        """Wait as a started async generator: a loop closes all of those when it shuts down."""
        try:
            yield
        finally:
            self._bound.pop(loop, None)
            await client.aclose()


class ProcessBoundClient(httpx2.Client):
    """A client for the OpenAI SDK that keeps one real client for each process, so that `fork` is safe.

    The real client is made at a process's first request. Thread-safe.

    Args:
        make_client: Makes the real client.
    """

    def __init__(self, make_client: Callable[[], httpx2.Client]) -> None:
        super().__init__(transport=_NoTransport(), trust_env=False)
        self._make_client = make_client
        self._bound: dict[int, httpx2.Client] = {}

    def send(self, request: httpx2.Request, **kwargs: Any) -> httpx2.Response:
        """Send `request` with this process's client; arguments as `httpx2.Client.send`."""
        client = self._bound.get(os.getpid())
        if client is None:
            # Of two threads that meet here one wins. The parent's client stays in the dictionary: closing it
            # here could speak on its connections.
            client = self._bound.setdefault(os.getpid(), self._made())
        if (told := watcher.get()) is None:
            return client.send(request, **kwargs)
        told.on_send()
        response = client.send(request, **kwargs)
        told.on_response(response)
        return response

    def _made(self) -> httpx2.Client:
        client = self._make_client()
        client.event_hooks["request"].append(self._on_request)
        return client

    def _on_request(self, request: httpx2.Request) -> None:
        """Run the hooks that the SDK puts on this object; as `LoopBoundAsyncClient` does."""
        for hook in self.event_hooks["request"]:
            hook(request)

    def close(self) -> None:
        """Close this process's client; the next request opens a new one."""
        client = self._bound.pop(os.getpid(), None)
        if client is not None:
            client.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # half made, or at the interpreter's end
            self.close()


class _NoTransport(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """What a client has that only builds requests."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        raise RuntimeError(f"no request is sent from here, not even to {request.url.host}")

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        raise RuntimeError(f"no request is sent from here, not even to {request.url.host}")


def default_client(endpoint: str = "") -> ProcessBoundClient:
    """Return the synchronous client that all models of an endpoint share.

    There is another one where the proxy or certificate settings have changed since.

    Args:
        endpoint: What has to be the same for sharing, such as the base URL; any text.
    """
    return _shared_client(_environment(), endpoint)


def default_async_client() -> LoopBoundAsyncClient:
    """Return the process's shared async client for the proxy and certificate settings of this moment."""
    return _shared_async_client(_environment())


def proxied_client(proxy: str) -> ProcessBoundClient:
    """Return a synchronous client that sends everything through `proxy` (a URL)."""
    return ProcessBoundClient(lambda: openai.DefaultHttpxClient(proxy=proxy))


def socket_options_client(options: list[tuple[int, int, int]]) -> ProcessBoundClient:
    """Return a synchronous client whose sockets get `options`, as `socket.setsockopt` takes them."""

    def make_client() -> httpx2.Client:
        limits = openai.DEFAULT_CONNECTION_LIMITS
        return openai.DefaultHttpxClient(
            transport=httpx2.HTTPTransport(socket_options=options, limits=limits)
        )

    return ProcessBoundClient(make_client)


def proxied_async_client(proxy: str) -> LoopBoundAsyncClient:
    """Return an async client that sends everything through `proxy` (a URL)."""
    return LoopBoundAsyncClient(lambda: openai.DefaultAsyncHttpxClient(proxy=proxy))


def socket_options_async_client(options: list[tuple[int, int, int]]) -> LoopBoundAsyncClient:
    """Return an async client whose sockets get `options`, as `socket.setsockopt` takes them."""

    def make_client() -> httpx2.AsyncClient:
        limits = openai.DEFAULT_CONNECTION_LIMITS
        transport = httpx2.AsyncHTTPTransport(socket_options=options, limits=limits)
        return openai.DefaultAsyncHttpxClient(transport=transport)

    return LoopBoundAsyncClient(make_client)


_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_Environment = tuple[tuple[str, str], ...]


def _environment() -> _Environment:
    """Return what of the environment a client depends on, so that a change of it gets a client of its own."""
    certificates = {name: os.environ[name] for name in _CERTIFICATE_VARIABLES if name in os.environ}
    return tuple(sorted((urllib.request.getproxies() | certificates).items()))


def _has_proxy(environment: _Environment) -> bool:
    return any(name not in (*_CERTIFICATE_VARIABLES, "no") for name, _ in environment)


@lru_cache(maxsize=256)
def _shared_client(environment: _Environment, _: str) -> ProcessBoundClient:
    return ProcessBoundClient(lambda: openai.DefaultHttpxClient(verify=_ssl_context(environment)))


@lru_cache(maxsize=256)
def _shared_async_client(environment: _Environment) -> LoopBoundAsyncClient:
    # aiohttp halves the CPU of a call. Proxies from the environment stay with the default client, which
    # also speaks SOCKS and honours NO_PROXY.
    has_aiohttp = importlib.util.find_spec("aiohttp") is not None
    make = (
        openai.DefaultAioHttpClient
        if has_aiohttp and not _has_proxy(environment)
        else openai.DefaultAsyncHttpxClient
    )
    return LoopBoundAsyncClient(lambda: make(verify=_ssl_context(environment)))


@lru_cache(maxsize=16)
def _ssl_context(_: _Environment) -> SSLContext:
    """Load the certificates once, not for every loop: it takes about as long as ten calls."""
    return httpx2.create_ssl_context()
