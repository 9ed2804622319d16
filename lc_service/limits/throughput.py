"""What came through of late: the only word of a server that tells no limit.

A ring of short spans, so that adding and reading take the same time whatever the rate. Pure.
"""

from __future__ import annotations

_SPANS = 8


class Throughput:
    """Units over the last eight spans; not thread-safe.

    Args:
        span_seconds: The length of one.
    """

    __slots__ = ("_began_at", "_span", "_span_seconds", "_spans")

    def __init__(self, span_seconds: float) -> None:
        self._span_seconds = span_seconds
        self._spans = [0.0] * _SPANS
        self._span: int | None = None
        self._began_at = 0.0

    def add(self, units: float, now: float) -> None:
        """Take note of `units` that came through at `now`."""
        self._advance(now)
        self._spans[int(now / self._span_seconds) % _SPANS] += units

    def rate_per_second(self, now: float, least_units: float = 0.0) -> float | None:
        """Return units a second; None where less than a span was seen, or less than `least_units`."""
        if self._span is None:
            return None
        self._advance(now)
        span_seconds = self._span_seconds
        seen_seconds = min(now - self._began_at, (_SPANS - 1) * span_seconds + now % span_seconds)
        units = sum(self._spans)
        return units / seen_seconds if seen_seconds >= span_seconds and units >= least_units else None

    def units(self, now: float) -> float:
        """Return the sum."""
        if self._span is not None:
            self._advance(now)
        return sum(self._spans)

    def _advance(self, now: float) -> None:
        span = int(now / self._span_seconds)
        if self._span is None:
            self._span, self._began_at = span, now
            return
        if span - self._span >= _SPANS:
            # nothing for as long as is remembered: what comes now begins anew
            self._spans = [0.0] * _SPANS
            self._began_at = now
        else:
            for passed in range(self._span + 1, span + 1):
                self._spans[passed % _SPANS] = 0.0
        self._span = max(span, self._span)
