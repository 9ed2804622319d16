"""How fast a client lets itself go: a bucket of its own that keeps bursts to what is known to be let through.

Servers enforce a minute's limit over spans as short as a second and tell of the minute only. So a burst is a
second's worth at first, and more where trials came through. Pure: time is an argument.
"""

from __future__ import annotations

import math

_FIRST_BURST_SECONDS = 1.0
_UNTOLD_BURST_SECONDS = 0.25
_ENOUGH = 1e-6
"""Units that are not worth a wait."""
_FIRST_TRIALS = 2
_DOUBT_SECONDS, _MAX_DOUBT_SECONDS = 60.0, 3_600.0


class Pace:
    """A bucket with a rate that may change; not thread-safe.

    Args:
        smallest: Units that it holds at least when full: what one request costs at least.
    """

    __slots__ = (
        "_burst_seconds", "_doubt_seconds", "_doubted_until", "_level", "_smallest", "_trials",
        "_trials_allowed", "_updated_at", "rate_per_second",
    )  # fmt: skip

    def __init__(self, smallest: float) -> None:
        self.rate_per_second: float | None = None
        self._smallest = smallest
        self._burst_seconds = _FIRST_BURST_SECONDS
        self._level = 0.0
        self._updated_at = 0.0
        self._trials = 0
        self._trials_allowed = _FIRST_TRIALS
        self._doubted_until = 0.0
        self._doubt_seconds = _DOUBT_SECONDS

    @property
    def capacity(self) -> float:
        """Units that go out at once after a pause; 0 while there is no rate."""
        return max(self._smallest, (self.rate_per_second or 0.0) * self._burst_seconds)

    def set_rate(self, rate_per_second: float, sent: float, now: float) -> None:
        """Go at this rate from now on.

        Args:
            rate_per_second: Units a second.
            sent: Units sent so far; what is off the first burst.
            now: The time.
        """
        if self.rate_per_second is None:
            self.rate_per_second = rate_per_second
            self._level = self.capacity - min(sent, self.capacity)
            self._updated_at = now
        else:
            self.refill(now)
            self.rate_per_second = rate_per_second
            self._level = min(self._level, self.capacity)

    def refill(self, now: float) -> None:
        """Add what has accrued until `now`."""
        elapsed_seconds = now - self._updated_at
        if elapsed_seconds > 0 and self.rate_per_second is not None:
            self._level = min(self.capacity, self._level + elapsed_seconds * self.rate_per_second)
            self._updated_at = now

    def seconds_until(self, units: float, now: float) -> float:
        """Return the time until `units` fit; what is larger than the burst fits when that is whole."""
        if self.rate_per_second is None:
            return 0.0
        self.refill(now)
        missing = min(units, self.capacity) - self._level
        return missing / self.rate_per_second if missing > _ENOUGH else 0.0

    def take(self, units: float, now: float) -> None:
        """Send `units`."""
        self.refill(now)
        if self.rate_per_second is not None:
            self._level -= units

    def give_back(self, units: float) -> None:
        """Return units that were taken and not used."""
        if self.rate_per_second is not None:
            self._level = min(self.capacity, self._level + units)

    def catch_up(self, level: float) -> None:
        """Hold at least `level`, which is known to be let through."""
        self._level = max(self._level, min(level, self.capacity))

    def begin_again(self) -> None:
        """Let nothing out that was saved up."""
        self._level = min(self._level, 0.0)

    # --- trials: more than the pace, where the server says that it has room

    def seconds_until_trial(self, now: float) -> float:
        """Return the time until a request may go ahead of the pace; endless while others must end first."""
        if self._trials >= self._trials_allowed:
            return math.inf
        return max(0.0, self._doubted_until - now)

    @property
    def is_trying(self) -> bool:
        """Whether trials are under way, or a burst larger than the first was learned by them."""
        return self._trials > 0 or self._burst_seconds > _FIRST_BURST_SECONDS

    def begin_trial(self) -> None:
        """Send one."""
        self._trials += 1

    def end_trial(self, units: float, *, is_admitted: bool, now: float) -> None:
        """Take note of a trial's end; each that came through allows for two, but in doubt proves nothing."""
        self._trials -= 1
        if is_admitted and self.rate_per_second is not None and now >= self._doubted_until:
            self._trials_allowed += 1
            self._burst_seconds += units / self.rate_per_second

    def doubt(self, now: float) -> None:
        """Believe no headers that promise more than the pace, for longer each time."""
        self._burst_seconds = _FIRST_BURST_SECONDS
        self._trials_allowed = _FIRST_TRIALS
        self._doubted_until = now + self._doubt_seconds
        self._doubt_seconds = min(self._doubt_seconds * 2, _MAX_DOUBT_SECONDS)
        self.begin_again()

    def shorten(self) -> None:
        """Allow half the burst: even that was too much."""
        self._burst_seconds = max(self._burst_seconds / 2, _UNTOLD_BURST_SECONDS)
        self.begin_again()
