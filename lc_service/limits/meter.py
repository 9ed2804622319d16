"""One limit, of requests or of tokens: how long until something may be sent, and what is learned of it.

Two buckets must agree, and the user's own where there is one: the server's as its headers show it, and the
client's own pace. Where the headers leave room and the server rejects, they are not the whole truth, and what
came through sets the pace. Pure.
"""

from __future__ import annotations

import math

from lc_service.limits.congestion import Congestion
from lc_service.limits.mirror import MIN_TOKEN_RATIO, Mark, Mirror
from lc_service.limits.pace import Pace
from lc_service.limits.told import Dimension, Told

_BELIEVED_SECONDS = 60.0
"""How long a limit keeps requests from being sent: only an answer tells that it was raised."""

_UNDERRECKONED = 4.0
"""How many times its tokens a request may be charged, where a rejection's headers leave room for it."""


class Meter:
    """What is known of one limit; not thread-safe.

    Args:
        dimension: `"requests"` or `"tokens"`.
        cap_per_minute: The user's own limit; None for none.
        now: The time.
    """

    __slots__ = (
        "_admitted", "_cap", "_cap_per_second", "_congestion", "_doubted_at", "_sent", "_told_at",
        "cap_per_minute", "dimension", "mirror", "pace",
    )  # fmt: skip

    def __init__(self, dimension: Dimension, cap_per_minute: float | None, now: float) -> None:
        self.dimension = dimension
        self.cap_per_minute = cap_per_minute
        self.mirror: Mirror | None = None
        smallest = 1.0 if dimension == "requests" else 0.0
        self.pace = Pace(smallest)
        self._cap = Pace(smallest)
        self._cap_per_second = None if cap_per_minute is None else cap_per_minute / 60
        self._congestion = Congestion()
        self._doubted_at = -math.inf
        self._admitted = 0.0
        self._sent = 0.0
        self._told_at = -math.inf
        if self._cap_per_second is not None:
            self._cap.set_rate(self._cap_per_second, 0.0, now)

    @property
    def is_paced(self) -> bool:
        """Whether there is a rate to keep to."""
        return self.pace.rate_per_second is not None or self._cap_per_second is not None

    def told_limit(self, now: float) -> float | None:
        """Return the server's limit a minute, or None where no answer has told it of late."""
        is_recent = now - self._told_at <= _BELIEVED_SECONDS
        return self.mirror.limit if self.mirror is not None and is_recent else None

    def seconds_until(self, units: float, now: float) -> float:
        """Return the time until `units` may be sent."""
        # The user's own limit is in the user's units, whatever the server charges for one.
        return max(self._cap.seconds_until(units, now), self._learned_seconds_until(units, now))

    def _learned_seconds_until(self, units: float, now: float) -> float:
        found = self._congestion.rate_per_second(now)
        if self.pace.rate_per_second is not None or found is not None:
            self._follow(found, now)
        mirror = self.mirror
        if mirror is None:
            return self.pace.seconds_until(units, now)
        server_seconds = mirror.seconds_until(units, now)
        if found is None and self._is_exact(mirror, now):
            return server_seconds
        if server_seconds > 0:
            return max(server_seconds, self.pace.seconds_until(units * mirror.ratio, now))
        return min(self.pace.seconds_until(units * mirror.ratio, now), self._seconds_until_trial(mirror, now))

    def _is_exact(self, mirror: Mirror, now: float) -> bool:
        """Whether the server tells of a bucket so small, and told so lately, that no pace is needed."""
        is_small = self._cap_per_second is None and mirror.capacity <= self.pace.capacity
        return is_small and mirror.is_fresh(now)

    def _seconds_until_trial(self, mirror: Mirror, now: float) -> float:
        """Return the time until one may go ahead of the pace, where the server says that it has more."""
        has_more = self._cap_per_second is None and mirror.capacity > self.pace.capacity
        if not has_more or self._congestion.rate_per_second(now) is not None:
            return math.inf
        return self.pace.seconds_until_trial(now)

    def found_per_second(self, now: float) -> float | None:
        """Return the rate that was found by meeting its end; None where none was."""
        return self._congestion.rate_per_second(now)

    def take(self, units: float, now: float, *, may_try: bool = True) -> Mark:
        """Admit something of `units`; what it returns is to be shown when that is sent, and answered.

        Args:
            units: What it is charged.
            now: The time.
            may_try: Whether it is a trial where it goes ahead of the pace.
        """
        self._admitted += units
        self._cap.take(units, now)
        ratio = 1.0
        is_trial = False
        if self.mirror is not None:
            ratio = self.mirror.ratio
            is_trial = may_try and self.pace.seconds_until(units * ratio, now) > 0
            self.mirror.take(units, now)
        if is_trial:
            self.pace.begin_trial()
        else:
            self.pace.take(units * ratio, now)
            if self.mirror is not None and self._is_exact(self.mirror, now):
                self.pace.catch_up(self.mirror.level)
        return Mark(units, is_trial, now)

    def send(self, mark: Mark, now: float) -> Mark:
        """Take note that it goes out now: with many admitted at once, the last does so much later."""
        if mark.is_sent:
            return mark
        self._sent += mark.cost
        return mark._replace(at=now, sent=self._sent, is_sent=True)

    def see(self, told: Told, mark: Mark, now: float, *, is_last: bool = False) -> None:
        """Learn from a response's headers.

        Args:
            told: What they tell.
            mark: The request that is answered.
            now: The time.
            is_last: Whether every request that went out has been answered now.
        """
        if self.mirror is None:
            # a request is one request; of tokens, servers have ideas of their own
            least_ratio = 1.0 if self.dimension == "requests" else MIN_TOKEN_RATIO
            self.mirror = Mirror(told, mark, self._admitted, now, least_ratio=least_ratio)
        else:
            if told.limit > self.mirror.limit:
                self._congestion.forget()  # a new limit: what was found of the old one is void
            self.mirror.see(told, mark, self._admitted, now)
        self.mirror.look_at_all(told, mark, self._admitted - self._sent if is_last else None, now)
        self._follow(self._congestion.rate_per_second(now), now)
        self._told_at = now

    def forget_round(self) -> None:
        """Take note that a request ended and nobody was told what it took."""
        if self.mirror is not None:
            self.mirror.forget_round()

    def _follow(self, found: float | None, now: float) -> None:
        """Set the pace by the least rate that is known."""
        told = math.inf if self.mirror is None else self.mirror.rate_per_second
        if found is not None and found >= min(told, self._cap_per_second or math.inf):
            self._congestion.forget()  # it is not what holds the pace back any more
            found = None
        rate = told if found is None else found
        if rate < math.inf:
            self.pace.set_rate(rate, self._admitted, now)
        else:
            self.pace.rate_per_second = None

    def admitted(self, mark: Mark, now: float) -> None:
        """Take note that a request came through."""
        self._congestion.admitted(mark.cost, now)
        if mark.is_trial:
            self.pace.end_trial(mark.cost, is_admitted=True, now=now)

    def void(self, mark: Mark, now: float) -> None:
        """Take note that a request ended and tells nothing of this limit."""
        if mark.is_trial:
            self.pace.end_trial(mark.cost, is_admitted=False, now=now)

    def rejected(self, mark: Mark, told: Told | None, now: float) -> None:
        """Learn from a rejection that is this limit's.

        Args:
            mark: The request that was rejected.
            told: What the rejection's own headers tell.
            now: The time.
        """
        was_trying = self.pace.is_trying
        self.void(mark, now)
        if self.mirror is not None:
            self.mirror.forget_look()
            may_cost_more = self.dimension == "tokens" and self._is_exact(self.mirror, now)
            most = _UNDERRECKONED if may_cost_more else 1.0
            if told is not None and told.remaining < mark.cost * self.mirror.ratio * most:
                self.mirror.rejected(mark, now)
                return  # as its headers say: the level has been corrected by them
        if self.mirror is not None and was_trying:
            if mark.at >= self._doubted_at:
                self._doubted_at = now
                self.pace.doubt(now)
        elif self._congestion.rejected(mark.cost, mark.at, self._kept_per_second, now):
            self.pace.shorten()
            self._follow(self._congestion.rate_per_second(now), now)

    @property
    def _kept_per_second(self) -> float | None:
        rates = (self.pace.rate_per_second, self._cap_per_second)
        return min((rate for rate in rates if rate is not None), default=None)

    def give_back(self, units: float) -> None:
        """Return what was charged and not used; to the server's bucket its own headers return it."""
        self._cap.give_back(units)
        if self.mirror is None:
            self.pace.give_back(units)
