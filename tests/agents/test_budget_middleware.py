from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
    before_model,
    hook_config,
)
from langchain.agents.structured_output import ToolStrategy
from langchain.chat_models import init_chat_model
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

from lc_service import Budget, BudgetExceeded
from lc_service.agents import BudgetMiddleware, RetryMiddleware, UsageMiddleware
from lc_service.simulator import Fault

ASK: Any = {"messages": [("user", "Hello there")]}


def look_up(word: str) -> str:
    """Look a word up."""
    return word


def cost_of(usage: Any) -> Decimal:
    """USD at the list price of gpt-4.1-mini: 0.40 and 1.60 for a million."""
    return (usage.input_tokens * Decimal("0.4") + usage.output_tokens * Decimal("1.6")) / 1_000_000


LIMITS: dict[str, tuple[dict[str, Any], Any]] = {
    "requests": ({"requests": 5}, lambda usage: 1),
    "requests of a thread": ({"requests": 5, "per": "thread"}, lambda usage: 1),
    "tokens": ({"tokens": 700}, lambda usage: usage.total_tokens),
    "strict tokens of a thread": (
        {"tokens": 1_500, "strict": True, "per": "thread"},
        lambda usage: usage.total_tokens,
    ),
    "usd": ({"usd": "0.0004"}, cost_of),
    "usd of a thread": ({"usd": "0.0004", "per": "thread"}, cost_of),
}


@pytest.mark.parametrize(("limit", "amount"), LIMITS.values(), ids=LIMITS)
def test_a_runaway_agent_stops_within_one_request_of_its_budget(
    *,
    limit: Any,
    amount: Any,
    simulate: Any,
    make_model: Any,
    runaway: Any,
    run: Any,
    well_formed: Any,
) -> None:
    server = simulate()
    middleware = BudgetMiddleware(**limit)
    agent = create_agent(
        make_model(), [look_up], middleware=[middleware, runaway], checkpointer=InMemorySaver()
    )
    state = run(agent, thread="1")
    most = Decimal(next(iter(limit.values())))
    amounts = [amount(request.usage) for request in server.requests]
    assert sum(amounts[:-1]) <= most  # a budget that guesses may be passed by its last request
    if "requests" in limit or "strict" in limit:
        assert sum(amounts) <= most
    last = state["messages"][-1]
    assert last.response_metadata["finish_reason"] == "budget_exceeded"
    facts = last.response_metadata["budget"]
    kind = next(iter(limit))
    assert facts["per"] == limit.get("per", "run")
    assert Decimal(facts["spent"][kind]) == sum(amounts)
    assert sum(amounts) + Decimal(facts["requested"][kind]) > most  # it was not stopped early
    assert well_formed(state["messages"])
    assert len(server.requests) > 2


def test_an_agent_below_its_budget_is_not_disturbed(
    simulate: Any, make_model: Any, run_two_ways: Any
) -> None:
    server = simulate()
    plain = run_two_ways(create_agent(make_model(), [look_up]), "look_up it")
    held = run_two_ways(
        create_agent(make_model(), [look_up], middleware=[BudgetMiddleware(requests=2)]), "look_up it"
    )
    assert [message.text for message in held["messages"]] == [message.text for message in plain["messages"]]
    assert held.keys() - {"live_run_budget"} == plain.keys()
    assert len(server.requests) == 4


def test_retries_are_requests(simulate: Any, make_model: Any, runaway: Any, run: Any) -> None:
    busy = Fault("rate_limit", retry_after_seconds=0.001)
    server = simulate(faults=[busy, busy, None, busy, None, None, None])
    agent = create_agent(make_model(), [look_up], middleware=[BudgetMiddleware(requests=4), runaway])
    state = run(agent)
    assert [request.status for request in server.requests] == [429, 429, 200, 429]
    assert state["messages"][-1].response_metadata["budget"]["spent"]["requests"] == 4


def test_a_budget_of_a_thread_adds_its_runs_up(simulate: Any, make_model: Any, run_two_ways: Any) -> None:
    server = simulate()
    saver = InMemorySaver()

    def agent() -> Any:  # each time as in a new process: only the checkpointer knows what was spent
        middleware = [BudgetMiddleware(requests=3, per="thread"), BudgetMiddleware(requests=2)]
        return create_agent(make_model(), [look_up], middleware=middleware, checkpointer=saver)

    assert "look_up" not in run_two_ways(agent(), "look_up it", thread="1")["messages"][-1].text
    assert len(server.requests) == 2
    state = run_two_ways(agent(), "look_up it", thread="1")
    assert len(server.requests) == 3
    assert state["messages"][-1].response_metadata["budget"]["per"] == "thread"
    run_two_ways(agent(), "Hello", thread="1")
    assert len(server.requests) == 3
    run_two_ways(agent(), "Hello", thread="2")
    assert len(server.requests) == 4


@pytest.mark.parametrize("per", ["run", "thread"])
def test_a_refused_run_is_resumed_with_a_larger_budget(
    *, per: Any, simulate: Any, make_model: Any, runaway: Any, run: Any, well_formed: Any
) -> None:
    server = simulate()
    saver = InMemorySaver()

    def agent(requests: int) -> Any:
        middleware = [BudgetMiddleware(requests=requests, per=per, on_exceeded="raise"), runaway]
        return create_agent(make_model(), [look_up], middleware=middleware, checkpointer=saver)

    first = agent(3)
    with pytest.raises(BudgetExceeded) as caught:
        run(first, thread="1")
    assert (caught.value.limit.requests, caught.value.spent.requests) == (3, 3)
    assert len(server.requests) == 3
    snapshot = first.get_state({"configurable": {"thread_id": "1"}})
    assert snapshot.next == ("model",)
    assert not any(name.startswith("live") for name in snapshot.values)
    assert well_formed(snapshot.values["messages"])
    with pytest.raises(BudgetExceeded) as caught:
        run(agent(5), None, thread="1")
    # a thread goes on where it was, a run that is resumed is another run
    assert len(server.requests) == (5 if per == "thread" else 8)
    assert caught.value.spent.requests == 5
    last = create_agent(make_model(), [look_up], checkpointer=saver)
    assert run(last, None, thread="1")["messages"][-1].text.startswith("According to the tool")


def test_what_a_failed_step_spent_is_remembered_for_the_thread(simulate: Any, make_model: Any) -> None:
    server = simulate(faults=["server_error"] * 3)
    agent = create_agent(
        make_model(),
        [],
        middleware=[BudgetMiddleware(requests=4, per="thread")],
        checkpointer=InMemorySaver(),
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(openai.InternalServerError):
        agent.invoke(ASK, config)
    assert agent.invoke(None, config)["messages"][-1].text.startswith("You said")
    state = agent.invoke(ASK, config)
    assert state["messages"][-1].response_metadata["budget"]["spent"]["requests"] == 4
    assert len(server.requests) == 4


def test_a_request_that_nobody_waits_for_is_not_forgotten(simulate: Any, make_model: Any) -> None:
    simulate(chunk_delay_seconds=0.001)
    model = make_model()
    left_open: list[Any] = []

    def look_around(place: str) -> str:
        """Look around."""
        left_open.append(model.stream("Hello"))
        return str(next(left_open[0]).text)

    middleware = BudgetMiddleware(requests=9, tokens=9_000, per="thread")
    agent = create_agent(make_model(), [look_around], middleware=[middleware], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": [("user", "look_around")]}, config)
    spent = agent.get_state(config).values["thread_spent"]
    left_open[0].close()
    assert spent["requests"] == 3
    assert spent["tokens"] > 40


def test_a_stream_that_is_left_is_not_forgotten(simulate: Any, make_model: Any) -> None:
    server = simulate(chunk_delay_seconds=0.001)
    middleware = [UsageMiddleware(), BudgetMiddleware(requests=3, per="thread")]
    agent = create_agent(make_model(), [], middleware=middleware, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    for _ in range(5):
        stream: Any = agent.stream(ASK, config, stream_mode="messages")
        next(stream)
        stream.close()
    assert server.wait_until_idle()
    assert len(server.requests) == 3
    state = agent.invoke(ASK, config)
    assert state["messages"][-1].response_metadata["finish_reason"] == "budget_exceeded"
    assert state["thread_usage"]["requests"] == 3


def test_runs_of_one_thread_at_once_share_its_budget(simulate: Any, make_model: Any, runaway: Any) -> None:
    server = simulate(latency_seconds=0.01)
    middleware = [UsageMiddleware(), BudgetMiddleware(requests=4, per="thread"), runaway]
    agent = create_agent(make_model(), [look_up], middleware=middleware, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    begin = threading.Barrier(3)

    def run(_: int) -> Any:
        begin.wait()
        return agent.invoke(ASK, config)

    with ThreadPoolExecutor(3) as pool:
        states = [*pool.map(run, range(3))]
    assert len(server.requests) == 4
    assert sum(state["usage"]["requests"] for state in states) == 4
    assert agent.get_state(config).values["thread_spent"]["requests"] == 4
    assert {state["messages"][-1].response_metadata["finish_reason"] for state in states} == {
        "budget_exceeded"
    }


def experts(make_model: Any, *middleware: Any) -> list[Any]:
    """Two tools with an agent in each, which calls a tool once and then answers: two requests."""
    agent = create_agent(make_model(), [look_up], middleware=middleware)

    def ask_tom(question: str) -> str:
        """Ask Tom."""
        return agent.invoke({"messages": [("user", "look_up it")]})["messages"][-1].text

    def ask_ann(question: str) -> str:
        """Ask Ann."""
        return asyncio.run(agent.ainvoke({"messages": [("user", "look_up it")]}))["messages"][-1].text

    return [ask_tom, ask_ann]


def test_agents_in_tools_spend_from_the_same_budget(
    simulate: Any, make_model: Any, run: Any, well_formed: Any
) -> None:
    server = simulate()
    for requests in range(1, 7):
        server.reset()
        agent = create_agent(
            make_model(), experts(make_model), middleware=[BudgetMiddleware(requests=requests)]
        )
        state = run(agent, "ask_tom and ask_ann")
        assert len(server.requests) == requests
        assert well_formed(state["messages"])
        told = [m for m in state["messages"] if m.type == "tool"]
        assert len(told) == (2 if requests > 0 else 0)
        is_ended = state["messages"][-1].response_metadata["finish_reason"] == "budget_exceeded"
        assert is_ended == (requests < 6)
        assert any(message.status == "error" for message in told) == (requests < 5)


def test_the_outer_budgets_refusal_passes_the_inner_agents_middleware(
    simulate: Any, make_model: Any, run: Any
) -> None:
    server = simulate()
    inner = [BudgetMiddleware(requests=1), RetryMiddleware()]
    agent = create_agent(
        make_model(),
        experts(make_model, *inner),
        middleware=[BudgetMiddleware(requests=9, on_exceeded="raise"), RetryMiddleware()],
    )
    state = run(agent, "ask_tom")
    assert len(server.requests) == 3  # the inner one ended its own agent, and the outer agent went on
    assert "It ends here" in state["messages"][2].text
    agent = create_agent(
        make_model(),
        experts(make_model, BudgetMiddleware(requests=9)),
        middleware=[BudgetMiddleware(requests=2, on_exceeded="raise")],
    )
    with pytest.raises(BudgetExceeded) as caught:
        run(agent, "ask_tom")
    assert caught.value.limit.requests == 2
    assert len(server.requests) == 5


def test_a_refusal_passes_a_subgraph_and_its_checkpointer(
    simulate: Any, make_model: Any, runaway: Any, run: Any
) -> None:
    server = simulate()
    saver = InMemorySaver()

    def graph(requests: int) -> Any:
        middleware = [BudgetMiddleware(requests=requests, per="thread", on_exceeded="raise"), runaway]
        builder = StateGraph(MessagesState)
        builder.add_node("agent", create_agent(make_model(), [look_up], middleware=middleware))
        builder.add_edge(START, "agent")
        builder.add_edge("agent", END)
        return builder.compile(checkpointer=saver)

    for requests in (3, 5):
        with pytest.raises(BudgetExceeded):
            run(graph(requests), "Hello" if requests == 3 else None, thread="1")
        assert len(server.requests) == requests


def test_parallel_tools_of_a_resumed_run_share_its_budget(
    simulate: Any, make_model: Any, run_two_ways: Any, well_formed: Any
) -> None:
    server = simulate()
    saver = InMemorySaver()

    def agent(**options: Any) -> Any:
        middleware = [BudgetMiddleware(requests=3)]
        return create_agent(
            make_model(), experts(make_model), middleware=middleware, checkpointer=saver, **options
        )

    run_two_ways(agent(interrupt_before=["tools"]), "ask_tom and ask_ann", thread="1")
    assert len(server.requests) == 1
    state = run_two_ways(agent(), None, thread="1")
    assert len(server.requests) == 1 + 3
    assert well_formed(state["messages"])
    assert state["messages"][-1].response_metadata["finish_reason"] == "budget_exceeded"


def test_runs_at_once_have_each_their_own_budget(simulate: Any, make_model: Any, runaway: Any) -> None:
    server = simulate()
    agent = create_agent(make_model(), [look_up], middleware=[BudgetMiddleware(requests=4), runaway])

    async def both() -> list[Any]:
        return await asyncio.gather(*(agent.ainvoke(ASK) for _ in range(3)))

    with ThreadPoolExecutor(2) as pool:
        states = [*pool.map(lambda _: agent.invoke(ASK), range(2)), *asyncio.run(both())]
    assert len(server.requests) == 5 * 4
    assert {state["messages"][-1].response_metadata["budget"]["spent"]["requests"] for state in states} == {4}


class Answer(BaseModel):
    """An answer."""

    text: str


@pytest.mark.parametrize("tools", [[], [look_up]])
def test_a_dead_provider_with_a_response_format_ends_after_one_calls_retries(
    tools: Any, simulate: Any, make_model: Any, run: Any
) -> None:
    server = simulate(faults=["server_error"] * 100)
    agent = create_agent(
        make_model(),
        tools,
        response_format=ToolStrategy(Answer),
        middleware=[BudgetMiddleware(requests=60), RetryMiddleware()],
    )
    with pytest.raises(openai.InternalServerError):
        run(agent)
    assert len(server.requests) == 3


def test_a_dead_provider_behind_langchains_retries_costs_no_more_than_the_budget(
    simulate: Any, make_model: Any, run_two_ways: Any
) -> None:
    server = simulate(faults=["server_error"] * 100)
    agent = create_agent(
        make_model(),
        [],
        response_format=ToolStrategy(Answer),
        middleware=[ModelRetryMiddleware(max_retries=20, initial_delay=0), BudgetMiddleware(requests=10)],
    )
    state = run_two_ways(agent)
    assert state["messages"][-1].response_metadata["finish_reason"] == "budget_exceeded"
    assert len(server.requests) == 10


@pytest.mark.parametrize("tools", [[], [look_up]])
def test_a_run_with_a_response_format_ends_with_what_it_has(
    tools: Any, simulate: Any, make_model: Any, run_two_ways: Any, well_formed: Any
) -> None:
    server = simulate()
    agent = create_agent(
        make_model(), tools, response_format=ToolStrategy(Answer), middleware=[BudgetMiddleware(requests=0)]
    )
    state = run_two_ways(agent)
    assert server.requests == []
    assert state.get("structured_response") is None
    assert [message.type for message in state["messages"]] == ["human", "ai"]
    agent = create_agent(
        make_model(), [], response_format=ToolStrategy(Answer), middleware=[BudgetMiddleware(requests=1)]
    )
    state = run_two_ways(agent)
    assert isinstance(state["structured_response"], Answer)
    assert well_formed(state["messages"])


class Insisting(AgentMiddleware):
    """Asks the model again, whatever it answers."""

    @hook_config(can_jump_to=["model"])
    def after_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        return {"jump_to": "model"}


def test_a_middleware_that_insists_gets_no_more(simulate: Any, make_model: Any, run_two_ways: Any) -> None:
    server = simulate()
    middleware = [BudgetMiddleware(requests=2), Insisting()]
    state = run_two_ways(create_agent(make_model(), [], middleware=middleware))
    assert len(server.requests) == 2
    reasons = [message.response_metadata.get("finish_reason") for message in state["messages"]]
    assert reasons == [None, "stop", "stop", "budget_exceeded"]


def test_a_models_own_budget_raises_whatever_the_middleware_does(
    simulate: Any, make_model: Any, run_two_ways: Any
) -> None:
    simulate()
    agent = create_agent(
        make_model(budget=Budget(tokens=1, name="mine")), [], middleware=[BudgetMiddleware(requests=5)]
    )
    with pytest.raises(BudgetExceeded) as caught:
        run_two_ways(agent)
    assert caught.value.budget == "mine"


def test_a_model_that_would_not_ask_is_refused(simulate: Any, port: int, run_two_ways: Any) -> None:
    server = simulate()
    model = ChatOpenAI(model="gpt-4.1-mini", api_key="sk-test", base_url=f"http://127.0.0.1:{port}/v1")
    with pytest.raises(TypeError, match="BudgetMiddleware cannot hold ChatOpenAI"):
        run_two_ways(create_agent(model, [], middleware=[BudgetMiddleware(requests=5)]))
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs a limit"),
        ({"requests": -1}, "requests must be a whole number"),
        ({"requests": 1.5}, "requests must be a whole number"),
        ({"usd": "many"}, "usd must be an amount"),
        ({"tokens": 5, "per": "day"}, "per must be"),
        ({"tokens": 5, "on_exceeded": "stop"}, "on_exceeded must be"),
    ],
)
def test_wrong_arguments_are_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BudgetMiddleware(**arguments)


@pytest.mark.parametrize("per", ["run", "thread"])
@pytest.mark.parametrize("limit", [{"requests": 6}, {"tokens": 2_000}, {"usd": "0.002"}], ids=str)
def test_what_another_middleware_asks_in_its_hooks_is_charged(
    *, limit: Any, per: Any, simulate: Any, make_model: Any, runaway: Any, run: Any
) -> None:
    server = simulate()
    summary = SummarizationMiddleware(make_model(), trigger=("messages", 4), keep=("messages", 2))
    middleware = [summary, BudgetMiddleware(**limit, per=per), runaway]
    agent = create_agent(make_model(), [look_up], middleware=middleware, checkpointer=InMemorySaver())
    state = run(agent, thread="1")
    (kind,) = limit
    amounts = {
        "requests": lambda usage: 1, "tokens": lambda usage: usage.total_tokens, "usd": cost_of
    }  # fmt: skip
    spent = sum(amounts[kind](request.usage) for request in server.requests)
    said = state["messages"][-1].response_metadata["budget"]
    assert Decimal(said["spent"][kind]) == spent
    summaries = sum(b"summar" in request.body.lower() for request in server.requests)
    assert 0 < summaries < len(server.requests)
    last_two = sum(amounts[kind](request.usage) for request in server.requests[-2:])
    assert spent - last_two < Decimal(limit[kind])


def test_a_refused_tool_that_returns_directly_ends_the_run_with_the_last_word(
    simulate: Any, make_model: Any, runaway: Any, run: Any, well_formed: Any
) -> None:
    server = simulate()
    model = make_model()

    @tool(return_direct=True)
    def ask_model(question: str) -> str:
        """Ask a model."""
        return str(model.invoke(question).text)

    agent = create_agent(
        make_model(), [ask_model], middleware=[UsageMiddleware(), BudgetMiddleware(requests=1), runaway]
    )
    state = run(agent)
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert well_formed(state["messages"])
    metadata = state["messages"][-1].response_metadata
    assert metadata["finish_reason"] == "budget_exceeded"
    assert metadata["run_usage"]["requests"] == len(server.requests) == 1


def test_what_is_kept_during_a_run_can_be_copied_and_is_an_id_to_others(
    simulate: Any, make_model: Any
) -> None:
    simulate()
    seen: list[Any] = []

    @before_model
    def look(state: Any, runtime: Any) -> None:
        seen.append(copy.deepcopy(state))

    middleware = [UsageMiddleware(), BudgetMiddleware(requests=1), look]
    create_agent(make_model(), [], middleware=middleware).invoke(ASK)
    (state,) = seen
    kept = {name: value for name, value in state.items() if name.startswith("live")}
    assert kept.keys() == {"live_usage", "live_run_budget"}
    assert kept["live_run_budget"].budget.limit.requests == 1
    assert {type(value) for value in pickle.loads(pickle.dumps(kept)).values()} == {str}


@pytest.fixture
def stock_model(port: int) -> Any:
    url = f"http://127.0.0.1:{port}/v1"
    with openai.DefaultHttpxClient() as client:
        yield ChatOpenAI(
            model="gpt-4.1-mini",
            api_key="sk-test",  # type: ignore[arg-type]
            base_url=url,
            max_tokens=40,  # type: ignore[call-arg]
            stream_usage=True,
            http_client=client,
        )


@pytest.mark.parametrize("limit", [{"usd": "0.0004"}, {"tokens": 500}, {"requests": 4}], ids=str)
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_a_fallback_that_would_not_ask_is_charged(
    *, limit: Any, way: Any, simulate: Any, make_model: Any, runaway: Any, stock_model: Any
) -> None:
    server = simulate()
    dead = make_model(base_url="http://127.0.0.1:9/v1", max_retries=0)
    middleware = [BudgetMiddleware(**limit), ModelFallbackMiddleware(stock_model), runaway]
    agent = create_agent(dead, [look_up], middleware=middleware)
    state = agent.invoke(ASK) if way == "invoke" else [*agent.stream(ASK, stream_mode="values")][-1]
    (kind, most) = next(iter(limit.items()))
    metadata = state["messages"][-1].response_metadata
    assert metadata["finish_reason"] == "budget_exceeded"
    tried = metadata["budget"]["spent"]["requests"] - len(server.requests) if kind == "requests" else 0
    of = {"requests": lambda usage: 1, "tokens": lambda usage: usage.total_tokens, "usd": cost_of}[kind]
    amounts = [of(request.usage) for request in server.requests]
    assert Decimal(metadata["budget"]["spent"][kind]) == sum(amounts) + tried
    assert sum(amounts[:-1]) <= Decimal(most)
    assert len(server.requests) >= 2


def test_what_tools_ask_of_models_that_would_not_ask_is_charged_once_to_each_run(
    simulate: Any, make_model: Any, stock_model: Any, run_two_ways: Any
) -> None:
    server = simulate()

    def ask_stock(question: str) -> str:
        """Ask a stock model, plainly and streamed."""
        stock_model.invoke("Hello")
        return "".join(chunk.text for chunk in stock_model.stream("Hello"))

    inner = create_agent(make_model(), [ask_stock], middleware=[BudgetMiddleware(requests=50)])

    def ask_tom(question: str) -> str:
        """Ask Tom."""
        return str(inner.invoke({"messages": [("user", "ask_stock it")]})["messages"][-1].text)

    middleware = [
        UsageMiddleware(),
        BudgetMiddleware(requests=6),
        BudgetMiddleware(requests=9, tokens=9_000, per="thread"),
    ]
    agent = create_agent(
        make_model(), [ask_tom, ask_stock], middleware=middleware, checkpointer=InMemorySaver()
    )
    state = run_two_ways(agent, "ask_tom", thread="1")
    assert len(server.requests) == state["usage"]["requests"] == 6
    spent = agent.get_state({"configurable": {"thread_id": "1"}}).values["thread_spent"]
    assert server.wait_until_idle()
    assert (spent["requests"], spent["tokens"]) == (6, server.bill.total.total_tokens)
    assert state["messages"][-1].response_metadata["finish_reason"] == "stop"
    state = run_two_ways(agent, "ask_stock", thread="1")  # the tool is not refused: what follows it is
    assert len(server.requests) == 9
    assert state["messages"][-1].response_metadata["finish_reason"] == "budget_exceeded"


def test_a_configurable_model_is_held_and_a_foreign_one_refused(
    simulate: Any, make_model: Any, runaway: Any, run_two_ways: Any
) -> None:
    server = simulate()
    model: Any = make_model().configurable_fields(temperature=ConfigurableField(id="temperature"))
    run_two_ways(create_agent(model, [look_up], middleware=[BudgetMiddleware(requests=2), runaway]))
    assert len(server.requests) == 2
    foreign: Any = init_chat_model()
    with pytest.raises(TypeError, match="BudgetMiddleware cannot hold _ConfigurableModel"):
        run_two_ways(create_agent(foreign, [], middleware=[BudgetMiddleware(requests=2)]))


def test_a_threads_budget_without_a_thread_is_warned_of_once(
    simulate: Any, make_model: Any, run_two_ways: Any, caplog: Any
) -> None:
    simulate()
    middleware = [BudgetMiddleware(requests=2, per="thread"), BudgetMiddleware(requests=2)]
    kept = create_agent(make_model(), [], middleware=middleware, checkpointer=InMemorySaver())
    run_two_ways(kept, thread="1")
    assert caplog.records == []
    agent = create_agent(make_model(), [], middleware=middleware)
    for _ in range(2):
        run_two_ways(agent)
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "lc_service.agents.budget")
    assert "checkpointer" in record.getMessage()


def test_an_agent_in_a_node_has_a_thread_where_it_has_a_checkpointer_of_its_own(
    simulate: Any, make_model: Any, runaway: Any
) -> None:
    server = simulate()
    middleware = [BudgetMiddleware(requests=3, per="thread"), runaway]
    builder = StateGraph(MessagesState)
    builder.add_node("agent", create_agent(make_model(), [look_up], middleware=middleware, checkpointer=True))
    builder.add_edge(START, "agent")
    graph: Any = builder.compile(checkpointer=InMemorySaver())
    for _ in range(2):
        graph.invoke(ASK, {"configurable": {"thread_id": "1"}})
    assert len(server.requests) == 3


def test_runs_that_are_resumed_one_after_another_are_each_another_run(
    simulate: Any, make_model: Any, runaway: Any, run_two_ways: Any
) -> None:
    server = simulate()
    model = make_model()

    def ask_model(question: str) -> str:
        """Ask a model."""
        return str(model.invoke("Hello").text)

    middleware = [UsageMiddleware(), BudgetMiddleware(requests=2), runaway]
    agent = create_agent(
        make_model(),
        [ask_model],
        middleware=middleware,
        checkpointer=InMemorySaver(),
        interrupt_before=["tools"],
    )
    gc.disable()  # what the collector has not come to yet is no reason to go on with an ended run
    try:
        run_two_ways(agent, "Hello", thread="1")
        for resumed in range(1, 5):
            state = run_two_ways(agent, None, thread="1")
            assert state["usage"]["requests"] == 2
            assert state["messages"][-1].response_metadata["finish_reason"] == "tool_calls"
            assert len(server.requests) == 1 + 2 * resumed
    finally:
        gc.enable()
