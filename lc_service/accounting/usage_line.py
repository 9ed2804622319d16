"""Attempts added up: the sums that reports and ledgers are made of.

Whatever makes lines of records makes them here, so that a report and a ledger never differ. Values; no I/O.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, NamedTuple

from lc_service.accounting.record import NO_TOKENS, AttemptRecord, Certainty, MetadataValue
from lc_service.accounting.usage import USAGE_FIELDS, TokenUsage

Resolution = Literal["minute", "hour", "day"]
CACHED = "cached"
"""The status of calls that LangChain's cache answered."""
GROUPS = "model, operation, status, day, tag, metadata:KEY"
"""What lines can be grouped by, in words."""


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


_COUNTS = ("calls", "attempts", "estimated", "unknown", "unpriced")
_counts = operator.attrgetter(*_COUNTS)
_tokens = operator.attrgetter(*(f"usage.{name}" for name in USAGE_FIELDS))


def total_of(lines: Iterable[UsageLine]) -> UsageLine:
    """Add many lines up; ten times as fast as adding one to the next."""
    lines = list(lines)
    if len(lines) < 2:
        return lines[0] if lines else UsageLine()
    counts = map(sum, zip(*map(_counts, lines), strict=True))
    tokens = map(sum, zip(*map(_tokens, lines), strict=True))
    usage = TokenUsage(**dict(zip(USAGE_FIELDS, tokens, strict=True)))
    cost_usd = sum((line.cost_usd for line in lines), Decimal())
    return UsageLine(usage=usage, cost_usd=cost_usd, **dict(zip(_COUNTS, counts, strict=True)))


def round_down(at: datetime, resolution: Resolution = "minute") -> datetime:
    """Return when the minute, hour or day of `at` began, in UTC; `at` is UTC where it names no zone."""
    if at.tzinfo is not UTC:
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    if resolution == "minute":
        return at.replace(second=0, microsecond=0)
    if resolution == "hour":
        return at.replace(minute=0, second=0, microsecond=0)
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def key_of(record: AttemptRecord, resolution: Resolution = "minute") -> LineKey:
    """Return the line that an attempt belongs to."""
    return LineKey(
        record.model,
        record.operation,
        record.status.value,
        round_down(record.started_at, resolution),
        tuple(record.tags),
        tuple(sorted(record.metadata.items())) if record.metadata else (),
    )


def line_of(record: AttemptRecord, *, is_priced: bool = True) -> UsageLine:
    """Return the line of a single attempt, with its cost, or without to be quick."""
    cost_usd = record.cost_usd if is_priced else None
    return UsageLine(
        calls=1 if record.attempt == 1 else 0,
        attempts=1,
        estimated=1 if record.certainty is Certainty.ESTIMATED else 0,
        unknown=1 if record.certainty is Certainty.UNKNOWN else 0,
        usage=record.usage,
        cost_usd=Decimal() if cost_usd is None else cost_usd,
        unpriced=1 if is_priced and cost_usd is None else 0,
    )


def merged(lines: Iterable[tuple[LineKey, UsageLine]]) -> dict[LineKey, UsageLine]:
    """Add up the lines that have the same key, in the order in which the keys came up first."""
    together: dict[LineKey, list[UsageLine]] = {}
    for key, line in lines:
        together.setdefault(key, []).append(line)
    return {key: total_of(alike) for key, alike in together.items()}


COARSEST = 4


def coarser(key: LineKey, steps: int) -> LineKey:
    """Return the key without what is forgotten after `steps` of 0 to 4: minute, hour, metadata, tags."""
    if not steps:
        return key
    return key._replace(
        at=round_down(key.at, "hour" if steps == 1 else "day"),
        metadata=key.metadata if steps < 3 else (),
        tags=key.tags if steps < COARSEST else (),
    )


def split(lines: Mapping[LineKey, UsageLine], group: str) -> dict[str, dict[LineKey, UsageLine]]:
    """Group lines as `UsageReport.group_by` does, and raise what it raises."""
    names_of = _namer(group)
    groups: dict[str, dict[LineKey, UsageLine]] = {}
    for key, line in lines.items():
        for name in names_of(key):
            groups.setdefault(name, {})[key] = line
    return groups


_Namer = Callable[[LineKey], Iterable[str]]
_NAMERS: dict[str, _Namer] = {
    "model": lambda key: (key.model,),
    "operation": lambda key: (key.operation,),
    "status": lambda key: (key.status,),
    "day": lambda key: (key.at.date().isoformat(),),
    "tag": lambda key: dict.fromkeys(key.tags) or ("",),
}


def _namer(group: str) -> _Namer:
    kind, _, name = str(group).partition(":")
    if kind == "metadata" and name:
        return lambda key: [str(value) for key_name, value in key.metadata if key_name == name] or [""]
    if group not in _NAMERS:
        raise ValueError(f"Usage is grouped by {GROUPS}; not by {group!r}.")
    return _NAMERS[group]
