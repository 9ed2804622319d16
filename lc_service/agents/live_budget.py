"""An agent's budget while it runs, and what of it is in the agent's state.

Invariant: nothing but plain JSON is saved. Sends nothing and refuses nothing itself.
"""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import AgentState
from langchain.agents.middleware.types import PrivateStateAttr
from langgraph.channels.untracked_value import UntrackedValue

from lc_service.accounting.budget import Budget
from lc_service.accounting.budget.exceeded import BudgetExceeded
from lc_service.accounting.held import budgets_around
from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.spending import Amount, Limit, charge
from lc_service.agents.own_calls import OwnCalls, count_own_calls
from lc_service.agents.run_scope import Live


def _spend(budget: Budget, record: AttemptRecord) -> None:
    """Charge what did not ask before it was sent."""
    limit = budget.limit
    took = charge(record, in_usd=limit.usd is not None)
    budget.spend(took + Amount(requests=0 if limit.requests is None else 1))


class LiveBudget(Live):
    """A run's budget, and what it said no to."""

    def __init__(self, budget: Budget, account: Budget | None) -> None:
        self.budget = budget
        self.account = account
        self.refusal: BudgetExceeded | None = None
        self.is_told = False
        self.spend = partial(_spend, budget)  # knows nothing of the run, or that would live on in a circle
        # Where a hook asks, it is too late to refuse: its middleware would lose what it is at.
        self.own_calls = OwnCalls(self.spend, lambda: budget in budgets_around())

    @property
    def taken(self) -> Amount:
        """What is spent or, by requests that nobody waits for any more, may yet be."""
        reserved = self.budget.reserved  # first: what ends meanwhile counts twice rather than not at all
        return self.budget.spent + reserved


# Parallel tools of a resumed run may set it in one step.
_RUN = UntrackedValue(LiveBudget, guard=False)
_THREAD = UntrackedValue(LiveBudget, guard=False)


class RunBudgetState(AgentState[Any]):
    """The state of an agent with a budget for each run; nothing of it is saved."""

    live_run_budget: NotRequired[Annotated[LiveBudget, _RUN, PrivateStateAttr]]


class ThreadBudgetState(AgentState[Any]):
    """The state of an agent with a budget for each thread: `thread_spent` is saved by the checkpointer."""

    live_thread_budget: NotRequired[Annotated[LiveBudget, _THREAD, PrivateStateAttr]]
    thread_spent: NotRequired[Annotated[dict[str, Any], PrivateStateAttr]]


count_own_calls("live_run_budget")
count_own_calls("live_thread_budget")


def told(some: Amount | Limit) -> dict[str, Any]:
    """Return amounts as JSON can hold them; USD as text, exactly."""
    return {
        "usd": None if some.usd is None else str(some.usd),
        "tokens": some.tokens,
        "requests": some.requests,
    }


def read(saved: dict[str, Any] | None) -> Amount:
    """Return amounts that `told` told; none where nothing was saved."""
    if saved is None:
        return Amount()
    return Amount(usd=Decimal(saved["usd"]), tokens=saved["tokens"], requests=saved["requests"])
