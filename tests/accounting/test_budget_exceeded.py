"""The refusal of a budget goes through everything that catches errors, and reaches the user as it is."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware
from langchain_core.exceptions import ModelError
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph

from lc_service.accounting.budget.exceeded import BudgetExceeded
from lc_service.accounting.spending import Amount, Limit
from lc_service.retry.errors import classify
from lc_service.retry.policy import RetryWithExponentialBackoff


def refusal() -> BudgetExceeded:
    return BudgetExceeded(
        "no room",
        budget="nightly",
        limit=Limit(usd=Decimal("0.5")),
        spent=Amount(tokens=1, usd=Decimal("0.4")),
        reserved=Amount(tokens=2, usd=Decimal("0.05")),
        requested=Amount(tokens=3, usd=Decimal("0.1")),
    )


class RefusedModel(BaseChatModel):
    """A model whose budget is used up; counts how often it was asked."""

    calls: list[int] = []  # noqa: RUF012  pydantic copies it

    @property
    def _llm_type(self) -> str:
        return "refused"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.calls.append(1)
        raise refusal()

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


class AnsweringModel(RefusedModel):
    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.calls.append(1)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("an answer that costs money"))])


def invoke(agent: Any, given: Any, config: Any = None) -> Any:
    return agent.invoke(given, config)


def ainvoke(agent: Any, given: Any, config: Any = None) -> Any:
    return asyncio.run(agent.ainvoke(given, config))


def stream(agent: Any, given: Any, config: Any = None) -> Any:
    return list(agent.stream(given, config))


def astream(agent: Any, given: Any, config: Any = None) -> Any:
    async def collect() -> list[Any]:
        return [chunk async for chunk in agent.astream(given, config)]

    return asyncio.run(collect())


WAYS = pytest.mark.parametrize("call", [invoke, ainvoke, stream, astream])
QUESTION = {"messages": [("user", "hello")]}


@WAYS
def test_an_agent_with_retries_and_fallbacks_raises_it_after_one_try(call: Callable[..., Any]) -> None:
    model, fallback = RefusedModel(), AnsweringModel()
    middleware = [ModelFallbackMiddleware(fallback), ModelRetryMiddleware(max_retries=3, initial_delay=0.0)]
    agent = create_agent(model, middleware=middleware)
    with pytest.raises(BudgetExceeded) as caught:
        call(agent, QUESTION)
    assert caught.value.budget == "nightly"
    assert (len(model.calls), len(fallback.calls)) == (1, 0)


@WAYS
def test_an_agent_with_a_checkpointer_is_not_interrupted_by_it(call: Callable[..., Any]) -> None:
    agent = create_agent(RefusedModel(), checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    with pytest.raises(BudgetExceeded):
        call(agent, QUESTION, config)
    assert agent.get_state(config).interrupts == ()
    assert agent.get_state(config).next == ("model",), "the conversation can go on with a larger budget"


@WAYS
def test_it_comes_out_of_tools_and_subgraphs(call: Callable[..., Any]) -> None:
    inner = create_agent(RefusedModel())

    @tool
    def ask(question: str) -> str:
        """Ask another agent."""
        return str(inner.invoke({"messages": [("user", question)]}))

    class Calling(AnsweringModel):
        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            wish = {"name": "ask", "args": {"question": "hello"}, "id": "1"}
            return ChatResult(generations=[ChatGeneration(message=AIMessage("", tool_calls=[wish]))])

    with pytest.raises(BudgetExceeded):
        call(create_agent(Calling(), tools=[ask]), QUESTION)


@WAYS
def test_it_comes_out_of_a_graph_with_parallel_nodes(call: Callable[..., Any]) -> None:
    graph = StateGraph(dict)
    graph.add_node("refused", lambda _: RefusedModel().invoke("hello"))
    graph.add_node("fine", lambda _: {})
    for node in ("refused", "fine"):
        graph.add_edge(START, node)
        graph.add_edge(node, END)
    with pytest.raises(BudgetExceeded):
        call(graph.compile(), {"a": 1})


def test_it_is_not_retried() -> None:
    model = RefusedModel()
    assert not classify(refusal()).is_transient
    with pytest.raises(BudgetExceeded):
        RetryWithExponentialBackoff(initial_delay=0.001).execute(model.invoke, "hello")
    assert len(model.calls) == 1


def test_a_fallback_by_with_fallbacks_is_tried_unless_told_otherwise() -> None:
    cheap = FakeListChatModel(responses=["from the fallback"])
    assert RefusedModel().with_fallbacks([cheap]).invoke("hello").content == "from the fallback"


def test_it_is_both_families() -> None:
    assert issubclass(BudgetExceeded, ModelError)
    assert issubclass(BudgetExceeded, GraphBubbleUp)
    assert not BudgetExceeded.is_retryable


def test_a_pickled_copy_tells_the_same() -> None:
    error = refusal()
    error.add_note("in the night")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is BudgetExceeded
    assert str(copy) == "no room"
    assert vars(copy) == vars(error)
    assert copy.limit == Limit(usd=Decimal("0.5"))
    assert copy.__notes__ == ["in the night"]


def test_a_budget_loads_langgraph_only_when_it_refuses() -> None:
    code = "import sys, lc_service.accounting.budget; print('langgraph.errors' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  our own code
    assert done.stdout == "False\n"
