"""Attempts added up: the sums that reports and ledgers are made of. Values; no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from lc_service.accounting.record import NO_TOKENS, MetadataValue
from lc_service.accounting.usage import TokenUsage


class LineKey(NamedTuple):
    """What the attempts of one line have in common.

    Attributes:
        model: The model that was asked for.
        operation: `"chat"` or `"embeddings"`.
        status: An `AttemptStatus` as text, or `"cached"` for calls that LangChain's cache answered.
        at: When they began, in UTC, rounded down to the minute, hour or day.
        tags: Their tags, in order.
        metadata: Their metadata as pairs, in the order of the keys.
    """

    model: str
    operation: str
    status: str
    at: datetime
    tags: tuple[str, ...] = ()
    metadata: tuple[tuple[str, MetadataValue], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLine:
    """A sum over attempts.

    Attributes:
        calls: Calls; each is counted with its first attempt, or where the cache answered it.
        attempts: HTTP attempts.
        estimated: Those whose usage is an estimate.
        unknown: Those whose usage nobody knows; their tokens are not in `usage`.
        usage: The tokens.
        cost_usd: What is known of the cost.
        unpriced: Attempts whose cost is unknown.
    """

    calls: int = 0
    attempts: int = 0
    estimated: int = 0
    unknown: int = 0
    usage: TokenUsage = NO_TOKENS
    cost_usd: Decimal = Decimal()
    unpriced: int = 0

    def __add__(self, other: UsageLine) -> UsageLine:
        return UsageLine(
            calls=self.calls + other.calls,
            attempts=self.attempts + other.attempts,
            estimated=self.estimated + other.estimated,
            unknown=self.unknown + other.unknown,
            usage=self.usage + other.usage,
            cost_usd=self.cost_usd + other.cost_usd,
            unpriced=self.unpriced + other.unpriced,
        )
