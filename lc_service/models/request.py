"""What a call is about, for those who account for it: what it asks for, and who they are. Values; no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import httpx2

from lc_service.accounting.held import budgets_around
from lc_service.accounting.prompt import PromptEstimate
from lc_service.accounting.record import Operation
from lc_service.accounting.tokenizer import TokenEstimator

if TYPE_CHECKING:
    from lc_service.accounting.budget import Budget
    from lc_service.accounting.ledger import UsageLedger
    from lc_service.accounting.telemetry import Telemetry
    from lc_service.limits.rate_limits import RateLimits

    BudgetField: TypeAlias = Budget | Sequence[Budget] | None
    LedgerField: TypeAlias = UsageLedger | None
    TelemetryField: TypeAlias = Telemetry | None
    RateLimitsField: TypeAlias = RateLimits | Literal["auto"] | None
else:
    # Pydantic would import what they name: SQLAlchemy, for one. Type checkers tell a wrong argument.
    BudgetField = LedgerField = TelemetryField = RateLimitsField = Any


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a call asks for, as far as those who account for it need to know.

    Attributes:
        operation: `"chat"` or `"embeddings"`.
        model: The model that is asked.
        estimator: That model's.
        measure: Estimates the prompt; asked once a call at most.
        bound: Tells how many tokens the prompt cannot exceed, or None; for strict budgets.
        max_output_tokens: The most that all choices together may come to; None where nothing says so.
        asked_output_tokens: That, where the request itself says so: servers charge it against their limits.
        choices: How many answers are asked for.
        service_tier: The tier that is asked for.
        is_stream: Whether the answer is streamed.
        server: The API's URL.
        parameters: What is sent beside the prompt, by its names on the wire.
    """

    operation: Operation = "chat"
    model: str
    estimator: TokenEstimator
    measure: Callable[[], PromptEstimate]
    bound: Callable[[], int | None]
    max_output_tokens: int | None = None
    asked_output_tokens: int | None = None
    choices: int = 1
    service_tier: str | None = None
    is_stream: bool = False
    server: httpx2.URL | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """Who accounts for a model's attempts besides the counters of a run."""

    budgets: tuple[Budget, ...] = ()
    ledgers: tuple[UsageLedger, ...] = ()
    telemetry: Telemetry | None = None


NO_ACCOUNTS = Accounts()


def accounts(
    budget: Budget | Sequence[Budget] | None, ledger: UsageLedger | None, telemetry: Telemetry | None
) -> Accounts:
    """Put together who accounts for a model's attempts; a ledger that a budget lives in records, too.

    The budgets of `hold_to` blocks around the caller are among them.
    """
    around = budgets_around()
    if budget is None and ledger is None and telemetry is None and not around:
        return NO_ACCOUNTS
    own = tuple(budget) if isinstance(budget, Sequence) else (() if budget is None else (budget,))
    budgets = (*own, *around)
    ledgers = dict.fromkeys([ledger, *(each.ledger for each in budgets)])
    return Accounts(
        budgets=budgets,
        ledgers=tuple(each for each in ledgers if each is not None),
        telemetry=telemetry,
    )
