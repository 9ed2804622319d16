"""One bucket of a rate limit: how full it is, and when something fits.

Invariant: between two takes the level only rises, at the rate and up to the capacity. Time is an argument; it
decides over nothing.
"""

from __future__ import annotations

TOLERANCE = 1e-6
"""Requests or tokens; forgives float error after a client waited exactly."""


class Bucket:
    """A level that refills at a constant rate up to a capacity; it may go into debt.

    Args:
        capacity: Units it holds when full.
        rate_per_second: Units it gains a second.
        now: Time at which it is full.
    """

    __slots__ = ("capacity", "level", "rate_per_second", "updated_at")

    def __init__(self, capacity: float, rate_per_second: float, now: float) -> None:
        self.capacity = capacity
        self.rate_per_second = rate_per_second
        self.level = capacity
        self.updated_at = now

    def fill_like(self, other: Bucket) -> None:
        """Become as full, or as deep in debt, as `other` is, each by its own capacity."""
        self.level = other.level / other.capacity * self.capacity

    def refill(self, now: float) -> None:
        """Add what has accrued until `now`; a clock that went back adds nothing."""
        elapsed = now - self.updated_at
        if elapsed > 0:
            self.level = min(self.capacity, self.level + elapsed * self.rate_per_second)
            self.updated_at = now

    def seconds_until(self, units: float) -> float:
        """Return the time until `units` fit; more than the capacity fit when it is full."""
        missing = min(units, self.capacity) - self.level
        return missing / self.rate_per_second if missing > TOLERANCE else 0.0

    @property
    def seconds_until_full(self) -> float:
        """Time until the bucket is full if nothing is taken."""
        return max(0.0, (self.capacity - self.level) / self.rate_per_second)
