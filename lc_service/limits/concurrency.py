"""How many attempts are under way at once: few at first, more while answers come as fast as before.

Invariant: grows only when it is what holds calls back; shrinks at most once in 15 seconds, never below 16.
Pure: time is an argument.
"""

from __future__ import annotations

from statistics import median

_FIRST = 4
_KNOWN = 64
"""Where the scaling by latency starts, and what a user's own number begins with."""
_MOST_BY_TIME = 1_024
"""How far it is doubled by the second where the server tells its limits: answers may take a minute."""
_LEAST, _MOST = 16, 4_096
_USED_SHARE = 0.8
_HOLDS, _BREAKS = 1.5, 3.0
"""Latency, relative to the best, up to which it grows, and from which it shrinks."""
_SHRINK = 0.8
_CAREFUL_GROWTH = 1.1
"""Once too many was seen, more are tried by the tenth, and no more by doubling."""
_SHRINK_EVERY_SECONDS = 15.0
_FORGET = 1.02
"""What the best latency is multiplied by at each look: servers change."""


class Concurrency:
    """The number of attempts that may be under way; not thread-safe.

    Args:
        most: The user's own limit, or None to find it.
        now: The time.
    """

    __slots__ = (
        "_best_seconds", "_first_at", "_growth", "_is_cautious", "_is_told", "_latencies", "_limit",
        "_most", "_shrunk_at", "in_flight",
    )  # fmt: skip

    def __init__(self, most: int | None, now: float) -> None:
        self.in_flight = 0
        self._most = most
        self._limit = _FIRST if most is None else min(most, _KNOWN)
        self._is_cautious = self._limit != most
        self._is_told = False
        self._growth = 2.0
        self._first_at: float | None = None
        self._latencies: list[float] = []
        self._best_seconds = float("inf")
        self._shrunk_at = now - _SHRINK_EVERY_SECONDS

    @property
    def limit(self) -> int:
        """Attempts that may be under way now."""
        return self._limit

    def seconds_until_room(self, now: float) -> float | None:
        """Return 0 where there is room, the time until there will be, or None where one must end first."""
        if self._first_at is None:
            self._first_at = now
        if self.in_flight < self._limit:
            return 0.0
        if self._limit >= self._most_by_time:
            return None
        # The first answers may take a minute, and nothing is known of latency yet: twice as many each second.
        first = _FIRST if self._is_cautious and self._most is None else _KNOWN
        doublings = 1
        while first << doublings <= self.in_flight:
            doublings += 1
        if (seconds := self._first_at + doublings - now) > 0:
            return seconds
        self._limit += 1
        return 0.0

    @property
    def _most_by_time(self) -> int:
        if self._most is not None:
            return self._most
        if self._is_cautious:
            return _KNOWN
        return _MOST_BY_TIME if self._is_told and self._growth > _CAREFUL_GROWTH else 0

    def enter(self) -> None:
        """Begin an attempt."""
        self.in_flight += 1

    def leave(self) -> None:
        """End an attempt."""
        self.in_flight -= 1

    def trust(self) -> None:
        """Take note that the server told its limits: they hold calls back better than caution does."""
        self._is_told = True
        if self._is_cautious:
            self._is_cautious = False
            self._limit = self._most or _KNOWN

    def answered(self, latency_seconds: float, now: float) -> None:
        """Take note of an answer while its attempt is still under way."""
        if self._is_cautious:
            self._limit += 1
            self._is_cautious = self._limit < (self._most or _KNOWN)
            return
        if self._most is not None or self.in_flight < self._limit * _USED_SHARE:
            return
        self._latencies.append(latency_seconds)
        if len(self._latencies) >= self._limit:
            self._scale(median(self._latencies), now)
            self._latencies.clear()

    def overloaded(self, sent_at: float, now: float) -> None:
        """Take note that the server is overloaded; at most one cut for what was sent before the last one."""
        if self._most is None and not self._is_cautious and sent_at > self._shrunk_at:
            self._shrink(now)

    def _scale(self, latency_seconds: float, now: float) -> None:
        self._best_seconds = min(self._best_seconds * _FORGET, latency_seconds)
        if latency_seconds <= self._best_seconds * _HOLDS:
            self._limit = min(int(self._limit * self._growth), _MOST)
        elif latency_seconds > self._best_seconds * _BREAKS:
            self._shrink(now)

    def _shrink(self, now: float) -> None:
        if now - self._shrunk_at >= _SHRINK_EVERY_SECONDS:
            self._shrunk_at = now
            self._limit = max(_LEAST, int(self._limit * _SHRINK))
            self._growth = _CAREFUL_GROWTH
