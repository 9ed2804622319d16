"""What every test of this room needs: simulators on one URL, and models that talk to them."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lc_service.models.chat import ReliableChatOpenAI
from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.simulator import Simulator

KEY = "sk-test-DISTINCTIVE-0123456789"


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
