"""LangGraph's nodes and checkpointers, and every stock middleware that calls a model or wraps its calls.

What is counted is what was billed, run by run: a thread that is taken up again pays for its new steps only.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    ContextEditingMiddleware,
    HumanInTheLoopMiddleware,
    LLMToolEmulator,
    LLMToolSelectorMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    TodoListMiddleware,
)
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send
from pydantic import BaseModel

from lc_service import track_usage

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*version=.v3.*beta"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),  # upstream's, of parsed answers
]
THREAD: RunnableConfig = {"configurable": {"thread_id": "1"}}


class Place(BaseModel):
    """Describe a place."""

    name: str
    country: str


class Essays(TypedDict):
    topics: list[str]
    essays: Annotated[list[str], operator.add]


class Topic(TypedDict):
    topic: str


@tool
def get_weather(city: str) -> str:
    """Say what the weather is like in a city."""
    return f"It is sunny in {city}."


@tool
def get_time(city: str) -> str:
    """Say what time it is in a city."""
    return f"It is noon in {city}."


def ask(text: str = "Call get_weather for Paris.") -> Any:
    return {"messages": [HumanMessage(text)]}


def graph(bench: Any, **options: Any) -> Any:
    """A graph of one node that asks the model, with a synchronous and an asynchronous way."""
    model = bench.model()
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "model")
    return builder.compile(**options)


def agent(bench: Any, *middleware: Any, **options: Any) -> Any:
    tools = options.pop("tools", [get_weather])
    return create_agent(bench.model(), tools=tools, middleware=middleware, **options)


# --- nodes and checkpointers ------------------------------------------------------------------------------


def node(bench: Any) -> None:
    assert graph(bench).invoke(ask("Hello"))["messages"][-1].text


def node_streamed_by_messages(bench: Any) -> None:
    steps = list(graph(bench).stream(ask("Hello"), stream_mode="messages"))
    assert len(steps) > 3
    assert steps[0][1]["langgraph_node"] == "model"


def node_streamed_by_events(bench: Any) -> None:
    run = graph(bench).stream_events(ask("Hello"), version="v3")
    assert run.output["messages"][-1].text


async def anode(bench: Any) -> None:
    model = bench.model()

    async def call(state: MessagesState) -> dict[str, list[AnyMessage]]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    compiled = StateGraph(MessagesState).add_node(call).add_edge(START, "call").compile()
    assert [step async for step in compiled.astream(ask("Hello"), stream_mode="messages")]


def the_model_itself_as_a_node(bench: Any) -> None:
    builder = StateGraph(MessagesState)
    chain = (lambda state: state["messages"]) | bench.model() | (lambda message: {"messages": [message]})
    builder.add_node("model", chain)
    builder.add_edge(START, "model")
    assert builder.compile().invoke(ask("Hello"))["messages"][-1].text


def map_and_reduce(bench: Any) -> None:
    model = bench.model()
    builder = StateGraph(Essays)

    def write(state: Topic) -> dict[str, list[str]]:
        return {"essays": [model.invoke(f"Write about {state['topic']}.").text]}

    builder.add_node("write", write)  # type: ignore[type-var]  LangGraph gives it what Send sends
    builder.add_conditional_edges(START, lambda state: [Send("write", {"topic": t}) for t in state["topics"]])
    builder.add_edge("write", END)
    done = builder.compile().invoke({"topics": ["the sea", "the hills", "the sky"], "essays": []})
    assert len(set(done["essays"])) == 3


def subgraph(bench: Any) -> None:
    outer = StateGraph(MessagesState).add_node("inner", graph(bench)).add_node("again", graph(bench))
    compiled = outer.add_edge(START, "inner").add_edge("inner", "again").compile()
    assert len(compiled.invoke(ask("Hello"))["messages"]) == 3


def two_turns_of_a_thread(bench: Any) -> None:
    compiled = graph(bench, checkpointer=InMemorySaver())
    compiled.invoke(ask("Hello"), THREAD)
    assert len(compiled.invoke(ask("Hello again"), THREAD)["messages"]) == 4


def interrupted_and_resumed(bench: Any) -> None:
    wait = HumanInTheLoopMiddleware(interrupt_on={"get_weather": True})
    made = agent(bench, wait, checkpointer=InMemorySaver())
    assert made.invoke(ask(), THREAD)["__interrupt__"]
    resumed = made.invoke(Command(resume={"decisions": [{"type": "approve"}]}), THREAD)
    assert "sunny" in resumed["messages"][-1].text


# --- agents -----------------------------------------------------------------------------------------------


def agent_events_v3(bench: Any) -> None:
    assert "sunny" in agent(bench).stream_events(ask(), version="v3").output["messages"][-1].text


async def agent_events_v3_async(bench: Any) -> None:
    run = await agent(bench).astream_events(ask(), version="v3")
    assert "sunny" in (await run.output())["messages"][-1].text


def structured_by_provider(bench: Any) -> None:
    made = agent(bench, tools=[], response_format=ProviderStrategy(Place))
    assert isinstance(made.invoke(ask("Paris in France"))["structured_response"], Place)


def structured_by_tool(bench: Any) -> None:
    made = agent(bench, tools=[], response_format=ToolStrategy(Place))
    assert isinstance(made.invoke(ask("Paris in France"))["structured_response"], Place)


# --- middleware -------------------------------------------------------------------------------------------


def long_talk() -> Any:
    return {"messages": [HumanMessage(f"Fact {number} is about the sea.") for number in range(6)]}


def summarization(bench: Any) -> None:
    summary = SummarizationMiddleware(bench.model(), trigger=("messages", 4), keep=("messages", 2))
    done = agent(bench, summary, tools=[]).invoke(long_talk())
    assert len(done["messages"]) < 6
    assert bench.sim.bill.requests == 2


async def summarization_async(bench: Any) -> None:
    summary = SummarizationMiddleware(bench.model(), trigger=("tokens", 20), keep=("messages", 2))
    await agent(bench, summary, tools=[]).ainvoke(long_talk())
    assert bench.sim.bill.requests == 2


def summarization_by_share_of_the_window(bench: Any) -> None:
    """The model's profile tells the window, as stock ChatOpenAI's does."""
    summary = SummarizationMiddleware(bench.model(), trigger=("fraction", 0.00003), keep=("messages", 2))
    agent(bench, summary, tools=[]).invoke(long_talk())
    assert bench.sim.bill.requests == 2


def summarization_by_another_model(bench: Any) -> None:
    other = bench.model(model="gpt-4.1-nano")
    summary = SummarizationMiddleware(
        bench.model(), trigger=("messages", 4), keep=("messages", 2), summarizer=other
    )
    agent(bench, summary, tools=[]).invoke(long_talk())
    assert bench.sim.bill.by("gpt-4.1-nano").requests == 1


def tool_selector(bench: Any) -> None:
    chosen = LLMToolSelectorMiddleware(model=bench.model(), max_tools=1)
    assert agent(bench, chosen, tools=[get_weather, get_time]).invoke(ask())["messages"]
    assert bench.sim.bill.requests >= 2


def tool_emulator(bench: Any) -> None:
    done = agent(bench, LLMToolEmulator(model=bench.model())).invoke(ask())
    assert done["messages"][-2].type == "tool"
    assert bench.sim.bill.requests == 3


def fallback(bench: Any) -> None:
    bench.failed_calls = 2  # one a step
    lame = bench.model(base_url="http://127.0.0.1:1/v1", max_retries=0, circuit_breaker=None)
    made = create_agent(lame, tools=[get_weather], middleware=[ModelFallbackMiddleware(bench.model())])
    assert "sunny" in made.invoke(ask())["messages"][-1].text


def retries_around_the_model(bench: Any) -> None:
    assert "sunny" in agent(bench, ModelRetryMiddleware()).invoke(ask())["messages"][-1].text


def those_that_only_watch(bench: Any) -> None:
    watching = [
        ContextEditingMiddleware(),
        ModelCallLimitMiddleware(run_limit=5),
        PIIMiddleware("email"),
        TodoListMiddleware(),
    ]
    assert agent(bench, *watching).invoke(ask())["messages"]


SHAPES: list[Callable[[Any], Any]] = [
    node, node_streamed_by_messages, node_streamed_by_events, anode, the_model_itself_as_a_node,
    map_and_reduce, subgraph, two_turns_of_a_thread, interrupted_and_resumed,
    agent_events_v3, agent_events_v3_async, structured_by_provider, structured_by_tool,
    summarization, summarization_async, summarization_by_share_of_the_window, summarization_by_another_model,
    tool_selector, tool_emulator, fallback, retries_around_the_model, those_that_only_watch,
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_counted_is_what_was_billed(shape: Callable[[Any], Any], bench: Any) -> None:
    bench.run(shape)


def test_a_failed_step_is_taken_up_where_the_checkpointer_left_it(clean_bench: Any) -> None:
    clean_bench.sim.set_faults([None, "bad_request"])
    made = agent(clean_bench, checkpointer=InMemorySaver())
    with track_usage() as usage:
        with pytest.raises(Exception, match="Invalid request"):
            made.invoke(ask(), THREAD)
        done = made.invoke(None, THREAD)
    clean_bench.sim.set_faults(None)
    assert "sunny" in done["messages"][-1].text
    assert clean_bench.sim.bill.requests == 2  # the first step's answer was kept
    assert usage.total.total_tokens == clean_bench.sim.bill.total.total_tokens
    assert (usage.calls, usage.attempts) == (3, 3)
