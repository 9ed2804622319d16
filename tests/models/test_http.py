"""Connections: they belong to their event loop, go where the environment says, and are closed with it."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from lc_service.models import http
from lc_service.models.chat import ReliableChatOpenAI
from lc_service.models.http import LoopBoundAsyncClient, default_async_client
from lc_service.retry.errors import ErrorKind, classify
from lc_service.simulator import Simulator

from_loopback = {"api_key": "sk-test", "model": "gpt-4.1-mini", "max_retries": 2}


def bound_loops() -> list[asyncio.AbstractEventLoop]:
    return list(default_async_client()._bound)


def transport_of(client: LoopBoundAsyncClient) -> httpx2.AsyncBaseTransport:
    """The transport that carries the running loop's requests."""
    return client._bound[asyncio.get_running_loop()][0]._transport


# One client for each loop


def test_ten_loops_in_a_row_send_ten_requests_and_leave_nothing_open(simulate, make_model):
    sim = simulate()
    model = make_model()
    for number in range(10):
        assert f"question {number}" in asyncio.run(model.ainvoke(f"question {number}")).text
        assert bound_loops() == []
    assert len(sim.requests) == sim.bill.requests == 10
    gc.collect()  # a client left open would warn here, and a warning is an error


def test_a_loop_keeps_its_connection(simulate, make_model):
    simulate()

    async def main() -> None:
        await make_model().ainvoke("one")
        client = default_async_client()._bound[asyncio.get_running_loop()][0]
        await make_model(temperature=0.5).ainvoke("two")
        assert default_async_client()._bound[asyncio.get_running_loop()][0] is client

    asyncio.run(main())


def test_loops_in_several_threads_at_once(simulate, make_model):
    sim = simulate(latency_seconds=0.01)
    model = make_model()

    async def ask(thread: int) -> list[str]:
        answers = await asyncio.gather(*(model.ainvoke(f"{thread} asks {n}?") for n in range(5)))
        return [answer.text for answer in answers]

    with ThreadPoolExecutor(4) as pool:
        by_thread = list(pool.map(lambda thread: asyncio.run(ask(thread)), range(4)))
    for thread, answers in enumerate(by_thread):
        assert all(f"{thread} asks {n}?" in answer for n, answer in enumerate(answers))
    assert len(sim.requests) == 20
    assert bound_loops() == []


def test_uvloop(simulate, make_model):
    uvloop = pytest.importorskip("uvloop")
    sim = simulate()
    model = make_model()
    for _ in range(3):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(model.ainvoke("Hello"))
        assert bound_loops() == []
    assert len(sim.requests) == 3
    gc.collect()


def test_a_loop_that_was_closed_without_a_shutdown_is_forgotten(simulate, make_model):
    sim = simulate()
    model = make_model()
    careless = asyncio.new_event_loop()
    careless.run_until_complete(model.ainvoke("one"))
    careless.close()
    assert bound_loops() == [careless]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the careless program's own
        asyncio.run(model.ainvoke("two"))
        gc.collect()
    assert bound_loops() == []
    assert len(sim.requests) == 2


def test_aclose_closes_the_running_loops_client_only(simulate, make_model):
    sim = simulate()
    model = make_model()

    async def main() -> None:
        await model.ainvoke("one")
        first = default_async_client()._bound[asyncio.get_running_loop()][0]
        other = asyncio.to_thread(lambda: asyncio.run(ask_and_look()))
        assert (await other) is False
        await model.root_async_client.close()
        assert first.is_closed
        assert asyncio.get_running_loop() not in bound_loops()
        await default_async_client().aclose()  # once more does no harm
        await model.ainvoke("three")

    async def ask_and_look() -> bool:
        await model.ainvoke("two")
        client = default_async_client()._bound[asyncio.get_running_loop()][0]
        return client.is_closed

    asyncio.run(main())
    assert len(sim.requests) == 3


def test_a_cancelled_request_does_not_harm_the_loops_client(simulate, make_model):
    simulate()
    model = make_model()

    async def main() -> str:
        task = asyncio.create_task(model.ainvoke("never read"))
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return (await model.ainvoke("read")).text

    assert "read" in asyncio.run(main())


def test_the_shell_sends_nothing_itself():
    client = LoopBoundAsyncClient(openai.DefaultAsyncHttpxClient)
    request = httpx2.Request("POST", "http://127.0.0.1:9/")
    with pytest.raises(RuntimeError, match="no request is sent from here"):
        asyncio.run(client._transport.handle_async_request(request))


# Which client


def test_aiohttp_carries_the_async_requests(simulate, make_model):
    simulate()

    async def main() -> str:
        await make_model().ainvoke("Hello")
        return type(transport_of(default_async_client())).__module__

    assert "aiohttp" in asyncio.run(main())


def test_without_aiohttp_the_default_client_does(simulate, make_model, monkeypatch):
    simulate()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    http._shared_async_client.cache_clear()

    async def main() -> type:
        await make_model().ainvoke("Hello")
        return type(transport_of(default_async_client()))

    try:
        assert asyncio.run(main()) is httpx2.AsyncHTTPTransport
    finally:
        http._shared_async_client.cache_clear()


def test_socket_options_have_a_client_that_knows_them(simulate, make_model):
    simulate()
    option = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    model = make_model(http_socket_options=[option])

    async def main() -> httpx2.AsyncBaseTransport:
        await model.ainvoke("Hello")
        return transport_of(model.root_async_client._client)

    transport = asyncio.run(main())
    assert type(transport) is httpx2.AsyncHTTPTransport
    assert transport._pool._socket_options == [option]


def test_socket_options_are_set_on_the_sync_clients_sockets_and_no_others(simulate, make_model, monkeypatch):
    simulate()
    option = (socket.SOL_SOCKET, socket.SO_RCVBUF, 54_321)
    given = []
    monkeypatch.setattr(socket.socket, "setsockopt", lambda _, *said: given.append(said), raising=False)
    make_model().invoke("Hello")
    assert option not in given
    make_model(http_socket_options=[option]).invoke("Hello")
    assert given.count(option) == 1


def test_the_callers_own_clients_are_used_and_left_open(simulate, make_model):
    sim = simulate()
    seen: list[str] = []

    async def note(_: httpx2.Request) -> None:
        seen.append("async")

    async def main() -> None:
        async with httpx2.AsyncClient(event_hooks={"request": [note]}) as own_async:
            model = make_model(http_client=own, http_async_client=own_async)
            model.invoke("Hello")
            await model.ainvoke("Hello")
            del model
            gc.collect()
            assert not own_async.is_closed

    with httpx2.Client(event_hooks={"request": [lambda _: seen.append("sync")]}) as own:
        asyncio.run(main())
        assert not own.is_closed
    assert seen == ["sync", "async"]
    assert len(sim.requests) == 2


def test_a_proxied_environment_has_the_default_client(sim, relay_to, monkeypatch):
    proxy = relay_to(port_of(sim))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)

    async def main() -> type:
        await ReliableChatOpenAI(base_url=sim.base_url, **from_loopback).ainvoke("Hello")
        return type(default_async_client()._bound[asyncio.get_running_loop()][0])

    assert asyncio.run(main()) is openai.DefaultAsyncHttpxClient


def test_a_change_of_the_environment_gets_a_client_of_its_own(monkeypatch):
    before = default_async_client()
    assert default_async_client() is before
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    proxied = default_async_client()
    assert proxied is not before
    monkeypatch.setenv("NO_PROXY", "example.com")
    assert default_async_client() not in (before, proxied)


# Proxies and certificates


@pytest.fixture
def sim() -> Iterator[Simulator]:
    # a new URL for each test: LangChain keeps one client for a URL, whatever the environment has become
    with Simulator(max_lifetime_seconds=60) as simulator:
        yield simulator


def port_of(sim: Simulator) -> int:
    return httpx2.URL(sim.base_url).port


def close(model: ReliableChatOpenAI) -> None:
    """Close the sync client that LangChain keeps for its URL: this URL will not be asked again."""
    model.root_client.close()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_from_the_environment_is_used(variable, sim, relay_to, monkeypatch):
    proxy = relay_to(port_of(sim))
    monkeypatch.setenv(variable, proxy.url)
    model = ReliableChatOpenAI(base_url=sim.base_url, **from_loopback)
    model.invoke("sync")
    assert len(proxy.first_lines) == 1
    asyncio.run(model.ainvoke("async"))
    assert proxy.first_lines == [f"POST {sim.base_url}/chat/completions HTTP/1.1".encode()] * 2
    assert len(sim.requests) == 2
    close(model)


def test_no_proxy_is_honoured(sim, relay_to, monkeypatch):
    proxy = relay_to(port_of(sim))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    model = ReliableChatOpenAI(base_url=sim.base_url, **from_loopback)
    model.invoke("sync")
    asyncio.run(model.ainvoke("async"))
    assert proxy.connections == 0
    assert len(sim.requests) == 2
    close(model)


def test_openai_proxy_is_used(sim, relay_to):
    proxy = relay_to(port_of(sim))
    model = ReliableChatOpenAI(base_url=sim.base_url, openai_proxy=proxy.url, **from_loopback)
    model.invoke("sync")
    assert len(proxy.first_lines) == 1
    for _ in range(2):
        asyncio.run(model.ainvoke("async"))
    assert len(proxy.first_lines) == len(sim.requests) == 3
    close(model)


@pytest.fixture
def tls_relay(sim, relay_to, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return relay_to(port_of(sim), context)


def test_certificates_from_the_environment_are_trusted(sim, tls_relay, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    model = ReliableChatOpenAI(base_url=f"https://127.0.0.1:{tls_relay.port}/v1", **from_loopback)
    model.invoke("sync")
    for _ in range(2):
        asyncio.run(model.ainvoke("async"))
    assert len(sim.requests) == 3
    close(model)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_untrusted_certificate_is_not_tried_again(is_async, sim, tls_relay, fake_clock):
    model = ReliableChatOpenAI(base_url=f"https://127.0.0.1:{tls_relay.port}/v1", **from_loopback)
    with pytest.raises(openai.APIConnectionError) as caught:
        asyncio.run(model.ainvoke("x")) if is_async else model.invoke("x")
    assert classify(caught.value).kind is ErrorKind.CONFIGURATION
    assert not isinstance(caught.value, openai.APITimeoutError)
    assert fake_clock.waits == []
    assert sim.requests == []
    close(model)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_refused_connection_is_tried_again_and_is_no_timeout(is_async, fake_clock):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    model = ReliableChatOpenAI(base_url=f"http://127.0.0.1:{port}/v1", **from_loopback)
    with pytest.raises(openai.APIConnectionError) as caught:
        asyncio.run(model.ainvoke("x")) if is_async else model.invoke("x")
    assert classify(caught.value).kind is ErrorKind.CONNECTION
    assert len(fake_clock.waits) == 2
    close(model)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_do_not_share_a_connection():
    """In a process of its own: a fork of a test runner with threads is not for keeps."""
    code = """
import os, sys
from lc_service import ReliableChatOpenAI
from lc_service.simulator import Simulator
with Simulator() as server:
    model = ReliableChatOpenAI(model="m", base_url=server.base_url, api_key="any")
    model.invoke("parent")
    children = []
    for name in "ABC":
        child = os.fork()
        if child == 0:
            words = [f"{name}{i}" for i in range(10)]
            os._exit(sum(word not in model.invoke(f"Say {word}.").text for word in words))
        children.append(child)
    sys.exit(sum(os.waitpid(child, 0)[1] for child in children))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)  # noqa: S603  our own code
    assert done.returncode == 0


def test_models_of_one_endpoint_share_a_sync_client_and_others_do_not():
    def client(**options):
        return ReliableChatOpenAI(model="m", api_key="k", **options).root_client._client

    assert client() is client(timeout=None)
    for other in ({"base_url": "http://127.0.0.1:9/v1"}, {"timeout": 3}):
        assert client(**other) is not client()
