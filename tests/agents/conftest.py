"""Simulators on one URL, models that talk to them, agents that never stop, and how to run them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, ToolMessage

from lc_service.models.chat import ReliableChatOpenAI
from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.simulator import Simulator


@pytest.fixture(scope="session")
def port() -> int:
    """One port for all simulators of this process: LangChain makes two HTTP clients for each new base URL."""
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
        running.append(Simulator(port=port, max_lifetime_seconds=60, **options).start())
        return running[0]

    yield start
    while running:
        running.pop().stop()


@pytest.fixture
def make_model(port: int) -> Callable[..., ReliableChatOpenAI]:
    """Make a model that talks to the simulator; its retries wait next to nothing unless told otherwise."""

    def make(**options: Any) -> ReliableChatOpenAI:
        if not {"retry", "max_retries"} & options.keys():
            options["retry"] = RetryWithExponentialBackoff(
                initial_delay=0.001, max_delay=0.002, max_retries=2
            )
        url = f"http://127.0.0.1:{port}/v1"
        return ReliableChatOpenAI(
            **{"model": "gpt-4.1-mini", "api_key": "sk-test", "base_url": url, "max_tokens": 40, **options}
        )

    return make


class Runaway(AgentMiddleware):
    """Has the model call a tool each time, so that the agent never stops by itself."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request.override(tool_choice="any"))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(request.override(tool_choice="any"))


@pytest.fixture
def runaway() -> Runaway:
    return Runaway()


def _stream(agent: Any, given: Any, config: Any) -> Any:
    return list(agent.stream(given, config, stream_mode=["values", "messages"]))[-1][1]


def _astream(agent: Any, given: Any, config: Any) -> Any:
    async def read() -> Any:
        return [each async for each in agent.astream(given, config, stream_mode=["messages", "values"])]

    return asyncio.run(read())[-1][1]


RUNNERS: dict[str, Callable[..., Any]] = {
    "invoke": lambda agent, given, config: agent.invoke(given, config),
    "ainvoke": lambda agent, given, config: asyncio.run(agent.ainvoke(given, config)),
    "stream": _stream,
    "astream": _astream,
}


@pytest.fixture(params=list(RUNNERS))
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run an agent to its end and return its state: plain and streamed, sync and async."""
    return _running(request.param)


@pytest.fixture(params=["invoke", "astream"])
def run_two_ways(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """As `run`, for what is not about the ways."""
    return _running(request.param)


def _running(way: str) -> Callable[..., Any]:
    def run(agent: Any, text: str | None = "Hello there", thread: str | None = None) -> Any:
        config = {"recursion_limit": 200} | ({"configurable": {"thread_id": thread}} if thread else {})
        given = None if text is None else {"messages": [("user", text)]}
        return RUNNERS[way](agent, given, config)

    return run


def is_well_formed(messages: list[Any]) -> bool:
    """Whether each tool call has its one result right behind it, and each result its call."""
    open_calls: list[str] = []
    for message in messages:
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in open_calls:
                return False
            open_calls.remove(message.tool_call_id)
        elif open_calls:
            return False
        if isinstance(message, AIMessage):
            open_calls = [call["id"] for call in message.tool_calls]
    return not open_calls


@pytest.fixture
def well_formed() -> Callable[[list[Any]], bool]:
    return is_well_formed
