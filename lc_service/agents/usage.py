"""`UsageMiddleware`: what a run of an agent used, in its state and on its last message.

Invariant: what is counted is what the server bills: every attempt of the agent's model, of all models that
its tools call, other agents' included, and of those that other middleware calls. Prevents nothing:
`BudgetMiddleware` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import Annotated, Any, NotRequired, cast

from langchain.agents.middleware import AgentState
from langchain.agents.middleware.types import OmitFromInput, PrivateStateAttr
from langchain_core.messages import AIMessage, AnyMessage, ToolMessage
from langgraph.channels.last_value import LastValue
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.runtime import Runtime
from typing_extensions import TypedDict, override

from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.tracker import track_usage
from lc_service.accounting.usage_report import UsageReport
from lc_service.agents.own_calls import OwnCalls, count_own_calls
from lc_service.agents.run_scope import Live, RunScopedMiddleware

METADATA_KEY = "run_usage"


class AgentUsage(TypedDict):
    """What a run or a thread used, as JSON can hold it.

    Keys:
        calls: Model calls, embeddings included.
        requests: Their HTTP attempts, retries counted.
        input_tokens: Tokens of the prompts, cached ones included.
        cached_input_tokens: Those of them that came from the provider's cache.
        output_tokens: Tokens of the answers, reasoning included.
        reasoning_tokens: Those of them spent on reasoning.
        total_tokens: Input and output together.
        estimated: Attempts whose usage is an estimate.
        unknown: Attempts that may have used tokens which nobody told: the sums are a lower bound then.
        cost_usd: In USD, as decimal text; None where some of it has no known price or usage.
    """

    calls: int
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    estimated: int
    unknown: int
    cost_usd: str | None


class ThreadUsage:
    """What a thread had used before, and what its runs have used since."""

    def __init__(self, before: AgentUsage | None) -> None:
        self.before = before
        self.report = UsageReport()

    def told(self) -> AgentUsage:
        """Return the sum of both."""
        since = _told(self.report)
        return since if self.before is None else _sum(self.before, since)


class _RunReport(UsageReport):
    """A run's report, which is its thread's as well."""

    def __init__(self, thread: UsageReport) -> None:
        super().__init__()
        self._of_thread = thread

    @override
    def add(self, record: AttemptRecord) -> None:
        super().add(record)
        self._of_thread.add(record)

    @override
    def add_cached(self, **about: Any) -> None:
        super().add_cached(**about)
        self._of_thread.add_cached(**about)


class LiveUsage(Live):
    """A run's report, and its thread's account."""

    def __init__(self, thread: ThreadUsage) -> None:
        self.account: ThreadUsage = thread
        self.report = _RunReport(thread.report)
        self.own_calls = OwnCalls(self.report.add)
        self.own_calls.usage = self.report  # by which it is known that a step of the run counts


class _Newest(LastValue[AgentUsage]):
    """A channel that takes several values in one step: agents in parallel tools may hand on theirs."""

    @override
    def update(self, values: Sequence[AgentUsage]) -> bool:
        return super().update(values[-1:])


class UsageState(AgentState[Any]):
    """The state of an agent whose usage is counted.

    `usage` is this run's, or the last one's; `thread_usage` that of all runs of the thread, where a
    checkpointer keeps it.
    """

    live_usage: NotRequired[Annotated[LiveUsage, UntrackedValue(LiveUsage, guard=False), PrivateStateAttr]]
    usage: NotRequired[Annotated[AgentUsage, _Newest(AgentUsage), OmitFromInput]]
    thread_usage: NotRequired[Annotated[AgentUsage, _Newest(AgentUsage), OmitFromInput]]


class UsageMiddleware(RunScopedMiddleware[LiveUsage]):
    """Count what an agent uses, its tools and the agents in them included.

    The result of a run has `usage` and `thread_usage`, each an `AgentUsage`; the last message has the run's
    under `response_metadata["run_usage"]`. In the course of a run the state is brought up to date with each
    answer of the model, so an interrupted run has it too.

    Of models of this package every attempt is counted, also of those that another middleware calls in a hook
    of its own, such as `SummarizationMiddleware`; of other models every call of the agent's model and tools.
    What is in no checkpoint, used by a step that failed, a stream that was left or another run of the thread
    at once, this object knows; another process does not.

    One object serves any number of runs, threads and event loops at once.

    Example:
        >>> from langchain.agents import create_agent
        >>> from lc_service import ReliableChatOpenAI
        >>> model = ReliableChatOpenAI(model="gpt-5.4-mini", api_key="sk-...")
        >>> agent = create_agent(model, [], middleware=[UsageMiddleware()])
        >>> # agent.invoke({"messages": [("user", "Hello")]})["usage"]["total_tokens"]
    """

    channel = "live_usage"
    state_schema = UsageState

    def __init__(self) -> None:
        super().__init__()
        # here, rather than in an event loop at the first call: a quarter of a second
        import genai_prices  # noqa: F401, PLC0415

    def before_agent(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Begin to count."""
        return self._published(self._live(state, runtime.execution_info))

    async def abefore_agent(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Do as `before_agent`."""
        return self.before_agent(state, runtime)

    def after_agent(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Put the run's usage on its last message."""
        live = self._live(state, runtime.execution_info)
        self._finish(live, runtime.execution_info)
        update = self._published(live)
        if (last := _with_usage(state["messages"], update["usage"])) is not None:
            update["messages"] = [last]
        return update

    async def aafter_agent(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Do as `after_agent`."""
        return self.after_agent(state, runtime)

    def _begin(self, state: Any, account: Any) -> LiveUsage:
        thread: ThreadUsage | None = account
        before: AgentUsage | None = state.get("thread_usage")
        # In another process the thread may have gone on since.
        if thread is None or (before is not None and before["requests"] > thread.told()["requests"]):
            thread = ThreadUsage(before)
        return LiveUsage(thread)

    def _saved(self, live: LiveUsage) -> dict[str, Any]:
        return {"usage": _told(live.report), "thread_usage": live.account.told()}

    def _inside(self, live: LiveUsage) -> AbstractContextManager[UsageReport]:
        return track_usage(into=live.report)


def _told(report: UsageReport) -> AgentUsage:
    total, cost_usd = report.total, report.cost_usd
    return AgentUsage(
        calls=report.calls,
        requests=report.attempts,
        input_tokens=total.input_tokens,
        cached_input_tokens=total.cached_input_tokens,
        output_tokens=total.output_tokens,
        reasoning_tokens=total.reasoning_tokens,
        total_tokens=total.total_tokens,
        estimated=report.estimated,
        unknown=report.unknown,
        cost_usd=None if cost_usd is None else str(cost_usd),
    )


def _sum(one: AgentUsage, other: AgentUsage) -> AgentUsage:
    first, second = one["cost_usd"], other["cost_usd"]
    both: Any = {name: count + other[name] for name, count in one.items() if isinstance(count, int)}  # type: ignore[literal-required]
    both["cost_usd"] = None if first is None or second is None else str(Decimal(first) + Decimal(second))
    return cast("AgentUsage", both)


def _with_usage(messages: list[AnyMessage], usage: AgentUsage) -> AnyMessage | None:
    """Return the last message with `usage` on it, or None where the run made none."""
    last = messages[-1] if messages else None
    if not isinstance(last, (AIMessage, ToolMessage)):
        return None
    return last.model_copy(update={"response_metadata": {**last.response_metadata, METADATA_KEY: usage}})


count_own_calls(UsageMiddleware.channel)
