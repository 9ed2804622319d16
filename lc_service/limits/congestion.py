"""The rate that a server that does not tell its limit, or tells another one, seems to allow: AIMD on 429s.

Cut below what came through, then raised by a cubic curve that hurries back, lingers there, and only then
tries for more: CUBIC (RFC 9438) on rates, as the adaptive retry mode of the AWS SDKs. Pure.
"""

from __future__ import annotations

import math

from lc_service.limits.throughput import Throughput

_CUT = 0.85
_GROWTH = 0.01
"""Share of the rate by which it is off the plateau, one second before and after it."""
_PLATEAU_SECONDS = math.cbrt((1 - _CUT) / _GROWTH)

_SPAN_SECONDS, _LONG_SPAN_SECONDS = 0.25, 4.0
"""Two looks at what came through: of the last two seconds, and for slow limits of the last half minute."""
_TELLING_REQUESTS = 5
"""How many must have come through before a rate is read off them."""
_FEW_SHARE, _MOST_SHARE = 0.03, 0.3
"""Rejected for one that came through: fewer tell of no limit, and with more there is no time to lose."""
_CUT_EVERY_SECONDS = 0.5
_DEEPEST_CUT = 0.25
"""Of what came through in two seconds, burst included: the least that is gone on with for now."""
_FUTILE_AFTER_SECONDS, _FUTILE_SECONDS = 4.0, 30.0
"""Cut for so long, and as many rejected as ever: it is not the rate, and nothing is cut for a while."""


class Congestion:
    """A rate that is found by meeting its end; not thread-safe."""

    __slots__ = (
        "_cut_at", "_futile_since", "_ignored_until", "_plateau", "_rejected", "_through", "_through_long",
    )  # fmt: skip

    def __init__(self) -> None:
        self._rejected = Throughput(_SPAN_SECONDS)
        self._through = Throughput(_SPAN_SECONDS)
        self._through_long = Throughput(_LONG_SPAN_SECONDS)
        self._plateau: float | None = None
        self._cut_at = -math.inf
        self._futile_since = -math.inf
        self._ignored_until = -math.inf

    def admitted(self, units: float, now: float) -> None:
        """Take note of what came through."""
        self._through.add(units, now)
        self._through_long.add(units, now)

    def rejected(self, units: float, sent_at: float, rate_per_second: float | None, now: float) -> bool:
        """Take note of a rejection, and say whether it is one to go slower for.

        Args:
            units: What was rejected.
            sent_at: When it was sent: what was sent before a cut is the same congestion.
            rate_per_second: The rate that is kept to now.
            now: The time.
        """
        self._rejected.add(units, now)
        least = _TELLING_REQUESTS * units
        through = self._through.rate_per_second(now, least) or self._through_long.rate_per_second(now, least)
        if not (units and through) or sent_at < self._cut_at or now < self._ignored_until:
            return False  # a few that were rejected in a quiet time: the retry waits for them
        share = self._rejected.units(now) / max(self._through.units(now), units)
        since_seconds = now - self._cut_at
        if share < _FEW_SHARE or (share < _MOST_SHARE and since_seconds < _CUT_EVERY_SECONDS):
            return False
        if share < _MOST_SHARE or since_seconds > _PLATEAU_SECONDS:
            self._futile_since = now
        elif now - self._futile_since >= _FUTILE_AFTER_SECONDS:
            self._ignored_until = now + _FUTILE_SECONDS
            self.forget()
            return False
        self._cut_at = now
        rate = through if rate_per_second is None else min(through, rate_per_second)
        self._plateau = max(rate, _DEEPEST_CUT * through)
        return True

    def rate_per_second(self, now: float) -> float | None:
        """Return what to send a second at `now`; None where no end was met."""
        if self._plateau is None:
            return None
        off_seconds = now - self._cut_at - _PLATEAU_SECONDS
        found = self._plateau * (1 + _GROWTH * off_seconds**3)
        # Where less is asked for than allowed, nothing tells how much more would be.
        through = self._through_long.rate_per_second(now)
        return found if through is None else min(found, max(2 * through, self._plateau))

    def forget(self) -> None:
        """Keep to no rate, until the next end is met."""
        self._plateau = None
