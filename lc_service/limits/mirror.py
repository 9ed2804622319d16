"""A server's bucket as its headers show it: what is left there now, between one response and the next.

Invariant: what was sent after the request that a response answers is off the level already. Requests
overtake each other, so the level goes down by any response and up by what all of a while agree on.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from lc_service.limits.told import Told

MIN_TOKEN_RATIO, _MAX_RATIO = 0.02, 32.0
_RATIO_LOOK_SECONDS, _RATIO_SECONDS = 1.0, 4.0
"""How long, and how far back, it is looked for what the server charges."""
_RATIO_LOOK_SHARE = 0.75
"""Of the time that fills the bucket: a look as long as that would always find that it may have run over."""
_RATIO_PRIOR_SECONDS = 0.1
_LOOK_SECONDS = 0.25
"""How long responses are looked at before the level is raised."""
OVERTAKING_SECONDS = 0.05
"""How much later a request may come to the server than one that was sent after it."""
_SURPRISE_RATIO = 1.25
_ENOUGH = 1e-6
"""Units that are not worth a wait."""

_MARGIN_SECONDS, _MAX_MARGIN_SECONDS = 0.01, 0.2
_MARGIN_CALMS_SECONDS = 30.0
_WHOLE_UNITS_FROM = 20
"""Capacity from which the fraction that `remaining` hides is kept free."""


class Mark(NamedTuple):
    """Where the count of what was sent stood when a request went out.

    Attributes:
        cost: The request's own units.
        is_trial: Whether it was sent to learn if the server lets more through than the pace.
        at: When it went out; until then, when it was admitted.
        sent: Units sent until then, its own included.
        is_sent: Whether it went out.
    """

    cost: float
    is_trial: bool
    at: float
    sent: float = 0.0
    is_sent: bool = False


class Mirror:
    """The level of one limit of a server; not thread-safe.

    Units are what this client reckons; `ratio` makes the server's of them, which may charge a request more
    or less, and whose other clients drink from the same bucket.

    Attributes:
        rate_per_second: Units that come back in a second.
        capacity: Units that it holds when full, as far as is known.
        ratio: Server's units for one of ours.
        limit: The limit as it was told.
        level: Server's units that are left, as of the last look.
    """

    def __init__(self, told: Told, mark: Mark, admitted: float, now: float, *, least_ratio: float) -> None:
        self.ratio = 1.0
        self._least_ratio = least_ratio
        self._margin_seconds = _MARGIN_SECONDS
        self._taken = self._sent = 0.0
        self._adopt(told)
        self._seen: tuple[Mark, float] | None = (mark, told.remaining)
        self._updated_at = self._look_began_at = self._surprised_at = now
        self._least_off = math.inf
        self._newest_at = mark.at
        self._full_at = -math.inf
        self._least_told = math.inf
        self.level = self._estimate(told.remaining, mark, admitted, now)

    def _adopt(self, told: Told) -> None:
        self.limit = told.limit
        self.rate_per_second = told.rate_per_second
        self.capacity = told.capacity

    def see(self, told: Told, mark: Mark, admitted: float, now: float) -> None:
        """Correct the level by a response.

        Args:
            told: What it tells.
            mark: The request that it answers.
            admitted: Units that have been sent by now, or are about to be.
            now: The time.
        """
        if told.limit != self.limit:
            self._adopt(told)
            self._seen = None
        else:
            self.rate_per_second = told.rate_per_second
            self.capacity = max(told.remaining, min(self.capacity, told.capacity))
        self._learn_ratio(told.remaining, mark)
        self._refill(now)
        off = self._estimate(told.remaining, mark, admitted, now) - self.level
        if off < 0:
            self.level += off
        elif mark.at < max(self._newest_at - OVERTAKING_SECONDS, self._full_at):
            return  # an old picture: too much may have happened, or run over, since
        self._newest_at = max(self._newest_at, mark.at)
        self._raise(max(0.0, off), now)

    def look_at_all(self, told: Told, mark: Mark, unsent: float | None, now: float) -> None:
        """Correct the level by the least that a round of requests told, once all of them are answered.

        In which order they came to the server does not matter then.

        Args:
            told: What the response tells.
            mark: The request that it answers.
            unsent: Units admitted that have not gone out; None while some that have are not answered.
            now: The time.
        """
        self._least_told = min(self._least_told, told.remaining - mark.at * self.rate_per_second)
        if unsent is not None:
            level = self._least_told + now * self.rate_per_second - unsent * self.ratio
            self._refill(now)
            self._least_told = math.inf
            if (level := min(level, self.capacity + self.margin)) > self.level:
                self.level = level
                self._least_off = math.inf  # else it would be raised by the same once more

    def forget_round(self) -> None:
        """Take note that of this round something stays unanswered: nobody knows whether it was taken."""
        self._least_told = -math.inf

    def _raise(self, off: float, now: float) -> None:
        if self._least_off == math.inf:  # after a quiet time, one picture is no agreement
            self._look_began_at = now
        self._least_off = min(self._least_off, off)
        if now - self._look_began_at >= _LOOK_SECONDS:
            self.level += self._least_off
            self._least_off = math.inf

    def _estimate(self, remaining: float, mark: Mark, admitted: float, now: float) -> float:
        """Return the level now of a bucket that had `remaining` when the request of `mark` came."""
        level = remaining + (now - mark.at) * self.rate_per_second - (admitted - mark.sent) * self.ratio
        return min(level, self.capacity + self.margin)

    def _learn_ratio(self, remaining: float, mark: Mark) -> None:
        if self._seen is None:
            self._seen = (mark, remaining)
        seen, before = self._seen
        elapsed_seconds = mark.at - seen.at
        if elapsed_seconds < self._ratio_look_seconds:
            return
        self._seen = (mark, remaining)
        refilled = before + elapsed_seconds * self.rate_per_second
        kept = math.exp(-elapsed_seconds / _RATIO_SECONDS)
        self._taken *= kept
        self._sent *= kept
        # An empty bucket may hide a debt, and a full one what ran over.
        if before and remaining and refilled <= self.capacity and mark.sent > seen.sent:
            self._taken += refilled - remaining
            self._sent += mark.sent - seen.sent
        self._reckon_ratio()

    def _reckon_ratio(self) -> None:
        ratio = (self._taken + self._prior) / (self._sent + self._prior)
        self.ratio = min(max(ratio, self._least_ratio), _MAX_RATIO)

    @property
    def _ratio_look_seconds(self) -> float:
        if self._least_ratio >= 1:  # only neighbours make a request cost more: no hurry to make room for them
            return _RATIO_LOOK_SECONDS
        return min(_RATIO_LOOK_SECONDS, _RATIO_LOOK_SHARE * self.capacity / self.rate_per_second)

    @property
    def _prior(self) -> float:
        return 1 + _RATIO_PRIOR_SECONDS * self.rate_per_second

    def rejected(self, mark: Mark, now: float) -> None:
        """Take note that the server had less than was thought: others take from it, or it charges more.

        More is kept free for a while, and once for all that was sent before the last time, more is reckoned.
        """
        self.forget_look()
        self._margin_seconds = min(self._margin_seconds * 1.5, _MAX_MARGIN_SECONDS)
        if mark.at >= self._surprised_at:
            self._surprised_at = now
            self._taken += (_SURPRISE_RATIO - 1) * (self._taken + self._prior)
            self._reckon_ratio()

    def forget_look(self) -> None:
        """Take note that something was rejected: it was sent, and not taken."""
        self._seen = None

    def is_fresh(self, now: float) -> bool:
        """Whether the bucket cannot have run over since the newest picture of it."""
        return (now - self._newest_at) * self.rate_per_second <= self.capacity

    @property
    def margin(self) -> float:
        """Units that are kept free."""
        whole = 1.0 if self.capacity >= _WHOLE_UNITS_FROM else 0.0
        return self._margin_seconds * self.rate_per_second + whole

    def take(self, units: float, now: float) -> None:
        """Send something that is charged `units` of ours."""
        self._refill(now)
        self.level -= units * self.ratio

    def seconds_until(self, units: float, now: float) -> float:
        """Return the time until `units` of ours fit; what is larger than the bucket fits when it is full."""
        self._refill(now)
        missing = min(units * self.ratio, self.capacity) + self.margin - self.level
        return missing / self.rate_per_second if missing > _ENOUGH else 0.0

    def _refill(self, now: float) -> None:
        elapsed_seconds = now - self._updated_at
        if elapsed_seconds <= 0:
            return
        self._updated_at = now
        full = max(self.level, self.capacity + self.margin)
        self.level += elapsed_seconds * self.rate_per_second
        if self.level >= full:
            self.level, self._full_at = full, now
            self._least_off = math.inf  # what it was off is made up for
        if self._margin_seconds > _MARGIN_SECONDS:
            calm = math.exp(-elapsed_seconds / _MARGIN_CALMS_SECONDS)
            self._margin_seconds = max(_MARGIN_SECONDS, self._margin_seconds * calm)
