"""What every test of this room needs: simulators on one URL, and models that talk to them."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lc_service.models.chat import ReliableChatOpenAI
from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.simulator import Simulator

KEY = "sk-test-DISTINCTIVE-0123456789"


@pytest.fixture
def key() -> str:
    """The key that every model of `make_model` has."""
    return KEY


@pytest.fixture(scope="session")
def port() -> int:
    """One port for all simulators of this process: LangChain makes two HTTP clients for each new base URL,
    which takes twenty times as long as starting a simulator.
    """
    for number in random.sample(range(15_000, 30_000), 100):  # below the range of outgoing connections
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", number))
            return number
    raise RuntimeError("no free port")


@pytest.fixture
def simulate(port: int) -> Iterator[Callable[..., Simulator]]:
    """Start a simulator with the given options; the one before it, if any, is stopped."""
    running: list[Simulator] = []

    def start(**options: Any) -> Simulator:
        while running:
            running.pop().stop()
        running.append(Simulator(port=port, max_lifetime_seconds=120, **options).start())
        return running[0]

    yield start
    while running:
        running.pop().stop()


@pytest.fixture
def make_model(port: int) -> Callable[..., ReliableChatOpenAI]:
    """Make a model that talks to the simulator; its retries wait next to nothing unless told otherwise."""

    def make(cls: type = ReliableChatOpenAI, **options: Any) -> Any:
        options = {
            "model": "gpt-4.1-mini",
            "api_key": KEY,
            "base_url": f"http://127.0.0.1:{port}/v1",
        } | options
        if issubclass(cls, ReliableChatOpenAI) and not {"retry", "max_retries"} & options.keys():
            options["retry"] = RetryWithExponentialBackoff(initial_delay=0.001, max_delay=0.01)
        return cls(**options)

    return make


class Relay:
    """Passes connections on to a port, byte by byte, and keeps the first line of each.

    A plain HTTP proxy needs no more: the simulator understands a request for an absolute URL.
    """

    def __init__(self, to_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.first_lines: list[bytes] = []
        self.connections = 0
        self._to_port = to_port
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            client.settimeout(5)
            if self._tls is not None:
                try:
                    client = self._tls.wrap_socket(client, server_side=True)
                except (OSError, ssl.SSLError):
                    client.close()
                    continue
            server = socket.create_connection(("127.0.0.1", self._to_port), timeout=5)
            self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                thread = threading.Thread(
                    target=self._pump, args=(source, sink, source is client), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if is_request and data.startswith((b"POST ", b"CONNECT ")):
                    self.first_lines.append(data.split(b"\r\n", 1)[0])
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(2)
        for each in self._open:
            each.close()


@pytest.fixture
def relay_to() -> Iterator[Callable[..., Relay]]:
    relays: list[Relay] = []

    def start(*args: Any, **kwargs: Any) -> Relay:
        relays.append(Relay(*args, **kwargs))
        return relays[-1]

    yield start
    for relay in relays:
        relay.close()
