from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware, SummarizationMiddleware, before_agent
from langchain.agents.structured_output import ToolStrategy
from langchain.tools import ToolRuntime
from langchain_core.messages import ToolMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from lc_service import ReliableOpenAIEmbeddings, track_usage
from lc_service.agents import BudgetMiddleware, UsageMiddleware
from lc_service.simulator import Fault, Simulator

ASK: Any = {"messages": [("user", "Hello there")]}


def look_up(word: str) -> str:
    """Look a word up."""
    return word


def billed(server: Simulator) -> tuple[int, int]:
    """What the server billed: input and output tokens."""
    assert server.wait_until_idle()
    return server.bill.total.input_tokens, server.bill.total.output_tokens


def counted(usage: Any) -> tuple[int, int]:
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["unknown"] == usage["estimated"] == 0
    return usage["input_tokens"], usage["output_tokens"]


@pytest.fixture
def nested(make_model: Any, port: int) -> Callable[..., Any]:
    """An agent whose tools ask another agent, plainly, streamed and asynchronously, and embeddings."""

    def make(*middleware: Any, **options: Any) -> Any:
        inner = create_agent(make_model(), [look_up], middleware=[UsageMiddleware()])
        given: Any = {"messages": [("user", "look_up it")]}

        def ask_tom(question: str) -> str:
            """Ask Tom."""
            return inner.invoke(given)["messages"][-1].text

        def ask_ann(question: str) -> str:
            """Ask Ann."""
            return [*inner.stream(given, stream_mode="values")][-1]["messages"][-1].text

        def ask_eve(question: str) -> str:
            """Ask Eve."""
            return asyncio.run(inner.ainvoke(given))["messages"][-1].text

        def embed_text(question: str) -> str:
            """Embed a text."""
            url = f"http://127.0.0.1:{port}/v1"
            model = ReliableOpenAIEmbeddings(
                model="text-embedding-3-small", api_key="sk-test", base_url=url, dimensions=4
            )
            return str(len(model.embed_query(question)))

        tools = [ask_tom, ask_ann, ask_eve, embed_text]
        model = make_model(max_tokens=300)
        return create_agent(model, tools, middleware=[UsageMiddleware(), *middleware], **options)

    return make


def test_the_usage_of_nested_agents_is_the_servers_bill(simulate: Any, nested: Any, run: Any) -> None:
    server = simulate(faults=[None, Fault("rate_limit", retry_after_seconds=0.001), None, "server_error"])
    with track_usage() as tracked:
        state = run(nested(), "ask_tom, ask_ann, ask_eve and embed_text")
    usage = state["usage"]
    assert counted(usage) == billed(server)
    assert (usage["calls"], usage["requests"]) == (9, 11)
    assert len(server.requests) == 11
    assert Decimal(usage["cost_usd"]) == tracked.cost_usd > 0
    assert (tracked.attempts, tracked.total.total_tokens) == (11, usage["total_tokens"])
    assert state["thread_usage"] == usage
    assert state["messages"][-1].response_metadata["run_usage"] == usage
    assert json.loads(json.dumps(usage)) == usage


def test_runs_of_a_thread_add_up(simulate: Any, nested: Any, run: Any) -> None:
    server = simulate()
    saver = InMemorySaver()
    first = run(nested(checkpointer=saver), "ask_tom", thread="1")
    assert counted(first["usage"]) == billed(server)
    second = run(nested(checkpointer=saver), "Hello there", thread="1")
    assert counted(second["thread_usage"]) == billed(server)
    assert second["thread_usage"]["requests"] == 5
    assert second["usage"]["requests"] == 1
    cost = Decimal(first["usage"]["cost_usd"]) + Decimal(second["usage"]["cost_usd"])
    assert Decimal(second["thread_usage"]["cost_usd"]) == cost
    assert second["messages"][-1].response_metadata["run_usage"]["requests"] == 1


def test_the_last_message_keeps_what_it_had(simulate: Any, make_model: Any, run_two_ways: Any) -> None:
    simulate()
    agent = create_agent(make_model(), [look_up], middleware=[UsageMiddleware()], name="helper")
    last = run_two_ways(agent, "look_up it")["messages"][-1]
    assert last.response_metadata["finish_reason"] == "stop"
    assert last.usage_metadata["total_tokens"] < last.response_metadata["run_usage"]["total_tokens"]
    assert last.name == "helper"


def test_a_run_that_ends_before_the_model_leaves_the_users_message_alone(
    simulate: Any, make_model: Any, run_two_ways: Any
) -> None:
    @before_agent(can_jump_to=["end"])
    def closed(state: Any, runtime: Any) -> dict[str, Any]:
        return {"jump_to": "end"}

    server = simulate()
    state = run_two_ways(create_agent(make_model(), [], middleware=[UsageMiddleware(), closed]))
    (question,) = state["messages"]
    assert question.response_metadata == {}
    assert state["usage"]["requests"] == len(server.requests) == 0


def test_messages_are_streamed_once(simulate: Any, make_model: Any) -> None:
    simulate()
    agent = create_agent(make_model(), [], middleware=[UsageMiddleware()])
    texts = [chunk.text for chunk, _ in agent.stream(ASK, stream_mode="messages")]
    assert "".join(texts) == agent.invoke(ASK)["messages"][-1].text


@pytest.mark.filterwarnings("ignore:The v3 streaming protocol")
def test_event_streams_are_counted(simulate: Any, nested: Any) -> None:
    server = simulate()
    agent = nested(BudgetMiddleware(requests=3))
    given: Any = {"messages": [("user", "ask_tom")]}
    state = agent.stream_events(given, version="v3").output
    assert counted(state["usage"]) == billed(server)
    assert state["messages"][-1].response_metadata["run_usage"]["requests"] == 3
    server.reset()

    async def read() -> Any:
        return [event async for event in agent.astream_events(given, version="v2")][-1]

    last = asyncio.run(read())
    state = last["data"]["output"]
    assert counted(state["usage"]) == billed(server)
    json.dumps(last, default=lambda message: message.model_dump())  # what is kept during a run shows as an id


def test_a_refused_run_says_what_it_used(simulate: Any, make_model: Any, runaway: Any, run: Any) -> None:
    server = simulate()
    middleware = [UsageMiddleware(), BudgetMiddleware(requests=3), runaway]
    state = run(create_agent(make_model(), [look_up], middleware=middleware))
    assert counted(state["usage"]) == billed(server)
    metadata = state["messages"][-1].response_metadata
    assert metadata["finish_reason"] == "budget_exceeded"
    assert metadata["run_usage"]["requests"] == 3


@pytest.mark.parametrize("outer_first", [True, False])
def test_failures_that_langchain_hides_are_counted(
    outer_first: bool, simulate: Any, make_model: Any, run_two_ways: Any
) -> None:
    server = simulate(faults=["server_error"] * 100)
    middleware = [ModelRetryMiddleware(max_retries=2, initial_delay=0), UsageMiddleware()]
    agent = create_agent(make_model(), [], middleware=middleware if outer_first else middleware[::-1])
    assert run_two_ways(agent)["usage"]["requests"] == len(server.requests) == 9


def test_what_a_failed_run_used_is_remembered_for_the_thread(simulate: Any, make_model: Any) -> None:
    server = simulate(faults=[None, None, *["no_finish"] * 3])
    agent = create_agent(
        make_model(), [look_up], middleware=[UsageMiddleware()], checkpointer=InMemorySaver()
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": [("user", "look_up it")]}, config)
    with pytest.raises(Exception, match="finish_reason"):
        agent.invoke(ASK, config)
    state = agent.invoke(None, config)
    assert state["usage"]["requests"] == 1
    assert state["thread_usage"]["requests"] == len(server.requests) == 6
    assert state["thread_usage"]["total_tokens"] == sum(billed(server))


def test_a_resumed_run_counts_a_step_that_is_repeated(
    simulate: Any, make_model: Any, run_two_ways: Any
) -> None:
    server = simulate(faults=["server_error"] * 6)
    middleware = [ModelRetryMiddleware(max_retries=5, initial_delay=0), UsageMiddleware()]
    agent = create_agent(
        make_model(), [], middleware=middleware, checkpointer=InMemorySaver(), interrupt_before=["model"]
    )
    run_two_ways(agent, thread="1")
    assert run_two_ways(agent, None, thread="1")["usage"]["requests"] == len(server.requests) == 7


def test_an_interrupted_run_and_its_resumption_are_counted(
    simulate: Any, make_model: Any, run_two_ways: Any
) -> None:
    server = simulate()
    inner = create_agent(make_model(), [look_up])

    def ask_boss(question: str) -> str:
        """Ask the boss."""
        answer = inner.invoke({"messages": [("user", "look_up it")]})["messages"][-1].text
        return answer if interrupt("May I?") is None else "yes"

    agent = create_agent(
        make_model(), [ask_boss], middleware=[UsageMiddleware()], checkpointer=InMemorySaver()
    )
    state = run_two_ways(agent, "ask_boss", thread="1")
    assert state["usage"]["requests"] == 1  # as of the model's answer; the tool is not at its end
    assert len(server.requests) == 3
    config: Any = {"configurable": {"thread_id": "1"}}
    state = agent.invoke(Command(resume="yes"), config)
    assert state["usage"]["requests"] == 1  # the inner agent was at its end, which its checkpoint knows
    assert counted(state["thread_usage"]) == billed(server)
    assert state["thread_usage"]["requests"] == len(server.requests) == 4


class Answer(BaseModel):
    """An answer."""

    text: str


def test_a_response_format_is_left_alone(simulate: Any, make_model: Any, run_two_ways: Any) -> None:
    server = simulate()
    middleware = [UsageMiddleware(), BudgetMiddleware(requests=9), BudgetMiddleware(usd=1, per="thread")]
    for tools in ([], [look_up]):
        server.reset()
        agent = create_agent(make_model(), tools, response_format=ToolStrategy(Answer), middleware=middleware)
        state = run_two_ways(agent)
        assert isinstance(state["structured_response"], Answer)
        assert counted(state["usage"]) == billed(server)
        assert state["messages"][-1].response_metadata["run_usage"] == state["usage"]


@pytest.mark.parametrize("mode", ["values", "messages"])
def test_a_stock_model_is_counted_by_calls(mode: Any, simulate: Any, port: int) -> None:
    server = simulate()
    url = f"http://127.0.0.1:{port}/v1"
    with openai.DefaultHttpxClient() as client:
        model = ChatOpenAI(
            model="gpt-4.1-mini", api_key="sk-test", base_url=url, stream_usage=True, http_client=client
        )
        agent = create_agent(model, [look_up], middleware=[UsageMiddleware()])
        given: Any = {"messages": [("user", "look_up it")]}
        *_, (_, state) = (
            each for each in agent.stream(given, stream_mode=["values", mode]) if "values" in each
        )
    assert state["usage"]["calls"] == 2
    assert counted(state["usage"]) == billed(server)


def test_an_unknown_price_is_no_price(simulate: Any, make_model: Any, run_two_ways: Any) -> None:
    simulate()
    saver = InMemorySaver()
    agent = create_agent(
        make_model(model="nobodys-model"), [], middleware=[UsageMiddleware()], checkpointer=saver
    )
    for _ in range(2):
        state = run_two_ways(agent, thread="1")
    assert state["usage"]["cost_usd"] is None
    assert state["thread_usage"]["cost_usd"] is None
    assert state["thread_usage"]["requests"] == 2


def test_runs_at_once_are_counted_apart(simulate: Any, nested: Any) -> None:
    simulate()
    agent = nested()
    given: Any = {"messages": [("user", "ask_tom")]}

    async def some() -> list[Any]:
        return await asyncio.gather(*(agent.ainvoke(each) for each in (ASK, given, ASK)))

    with ThreadPoolExecutor(3) as pool:
        states = [*pool.map(agent.invoke, [given, ASK, given]), *asyncio.run(some())]
    assert [state["usage"]["requests"] for state in states] == [4, 1, 4, 1, 4, 1]


def test_a_failed_call_is_raised_as_it_came(simulate: Any, make_model: Any, run_two_ways: Any) -> None:
    simulate(faults=["unauthorized"])
    with pytest.raises(openai.AuthenticationError):
        run_two_ways(create_agent(make_model(), [], middleware=[UsageMiddleware()]))


LONG = {"messages": [("user", "One."), ("ai", "Two."), ("user", "Three.")]}


WAYS: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda agent: agent.invoke(LONG),
    "ainvoke": lambda agent: asyncio.run(agent.ainvoke(LONG)),
    "stream": lambda agent: [*agent.stream(LONG, stream_mode="values")][-1],
}


@pytest.mark.parametrize("comes_first", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_what_another_middleware_asks_in_its_hooks_is_counted(
    simulate: Any, make_model: Any, way: str, *, comes_first: bool
) -> None:
    server = simulate()
    summary = SummarizationMiddleware(make_model(), trigger=("messages", 2), keep=("messages", 1))
    both = [summary, UsageMiddleware()] if comes_first else [UsageMiddleware(), summary]
    agent = create_agent(make_model(), [], middleware=both)
    with track_usage() as usage:
        state = WAYS[way](agent)
    assert (usage.total.input_tokens, usage.total.output_tokens) == billed(server) == counted(state["usage"])
    assert (usage.attempts, state["usage"]["requests"]) == (2, 2)


def test_hooks_of_runs_at_once_and_of_agents_in_tools_are_counted_each_to_its_own(
    simulate: Any, make_model: Any
) -> None:
    server = simulate()
    summary = SummarizationMiddleware(make_model(), trigger=("messages", 2), keep=("messages", 1))
    inner = create_agent(make_model(), [], middleware=[UsageMiddleware(), summary])
    seen: list[int] = []

    def ask_inner(question: str) -> str:
        """Ask the other agent."""
        state = inner.invoke(LONG)
        seen.append(state["usage"]["requests"])
        return state["messages"][-1].text

    outer = create_agent(make_model(), [ask_inner], middleware=[UsageMiddleware()])
    question = {"messages": [("user", "Use ask_inner: what is the tide?")]}
    with ThreadPoolExecutor(4) as pool:
        states = [*pool.map(outer.invoke, [question] * 4)]
    assert seen == [2] * 4
    assert [state["usage"]["requests"] for state in states] == [4] * 4
    tokens = sum(state["usage"]["total_tokens"] for state in states)
    assert tokens == server.bill.total.total_tokens


def test_a_graph_without_the_middleware_counts_nothing_by_its_hooks(simulate: Any, make_model: Any) -> None:
    server = simulate()
    summary = SummarizationMiddleware(make_model(), trigger=("messages", 2), keep=("messages", 1))
    with track_usage() as usage:
        create_agent(make_model(), [], middleware=[summary]).invoke(LONG)
    assert usage.attempts == 2 == len(server.requests)


def test_agents_in_parallel_tools_may_hand_their_whole_state_on(
    simulate: Any, make_model: Any, run_two_ways: Any
) -> None:
    server = simulate()
    inner = create_agent(make_model(), [look_up], middleware=[UsageMiddleware()])
    used: list[int] = []

    def hand_on(runtime: ToolRuntime[Any, Any]) -> Command[Any]:
        state = inner.invoke({**runtime.state, "messages": [("user", "look_up it")]})
        used.append(state["usage"]["requests"])
        answer = ToolMessage(state["messages"][-1].text, tool_call_id=runtime.tool_call_id)
        return Command(update={**state, "messages": [answer]})

    def ask_tom(question: str, runtime: ToolRuntime[Any, Any]) -> Command[Any]:
        """Ask Tom."""
        return hand_on(runtime)

    def ask_ann(question: str, runtime: ToolRuntime[Any, Any]) -> Command[Any]:
        """Ask Ann."""
        return hand_on(runtime)

    agent = create_agent(
        make_model(), [ask_tom, ask_ann], middleware=[UsageMiddleware()], checkpointer=InMemorySaver()
    )
    for runs in (1, 2):
        state = run_two_ways(agent, "ask_tom and ask_ann", thread="1")
        assert state["usage"]["requests"] == 6
        assert state["thread_usage"]["requests"] == len(server.requests) == 6 * runs
    assert used == [2] * 4
