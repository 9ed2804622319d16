"""Add attempts up: how many, what they used, what they cost, and split the sums by what they were for.

Invariant: what nobody knows is counted as unknown, never as zero. Counting costs an attempt next to nothing:
attempts are added up and priced, each by itself, when somebody asks. No I/O; rendering is in `report`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from lc_service import clock
from lc_service.accounting.record import AttemptRecord, MetadataValue
from lc_service.accounting.report.views import ReportViews
from lc_service.accounting.usage import TokenUsage
from lc_service.accounting.usage_line import (
    CACHED,
    COARSEST,
    LineKey,
    UsageLine,
    coarser,
    key_of,
    line_of,
    merged,
    round_down,
    split,
    total_of,
)

MAX_PENDING = 256
"""So many attempts wait to be added up and priced at most."""
MAX_LINES = 10_000
"""From so many lines on a report becomes coarser, step by step."""

_Lines = dict[LineKey, UsageLine]


class _Sums(NamedTuple):
    """What is added up so far. Replaced whole and never changed, so that a reader may keep it."""

    lines: _Lines
    total: UsageLine
    steps: int = 0


class UsageReport(ReportViews):
    """What a set of attempts used and cost; grows while they run. Thread-safe, can be pickled.

    An attempt of unknown usage, which may have been billed, adds nothing to `total` and one to `unknown`:
    with `unknown > 0`, `total` is a lower bound. Attempts that were refused are in it with zero tokens, under
    the status `"failed"`; calls that LangChain's cache answered are calls without an attempt.

    Times are kept to the minute. Beyond 10,000 lines (combinations of model, operation, status, time, tags
    and metadata) a report becomes coarser instead of larger: it keeps the hour, then the day, then forgets
    metadata, then tags. Sums stay exact.

    Args:
        lines: Sums to begin with, such as a ledger's.
    """

    def __init__(self, lines: Mapping[LineKey, UsageLine] | None = None) -> None:
        self._sums = _Sums(dict(lines or {}), total_of((lines or {}).values()))
        self._pending: list[AttemptRecord | tuple[LineKey, UsageLine]] = []
        self._lock = threading.Lock()

    def add(self, record: AttemptRecord) -> None:
        """Add an attempt. Takes no lock that it has to wait for: it may be called from a finalizer.

        Args:
            record: The attempt, which has ended. Added twice, it counts twice.
        """
        self._append(record)

    def add_cached(
        self,
        *,
        model: str,
        operation: str = "chat",
        tags: Iterable[str] = (),
        metadata: Mapping[str, MetadataValue] | None = None,
        at: datetime | None = None,
    ) -> None:
        """Add a call that LangChain's cache answered: a call without attempts, under the status `"cached"`.

        Args:
            model: The model that would have been asked.
            operation: `"chat"` or `"embeddings"`.
            tags: The run's tags.
            metadata: The run's metadata.
            at: When it was made; None means now.
        """
        minute = round_down(at or datetime.fromtimestamp(clock.wall(), UTC))
        pairs = tuple(sorted((metadata or {}).items()))
        self._append((LineKey(model, operation, CACHED, minute, tuple(tags), pairs), UsageLine(calls=1)))

    @property
    def total(self) -> TokenUsage:
        """All tokens together, as far as they are known."""
        return self._sum().usage

    @property
    def calls(self) -> int:
        """How many calls were made; the retries of a call do not count, answers from the cache do."""
        return self._sum().calls

    @property
    def attempts(self) -> int:
        """How many HTTP attempts were made."""
        return self._sum().attempts

    @property
    def measured(self) -> int:
        """How many attempts have the usage that the server told, or were refused, which costs nothing."""
        line = self._sum()
        return line.attempts - line.estimated - line.unknown

    @property
    def estimated(self) -> int:
        """How many attempts have an estimated usage; it is in `total`."""
        return self._sum().estimated

    @property
    def unknown(self) -> int:
        """How many attempts may have used tokens that nobody told; they are not in `total`."""
        return self._sum().unknown

    @property
    def cost_usd(self) -> Decimal | None:
        """What it cost in USD, or None where some of it has no known price or usage: see `unpriced_calls`.

        List prices at the time of each attempt; `lc_service.accounting.pricing` takes prices of your own.
        The first use takes about a quarter of a second.
        """
        line = self._priced().total
        return None if line.unpriced else line.cost_usd

    @property
    def known_cost_usd(self) -> Decimal:
        """What is known of the cost: all of it, or a lower bound where `cost_usd` is None."""
        return self._priced().total.cost_usd

    @property
    def unpriced_calls(self) -> int:
        """How many attempts have no known price or no known usage. `group_by` tells which."""
        return self._priced().total.unpriced

    @property
    def lines(self) -> Mapping[LineKey, UsageLine]:
        """The sums behind it all as they are now, in the order in which they came up first; read-only."""
        return MappingProxyType(self._priced().lines)

    def group_by(self, key: str) -> dict[str, UsageReport]:
        """Split the report as it is now.

        Args:
            key: `"model"` that was asked for, `"operation"` (`"chat"`, `"embeddings"`), `"status"`
                (an `AttemptStatus` or `"cached"`), `"day"` (in UTC, as 2026-11-30), `"tag"`, or
                `"metadata:KEY"` for the values of one metadata key, as text.

        Returns:
            A report for each, in the order of their first use. An attempt with several tags is in the group
            of each of them, so that tags add up to more than the whole. What has no tag, or not that
            metadata, is under `""`.

        Raises:
            ValueError: `key` is none of these.
        """
        return {name: UsageReport(lines) for name, lines in split(self._priced().lines, key).items()}

    def __add__(self, other: UsageReport) -> UsageReport:
        """Return a new report over both, as they are now."""
        return UsageReport(merged([*self._priced().lines.items(), *other._priced().lines.items()]))

    def _append(self, entry: AttemptRecord | tuple[LineKey, UsageLine]) -> None:
        self._pending.append(entry)
        # Whoever holds the lock sees to what has come in the meantime, or the next one does. To wait could
        # be for ever: a stream that is garbage collected ends in here, inside any other line of ours.
        if len(self._pending) >= MAX_PENDING and self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def _fold(self) -> None:
        count = len(self._pending)
        if not count:
            return
        steps = self._sums.steps
        entries = [
            entry if isinstance(entry, tuple) else (key_of(entry), line_of(entry))
            for entry in self._pending[:count]
        ]
        new = merged((coarser(key, steps), line) for key, line in entries)
        lines = self._sums.lines | {
            key: line if (known := self._sums.lines.get(key)) is None else known + line
            for key, line in new.items()
        }
        while len(lines) > MAX_LINES and steps < COARSEST:
            steps += 1
            lines = merged((coarser(key, steps), line) for key, line in lines.items())
        self._sums = _Sums(lines, total_of((self._sums.total, *new.values())), steps)
        del self._pending[:count]

    def _priced(self) -> _Sums:
        with self._lock:
            self._fold()
            return self._sums

    def _sum(self) -> UsageLine:
        """Sum up without prices: the first price of a process takes a while."""
        with self._lock:
            pending, total = self._pending[:], self._sums.total
        return total_of([total, *map(_unpriced_line, pending)])

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what was counted; the copy counts on by itself."""
        return {"sums": tuple(self._priced())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self._sums = _Sums(*state["sums"])

    _repr_pretty_ = ReportViews._repr_pretty_  # IPython prefers a class's own __repr__ to what it inherits

    def __repr__(self) -> str:
        line = self._sum()
        doubts = {"estimated": line.estimated, "unknown": line.unknown}
        return (
            f"UsageReport(calls={line.calls}, attempts={line.attempts}, "
            f"input_tokens={line.usage.input_tokens}, output_tokens={line.usage.output_tokens}, "
            f"total_tokens={line.usage.total_tokens}"
            + "".join(f", {name}={count}" for name, count in doubts.items() if count)
            + ")"
        )


def _unpriced_line(entry: AttemptRecord | tuple[LineKey, UsageLine]) -> UsageLine:
    return entry[1] if isinstance(entry, tuple) else line_of(entry, is_priced=False)
