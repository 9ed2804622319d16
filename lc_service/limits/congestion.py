"""The rate that a server that does not tell its limit, or tells another one, seems to allow: AIMD on 429s.

Cut below what came through, then raised by a cubic curve that hurries back, lingers there, and only then
tries for more: CUBIC (RFC 9438) on rates, as the adaptive retry mode of the AWS SDKs. Pure.
"""

from __future__ import annotations

import math

_CUT = 0.85
_GROWTH = 0.01
"""Share of the rate by which it is off the plateau, one second before and after it."""
_PLATEAU_SECONDS = math.cbrt((1 - _CUT) / _GROWTH)


class Congestion:
    """A rate that was found by meeting its end; not thread-safe.

    Args:
        rate_per_second: What came through when the limit was met.
        now: When that was.
    """

    __slots__ = ("_met_at", "_plateau")

    def __init__(self, rate_per_second: float, now: float) -> None:
        self._plateau = rate_per_second
        self._met_at = now

    def rate_per_second(self, now: float) -> float:
        """Return what to send a second at `now`."""
        off_seconds = now - self._met_at - _PLATEAU_SECONDS
        return self._plateau * (1 + _GROWTH * off_seconds**3)
