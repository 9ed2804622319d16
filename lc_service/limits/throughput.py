"""What came through of late, in units a second: the only word of a server that tells no limit.

A ring of short spans, so that adding and reading take the same time whatever the rate. Pure.
"""

from __future__ import annotations

_SPAN_SECONDS = 0.25
_SPANS = 8


class Throughput:
    """Units over the last two seconds; not thread-safe."""

    __slots__ = ("_began_at", "_span", "_spans")

    def __init__(self) -> None:
        self._spans = [0.0] * _SPANS
        self._span: int | None = None
        self._began_at = 0.0

    def add(self, units: float, now: float) -> None:
        """Take note of `units` that came through at `now`."""
        self._advance(now)
        self._spans[int(now / _SPAN_SECONDS) % _SPANS] += units

    def rate_per_second(self, now: float) -> float | None:
        """Return units a second; None while nothing has been seen for a span yet."""
        if self._span is None:
            return None
        self._advance(now)
        seen_seconds = min(now - self._began_at, (_SPANS - 1) * _SPAN_SECONDS + now % _SPAN_SECONDS)
        return sum(self._spans) / seen_seconds if seen_seconds >= _SPAN_SECONDS else None

    def _advance(self, now: float) -> None:
        span = int(now / _SPAN_SECONDS)
        if self._span is None:
            self._span, self._began_at = span, now
            return
        if span - self._span >= _SPANS:
            # nothing for two seconds: what comes now begins anew
            self._spans = [0.0] * _SPANS
            self._began_at = now
        else:
            for passed in range(self._span + 1, span + 1):
                self._spans[passed % _SPANS] = 0.0
        self._span = max(span, self._span)
