"""Add calls up: how many, what they used, what they cost.

Prices are worked out when they are asked for, each call's by itself and as of its own time, so that counting
costs a call next to nothing. No I/O.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from lc_service import clock
from lc_service.accounting.pricing import price
from lc_service.accounting.usage import TokenUsage

GroupKey = Literal["model", "operation"]
_Key = tuple[str, str]
_NOTHING = TokenUsage()


@dataclass(frozen=True, slots=True)
class _Line:
    calls: int = 0
    unknown: int = 0
    usage: TokenUsage = _NOTHING
    cost_usd: Decimal = Decimal()
    unpriced: int = 0

    def __add__(self, other: _Line) -> _Line:
        return _Line(
            self.calls + other.calls,
            self.unknown + other.unknown,
            self.usage + other.usage,
            self.cost_usd + other.cost_usd,
            self.unpriced + other.unpriced,
        )


class _Unpriced(NamedTuple):
    key: _Key
    usage: TokenUsage
    service_tier: str | None
    at_seconds: float


class UsageReport:
    """What a set of calls used and cost; grows while they run. Thread-safe, can be pickled.

    A call that LangChain's cache answered is a call that used nothing. A call whose usage nobody told,
    although it may have been billed, adds nothing to `total` and one to `unknown`: with `unknown > 0`,
    `total` is a lower bound. A call that was refused (a 429, a wrong key) is not in the report.
    """

    def __init__(self, _lines: dict[_Key, _Line] | None = None) -> None:
        self._lines = _lines or {}
        self._unpriced: list[_Unpriced] = []
        self._lock = threading.Lock()

    @property
    def total(self) -> TokenUsage:
        """Everything together."""
        return self._sum().usage

    @property
    def calls(self) -> int:
        """How many calls were answered or may have been billed; retries of a call do not count."""
        return self._sum().calls

    @property
    def unknown(self) -> int:
        """How many calls, and attempts within calls, may have used tokens that nobody told."""
        return self._sum().unknown

    @property
    def cost_usd(self) -> Decimal | None:
        """What it cost in USD, or None where some of it has no known price or usage: see `unpriced_calls`.

        List prices at the time of each call; `lc_service.accounting.pricing` takes prices of your own. The
        first use takes about a quarter of a second.
        """
        line = self._priced_sum()
        return None if line.unpriced else line.cost_usd

    @property
    def unpriced_calls(self) -> int:
        """How many calls or attempts have no known price, or no known usage. `group_by` tells which."""
        return self._priced_sum().unpriced

    def group_by(self, key: GroupKey) -> dict[str, UsageReport]:
        """Split the report as it is now.

        Args:
            key: `"model"`, the name that the server answered with, or `"operation"`, which is `"chat"` or
                `"embeddings"`.

        Returns:
            A report for each model or operation, in the order in which they were first used.

        Raises:
            ValueError: `key` is none of these.
        """
        if key not in ("model", "operation"):
            raise ValueError(f'group_by takes "model" or "operation", not {key!r}.')
        groups: dict[str, dict[_Key, _Line]] = {}
        for (model, operation), line in self._snapshot(is_priced=True).items():
            groups.setdefault(model if key == "model" else operation, {})[model, operation] = line
        return {name: UsageReport(lines) for name, lines in groups.items()}

    def record(
        self,
        usage: TokenUsage | None,
        *,
        model: str,
        operation: str = "chat",
        service_tier: str | None = None,
        is_call: bool = True,
    ) -> None:
        """Add what one call used, at this moment.

        Args:
            usage: Its tokens, or None where they are unknown.
            model: The model that answered.
            operation: `"chat"` or `"embeddings"`.
            service_tier: The response's, which sets the price.
            is_call: False for an attempt inside a call: its tokens count, the call is counted at its end.
        """
        key = (model, operation)
        is_unknown = usage is None
        line = _Line(int(is_call), int(is_unknown), usage or _NOTHING, unpriced=int(is_unknown))
        with self._lock:
            self._lines[key] = self._lines.get(key, _Line()) + line
            if usage is not None and usage.total_tokens:
                self._unpriced.append(_Unpriced(key, usage, service_tier, clock.wall()))
                if len(self._unpriced) >= _MAX_UNPRICED:
                    self._price_all()

    def _price_all(self) -> None:
        for key, usage, service_tier, at_seconds in self._unpriced:
            model, operation = key
            at = datetime.fromtimestamp(at_seconds, UTC)
            cost_usd = price(usage, model, at=at, operation=operation, service_tier=service_tier)
            line = _Line(unpriced=1) if cost_usd is None else _Line(cost_usd=cost_usd)
            self._lines[key] = self._lines[key] + line
        self._unpriced.clear()

    def _snapshot(self, *, is_priced: bool = False) -> dict[_Key, _Line]:
        with self._lock:
            if is_priced:
                self._price_all()
            return dict(self._lines)

    def _sum(self) -> _Line:
        return sum(self._snapshot().values(), _Line())

    def _priced_sum(self) -> _Line:
        return sum(self._snapshot(is_priced=True).values(), _Line())

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what was counted; the copy counts on by itself."""
        return {"_lines": self._snapshot(is_priced=True)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_lines"])  # type: ignore[misc]

    def __repr__(self) -> str:
        line = self._sum()
        unknown = f", unknown={line.unknown}" if line.unknown else ""
        return (
            f"UsageReport(calls={line.calls}, input_tokens={line.usage.input_tokens}, "
            f"output_tokens={line.usage.output_tokens}, total_tokens={line.usage.total_tokens}{unknown})"
        )


_MAX_UNPRICED = 256  # so many calls wait for their price at most: memory stays bounded
