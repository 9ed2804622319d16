"""What came of a demo run, as values: the items, the counts, and whether all is well.

Counted against billed is decided here and nowhere else. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lc_service.accounting.usage import TokenUsage
from lc_service.accounting.usage_report import UsageReport

INTERRUPTED = "Ctrl-C"

Line = tuple[str, str]
"""A model and an operation: what a bill has a line for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """One document and what became of it.

    Attributes:
        id: The document's.
        language: The document's.
        answer: The chain's answer as text; None where the item was lost.
        attempts: HTTP requests made for it, retries included.
        error: Why it was lost, in words that quote nothing of the request; None where it was answered.
        is_wrong: Whether the answer is not the one that the rehearsal gave to this document.
    """

    id: str
    language: str
    answer: str | None
    attempts: int
    error: str | None = None
    is_wrong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The whole run.

    Attributes:
        items: Documents that were to be answered.
        finished: Those that were answered or lost, in the order in which they ended.
        attempts: HTTP requests as the client counted them, those of unfinished items included.
        counted: What the client counted, line by line.
        billed: What the server billed, or None where nobody but the provider knows.
        server_requests: HTTP requests that the server saw, or None likewise.
        retries: Retries by reason.
        seconds: Wall time of the run, without the rehearsal.
        stopped_by: What ended it before its time: `INTERRUPTED`, or a failure that no item would escape.
    """

    items: int
    finished: tuple[ItemResult, ...]
    attempts: int
    counted: Mapping[Line, TokenUsage]
    billed: Mapping[Line, TokenUsage] | None = None
    server_requests: int | None = None
    retries: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    stopped_by: str | None = None

    @property
    def answered(self) -> int:
        """Items with an answer."""
        return sum(item.answer is not None for item in self.finished)

    @property
    def pending(self) -> int:
        """Items that were not finished when something stopped the run."""
        return self.items - len(self.finished) if self.stopped_by else 0

    @property
    def lost(self) -> int:
        """Items that failed, and any that vanished without a word."""
        return self.items - self.answered - self.pending

    @property
    def wrong(self) -> int:
        """Items whose answer belongs to something else."""
        return sum(item.is_wrong for item in self.finished)

    @property
    def is_balanced(self) -> bool:
        """Whether every line was counted exactly as it was billed; True where there is no bill."""
        return self.billed is None or all(self.counted_and_billed(line)[2] for line in self.lines)

    @property
    def lines(self) -> list[Line]:
        """Every model and operation that was counted or billed."""
        return sorted({*self.counted, *(self.billed or {})})

    def counted_and_billed(self, line: Line) -> tuple[TokenUsage, TokenUsage, bool]:
        """Return what was counted for a line, what was billed, and whether they are the same."""
        counted = self.counted.get(line, TokenUsage())
        billed = (self.billed or {}).get(line, TokenUsage())
        return counted, billed, counted == billed

    @property
    def is_right(self) -> bool:
        """Whether every item has its answer, and no token was counted other than it was billed."""
        return self.answered == self.items and not self.wrong and self.is_balanced

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "items": self.items,
            "answered": self.answered,
            "lost": self.lost,
            "wrong": self.wrong,
            "pending": self.pending,
            "is_right": self.is_right,
            "stopped_by": self.stopped_by,
            "seconds": round(self.seconds, 3),
            "requests": {"client": self.attempts, "server": self.server_requests},
            "retries": dict(self.retries),
            "counted": _as_list(self.counted),
            "billed": None if self.billed is None else _as_list(self.billed),
            "answers": [
                {
                    "id": item.id,
                    "language": item.language,
                    "answer": item.answer,
                    "attempts": item.attempts,
                    "error": item.error,
                    "is_wrong": item.is_wrong,
                }
                for item in self.finished
            ],
        }


def _as_list(lines: Mapping[Line, TokenUsage]) -> list[dict[str, Any]]:
    return [
        {
            "model": model,
            "operation": operation,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        }
        for (model, operation), usage in sorted(lines.items())
    ]


def by_line(usage: UsageReport) -> dict[Line, TokenUsage]:
    """Split a report into its lines; one of calls whose usage nobody told has no tokens to compare."""
    return {
        (model, operation): report.total
        for model, of_model in usage.group_by("model").items()
        for operation, report in of_model.group_by("operation").items()
        if report.total.total_tokens
    }
