from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from lc_service import BudgetExceeded, RetryQuota, RetryWithExponentialBackoff
from lc_service.agents import BudgetMiddleware, RetryMiddleware
from lc_service.simulator import Fault

POLICY = RetryWithExponentialBackoff(initial_delay=1, max_retries=3, jitter="none")


@pytest.fixture
def fetch(port: int) -> Any:
    """A tool that asks the simulator for its models, over HTTP and without this package."""

    def body(page: str) -> dict[str, Any]:
        return {"model": "other", "messages": [{"role": "user", "content": "Hi"}], "user": page[:8]}

    headers = {"authorization": "Bearer sk-test"}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"

    def fetch_page(page: str) -> str:
        response = httpx2.post(url, json=body(page), headers=headers)
        response.raise_for_status()
        return "the page"

    async def afetch_page(page: str) -> str:
        async with httpx2.AsyncClient() as client:
            response = await client.post(url, json=body(page), headers=headers)
        response.raise_for_status()
        return "the page"

    return tool("fetch_page", description="Fetch a page.")(fetch_page).model_copy(
        update={"coroutine": afetch_page}
    )


def of_tool(server: Any) -> list[Any]:
    return [request for request in server.requests if request.model == "other"]


@pytest.fixture
def ask(make_model: Any) -> Callable[..., Any]:
    """Run an agent that calls its one tool, sync or async; return the tool's message."""

    def ask(tool: Any, *middleware: Any, is_async: bool = False) -> Any:
        agent = create_agent(make_model(), [tool], middleware=middleware)
        given: Any = {"messages": [("user", getattr(tool, "name", None) or tool.__name__)]}
        state = asyncio.run(agent.ainvoke(given)) if is_async else agent.invoke(given)
        return state["messages"][2]

    return ask


SYNC_AND_ASYNC = pytest.mark.parametrize("is_async", [False, True])


@SYNC_AND_ASYNC
def test_a_tool_waits_as_long_as_its_server_asks(
    *, is_async: bool, simulate: Any, ask: Any, fetch: Any, fake_clock: Any
) -> None:
    server = simulate(faults=[None, Fault("rate_limit_seconds", retry_after_seconds=7), "unavailable"])
    message = ask(fetch, RetryMiddleware(POLICY), is_async=is_async)
    assert message.text == "the page"
    assert fake_clock.waits == [7, 2]  # Retry-After, then the backoff of the second retry
    assert len(of_tool(server)) == 3


@SYNC_AND_ASYNC
def test_a_deadline_and_a_quota_end_it(
    *, is_async: bool, simulate: Any, ask: Any, fetch: Any, fake_clock: Any
) -> None:
    server = simulate(faults=[None, Fault("rate_limit_seconds", retry_after_seconds=7)])
    hurried = RetryWithExponentialBackoff(deadline_seconds=5)
    with pytest.raises(httpx2.HTTPStatusError, match="429"):
        ask(fetch, RetryMiddleware(hurried), is_async=is_async)
    assert (fake_clock.waits, len(of_tool(server))) == ([], 1)
    server = simulate(faults=[None, *["unavailable"] * 9])
    poor = RetryWithExponentialBackoff(quota=RetryQuota(capacity=20, retry_cost=10), max_retries=8)
    with pytest.raises(httpx2.HTTPStatusError, match="503"):
        ask(fetch, RetryMiddleware(poor), is_async=is_async)
    assert len(of_tool(server)) == 3


@SYNC_AND_ASYNC
@pytest.mark.parametrize("kind", ["bad_request", "unauthorized", "not_found"])
def test_what_cannot_succeed_is_not_repeated(
    *, kind: str, is_async: bool, simulate: Any, ask: Any, fetch: Any
) -> None:
    server = simulate(faults=[None, kind])
    with pytest.raises(httpx2.HTTPStatusError):
        ask(fetch, RetryMiddleware(POLICY), is_async=is_async)
    assert len(of_tool(server)) == 1


@SYNC_AND_ASYNC
def test_the_last_failure_is_told_without_its_text(
    *, is_async: bool, simulate: Any, ask: Any, fetch: Any, fake_clock: Any
) -> None:
    simulate(faults=[None, *["unavailable"] * 4])
    message = ask(fetch, RetryMiddleware(POLICY, on_failure="tell"), is_async=is_async)
    assert message.status == "error"
    assert message.text == "The tool fetch_page failed: HTTPStatusError (server_error, HTTP 503)."
    assert fake_clock.waits == [1, 2, 4]
    simulate(faults=[None, "bad_request"])
    retry = RetryMiddleware(POLICY, on_failure=lambda error: f"{type(error).__name__}!")
    assert ask(fetch, retry, is_async=is_async).text == "HTTPStatusError!"


@pytest.mark.parametrize("names", [["fetch_page"], "tool", ["other"]])
def test_only_the_tools_that_are_named_are_retried(
    *, names: Any, simulate: Any, ask: Any, fetch: Any, fake_clock: Any
) -> None:
    server = simulate(faults=[None, "unavailable"])
    tools = [fetch] if names == "tool" else names
    if names == ["other"]:
        for is_async in (False, True):
            server.reset()
            with pytest.raises(httpx2.HTTPStatusError):
                ask(fetch, RetryMiddleware(POLICY, tools=tools), is_async=is_async)
        assert fake_clock.waits == []
    else:
        assert ask(fetch, RetryMiddleware(POLICY, tools=tools)).text == "the page"


@SYNC_AND_ASYNC
def test_a_mistake_is_not_repeated_unless_it_is_named(
    *, is_async: bool, simulate: Any, ask: Any, fake_clock: Any
) -> None:
    simulate()
    calls: list[str] = []

    def look_up(word: str) -> str:
        """Look a word up."""
        calls.append(word)
        if len(calls) % 3:
            raise KeyError(word)
        return "found"

    with pytest.raises(KeyError):
        ask(look_up, RetryMiddleware(POLICY), is_async=is_async)
    assert len(calls) == 1
    named = RetryWithExponentialBackoff(retry_on=(KeyError,))
    assert ask(look_up, RetryMiddleware(named), is_async=is_async).text == "found"
    assert len(calls) == 3


@SYNC_AND_ASYNC
def test_a_models_failure_in_a_tool_was_retried_by_the_model(
    *, is_async: bool, simulate: Any, make_model: Any, ask: Any
) -> None:
    server = simulate(faults=[None, *["server_error"] * 50])
    inner = make_model(model="other")

    def ask_expert(question: str) -> str:
        """Ask an expert."""
        return inner.invoke("Hello").text

    with pytest.raises(openai.InternalServerError):
        ask(ask_expert, RetryMiddleware(POLICY), is_async=is_async)
    assert len(of_tool(server)) == 3


EVERYTHING = RetryWithExponentialBackoff(retry_on=(Exception,), initial_delay=0)


@SYNC_AND_ASYNC
@pytest.mark.parametrize("on_failure", ["raise", "tell"])
def test_budgets_and_interrupts_are_no_failures(
    *, on_failure: Any, is_async: bool, simulate: Any, make_model: Any, ask: Any
) -> None:
    server = simulate()
    retry = RetryMiddleware(EVERYTHING, on_failure=on_failure)
    inner = make_model(model="other")

    def ask_expert(question: str) -> str:
        """Ask an expert."""
        return inner.invoke("Hello").text

    with pytest.raises(BudgetExceeded):
        ask(ask_expert, retry, BudgetMiddleware(requests=1, on_exceeded="raise"), is_async=is_async)
    assert len(server.requests) == 1

    calls: list[str] = []

    def ask_boss(question: str) -> str:
        """Ask the boss."""
        calls.append(question)
        return interrupt("May I?")

    agent = create_agent(make_model(), [ask_boss], middleware=[retry], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    def go(given: Any) -> Any:
        return asyncio.run(agent.ainvoke(given, config)) if is_async else agent.invoke(given, config)

    assert "__interrupt__" in go({"messages": [("user", "ask_boss")]})
    assert len(calls) == 1
    assert go(Command(resume="You may."))["messages"][2].text == "You may."


async def test_a_cancelled_tool_is_not_repeated(simulate: Any, make_model: Any) -> None:
    simulate()
    begun = asyncio.Event()
    calls: list[str] = []

    @tool
    async def look_up(word: str) -> str:
        """Look a word up."""
        calls.append(word)
        begun.set()
        await asyncio.sleep(30)
        return word

    agent = create_agent(make_model(), [look_up], middleware=[RetryMiddleware(EVERYTHING)])
    task = asyncio.create_task(agent.ainvoke({"messages": [("user", "look_up it")]}))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(calls) == 1


def test_a_wrong_argument_is_named() -> None:
    wrong: Any = "continue"
    with pytest.raises(ValueError, match="on_failure must be"):
        RetryMiddleware(on_failure=wrong)
