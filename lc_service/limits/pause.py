"""When a rejection holds everybody back: for as long as it says, or, where it says nothing, until a proof.

Invariant: ends at once when a request that was sent later comes through. In the dark it doubles with each
request that meets the same end. Then, and where more was asked for than is kept, one goes after each. Pure.
"""

from __future__ import annotations

import random

from lc_service.limits.mirror import OVERTAKING_SECONDS, Mark

MAX_PAUSE_SECONDS = 60.0
"""The longest pause that a single Retry-After is worth: after it, it is asked again."""
_FIRST_DARK_SECONDS, _MAX_DARK_SECONDS = 0.1, 5.0
"""Some servers count by the minute of the clock and say neither when it ends nor, in a 429, anything."""
_RELEASE_JITTER = 0.1
"""Share of a pause by which clients that were told the same pause are spread out after it."""


class Pause:
    """Everybody's pause; not thread-safe.

    Args:
        now: The time.
    """

    __slots__ = ("_by", "_dark_at", "_dark_seconds", "_is_cut", "_until")

    def __init__(self, now: float) -> None:
        self._until = now
        self._by: Mark | None = None
        self._dark_seconds = 0.0
        self._dark_at = now
        self._is_cut = False

    @property
    def until(self) -> float:
        """When it is over."""
        return self._until

    @property
    def is_dark(self) -> bool:
        """Whether requests meet an end of which nothing is told."""
        return self._dark_seconds > _FIRST_DARK_SECONDS

    def seconds_left(self, now: float, *, is_retry: bool) -> float:
        """Return how long to wait, 0 or less for not at all.

        A retry has waited by itself for as long as the server asked; in the dark nobody asked for anything.
        """
        return 0.0 if is_retry and not self.is_dark else self._until - now

    def begin(self, seconds: float, mark: Mark, now: float) -> None:
        """Hold everybody back because the request of `mark` was told to wait."""
        self._is_cut = self._is_cut or seconds > MAX_PAUSE_SECONDS
        seconds = min(seconds, MAX_PAUSE_SECONDS)
        seconds *= 1 + _RELEASE_JITTER * random.random()  # noqa: S311  jitter, not cryptography
        self._until = max(self._until, now + seconds)
        if self._by is None or mark.at > self._by.at:
            self._by = mark

    def begin_dark(self, mark: Mark, now: float) -> None:
        """Hold everybody back because the request of `mark` was rejected, and nothing tells for how long."""
        if not self._dark_seconds or mark.at >= self._dark_at:  # else it met the same end as the last one
            self._dark_seconds = min(max(_FIRST_DARK_SECONDS, 2 * self._dark_seconds), _MAX_DARK_SECONDS)
            self._dark_at = now
        self.begin(self._dark_seconds, mark, now)

    def let_go(self, now: float) -> None:
        """Take note that a request is let go: in the dark, or too soon, and the next goes a pause later."""
        if self._is_cut:
            self._until = max(self._until, now + MAX_PAUSE_SECONDS)
        elif self.is_dark:
            self._until = max(self._until, now + self._dark_seconds)

    def prove(self, mark: Mark, now: float) -> None:
        """End it where the request of `mark` came through, and was sent after the one that was rejected."""
        if self._by is not None and mark.at > self._by.at + OVERTAKING_SECONDS:
            self._by = None
            self._until = now
            self._dark_seconds = 0.0
            self._is_cut = False
