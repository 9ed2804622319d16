"""Agents and their middleware around a model: what they do with its errors, what they ask of it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.exceptions import ModelError
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables.config import var_child_runnable_config
from langchain_openai import ChatOpenAI
from langgraph.errors import GraphBubbleUp, GraphRecursionError
from pydantic import BaseModel, Field

from lc_service.simulator import Fault

ASK: Any = {"messages": [("user", "Hello there")]}
RATE_LIMIT = Fault("rate_limit", retry_after_seconds=0.001)


def look_up(word: str) -> str:
    """Look a word up."""
    return word


def test_an_agent_with_a_retried_model_dies_when_it_is_invoked(simulate, chat):
    """`create_agent(model.with_retry(), tools)` raises at invoke: no bind_tools (langchain#33983).

    Ours: `ReliableChatOpenAI.with_retry` returns a model.
    """
    sim = simulate()
    agent = create_agent(chat(sim).with_retry(), [look_up])
    with pytest.raises(AttributeError, match="bind_tools"):
        agent.invoke(ASK)
    assert sim.requests == []


def test_retry_middleware_multiplies_with_the_sdks_retries(simulate, chat, sleeps):
    """ModelRetryMiddleware around a model with SDK retries: nine requests.

    Ours: with `ReliableChatOpenAI` the middleware is a second layer; README says to leave it out.
    """
    sim = simulate(faults=[RATE_LIMIT] * 20)
    create_agent(chat(sim, max_retries=2), [], middleware=[ModelRetryMiddleware()]).invoke(ASK)
    assert len(sim.requests) == 9


def test_retry_middleware_ignores_retry_after_and_answers_with_the_error(simulate, chat, sleeps):
    """ModelRetryMiddleware waits its own 1 and 2 seconds, then gives the error out as an AIMessage.

    Ours: a failure is an exception (DESIGN, promise 1); Retry-After comes first in `retry/policy.py`.
    """
    sim = simulate(faults=[Fault("rate_limit", retry_after_seconds=30)] * 3)
    answer = create_agent(chat(sim), [], middleware=[ModelRetryMiddleware()]).invoke(ASK)
    assert len(sleeps) == 2
    assert max(sleeps) < 3
    last = answer["messages"][-1]
    assert type(last) is AIMessage
    assert last.text.startswith("Model call failed after 3 attempts with OpenAIRateLimitError")


class Answer(BaseModel):
    """An answer."""

    text: str


def test_retry_middleware_with_a_response_format_loops_on_a_dead_provider(simulate, chat, sleeps):
    """An error given out as an AIMessage is no structured answer, so the agent asks again, to the last step.

    Ours: as above; an exception ends the agent.
    """
    sim = simulate(faults=["server_error"] * 100)
    agent = create_agent(
        chat(sim), [], response_format=ToolStrategy(Answer), middleware=[ModelRetryMiddleware()]
    )
    with pytest.raises(GraphRecursionError):
        agent.invoke(ASK, {"recursion_limit": 6})
    assert len(sim.requests) == 18


def test_the_call_limit_counts_steps_not_requests(simulate, chat):
    """`ModelCallLimitMiddleware(run_limit=2)` lets six requests through where the SDK retries twice each.

    Ours: limits and budgets belong inside the model, attempt by attempt (DESIGN, "One chat call").
    """
    sim = simulate(faults=[RATE_LIMIT, RATE_LIMIT, "ok", RATE_LIMIT, RATE_LIMIT, "ok"])

    class Counting(AgentMiddleware):
        def __init__(self) -> None:
            super().__init__()
            self.steps = 0

        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            self.steps += 1
            return handler(request.override(tool_choice="any"))

    counting = Counting()
    limit = ModelCallLimitMiddleware(run_limit=2)
    agent = create_agent(chat(sim, max_retries=2), [look_up], middleware=[limit, counting])
    agent.invoke(ASK)
    assert counting.steps == 2
    assert len(sim.requests) == 6


class NoMoneyError(ModelError):
    """As BudgetExceeded will be: a ModelError that is not retryable."""

    is_retryable = False


class NoMoneyBubbleError(NoMoneyError, GraphBubbleUp):
    """The same, for middleware to let through."""


class Broke(ChatOpenAI):
    """A model that may not be called any more."""

    calls: list[int] = Field(default_factory=list)
    error: type[Exception] = NoMoneyError

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        self.calls.append(1)
        raise self.error("no money")


def test_an_error_that_is_not_retryable_passes_the_retry_middleware(simulate, chat, sleeps):
    """ModelRetryMiddleware raises a ModelError with `is_retryable = False` at once, whatever `on_failure`.

    Ours: `is_retryable` of the exceptions in `retry/errors.py`; BudgetExceeded to come.
    """
    model = chat(simulate(), Broke)
    with pytest.raises(NoMoneyError):
        create_agent(model, [], middleware=[ModelRetryMiddleware()]).invoke(ASK)
    assert len(model.calls) == 1


def test_the_retry_middleware_takes_the_word_of_is_retryable_and_retries_all_else(simulate, chat, sleeps):
    """ModelRetryMiddleware retries every exception that is no ModelError, and an exhausted quota.

    Ours: our own failures are ModelErrors (`retry/errors.py`), so that `is_retryable` is asked.
    """
    model = chat(simulate(), Broke, error=ValueError)
    create_agent(model, [], middleware=[ModelRetryMiddleware()]).invoke(ASK)
    assert len(model.calls) == 3
    sim = simulate(faults=["insufficient_quota"] * 3)
    create_agent(chat(sim), [], middleware=[ModelRetryMiddleware()]).invoke(ASK)
    assert len(sim.requests) == 3


def test_fallbacks_are_tried_unless_the_error_bubbles_up(simulate, chat):
    """ModelFallbackMiddleware tries its fallbacks after any error that is no `GraphBubbleUp`.

    Ours: BudgetExceeded, to come, decides by its bases whether a fallback may be tried.
    """
    sim = simulate()
    fallback = ModelFallbackMiddleware(chat(sim))
    answer = create_agent(chat(sim, Broke), [], middleware=[fallback]).invoke(ASK)
    assert answer["messages"][-1].text
    assert len(sim.requests) == 1
    broke = chat(sim, Broke, error=NoMoneyBubbleError)
    with pytest.raises(NoMoneyBubbleError):
        create_agent(broke, [], middleware=[fallback]).invoke(ASK)
    assert len(sim.requests) == 1


def test_the_summarization_middleware_calls_with_retry_of_its_model(simulate, chat):
    """SummarizationMiddleware calls `model.with_retry(retry_if_exception_type=<a function>)`.

    Ours: `ReliableChatOpenAI.with_retry` takes that argument, a predicate included, as `retry_on`.
    """
    seen: list[dict[str, Any]] = []

    class Watched(ChatOpenAI):
        def with_retry(self, **kwargs: Any) -> Any:
            seen.append(kwargs)
            return self

    SummarizationMiddleware(chat(simulate(), Watched))
    (kwargs,) = seen
    predicate = kwargs.pop("retry_if_exception_type")
    assert kwargs == {}
    assert callable(predicate)
    assert not isinstance(predicate, type)
    assert predicate(NoMoneyError()) is False
    assert predicate(ValueError()) is True


async def test_middleware_needs_both_of_its_twins(simulate, chat):
    """A middleware with only `wrap_model_call` fails in `ainvoke`; two with one name are refused.

    Ours: `agents.py`, to come, writes both and names them.
    """

    class OnlySync(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(model=request.model))

    agent = create_agent(chat(simulate()), [], middleware=[OnlySync()])
    assert agent.invoke(ASK)["messages"][-1].text
    with pytest.raises(NotImplementedError, match="awrap_model_call"):
        await agent.ainvoke(ASK)
    with pytest.raises(AssertionError, match="duplicate middleware"):
        create_agent(chat(simulate()), [], middleware=[OnlySync(), OnlySync()])


async def test_a_hook_can_read_the_running_graphs_state_by_the_config_around_it(simulate, chat):
    """In a node, `var_child_runnable_config` has a function at `__pregel_read` that reads the channels.

    Ours: what middleware asks of models in its hooks is counted to the run that the state tells of.
    """
    seen: list[Any] = []

    class Reads(AgentMiddleware):
        def before_model(self, state: Any, runtime: Any) -> None:
            read = var_child_runnable_config.get()["configurable"]["__pregel_read"]
            seen.append([message.text for message in read("messages", False)])
            with pytest.raises(KeyError):
                read("no such channel", False)

        async def abefore_model(self, state: Any, runtime: Any) -> None:
            self.before_model(state, runtime)

    agent = create_agent(chat(simulate()), [], middleware=[Reads()])
    agent.invoke(ASK)
    await agent.ainvoke(ASK)
    assert seen == [[ASK["messages"][0][1]]] * 2
