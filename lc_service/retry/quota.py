"""A retry quota: retries are paid for by successes, so that an outage is not answered with a storm.

The token bucket of the AWS SDKs' standard retry mode. Rate limits draw nothing from it: there the server is
up and says itself when to come back.
"""

from __future__ import annotations

import threading
from typing import Any


class RetryQuota:
    """Count what retries may still cost; shared by every call of a policy. Thread-safe, never blocks.

    A retry takes `retry_cost` tokens; if it succeeds it gets them back. A call that succeeds at its first
    attempt returns one token. So while everything fails, `capacity / retry_cost` retries go out and then
    none; while some calls succeed, failing retries add at most one request for every `retry_cost` of
    those: 10 % with the defaults (AWS: capacity 500, cost 5, "Retry behavior", AWS SDKs Reference Guide).

    Args:
        capacity: Tokens in the bucket at the start and at most.
        retry_cost: Tokens that one retry takes.

    Raises:
        ValueError: `capacity` is below 0 or `retry_cost` below 1.
    """

    def __init__(self, *, capacity: int = 500, retry_cost: int = 10) -> None:
        if capacity < 0 or retry_cost < 1:
            raise ValueError(f"RetryQuota: {capacity=} must be at least 0 and {retry_cost=} at least 1.")
        self.capacity = capacity
        self.retry_cost = retry_cost
        self._available = capacity
        self._lock = threading.Lock()

    @property
    def available(self) -> int:
        """Tokens left, from 0 to `capacity`."""
        return self._available

    def take(self) -> bool:
        """Take one retry's tokens; False, and nothing taken, where there are too few."""
        with self._lock:
            if self._available < self.retry_cost:
                return False
            self._available -= self.retry_cost
            return True

    def give_back(self, retries: int) -> None:
        """Return what a successful call is worth: its last retry's tokens, or one for a first attempt.

        Args:
            retries: How many retries the call took from this quota.
        """
        with self._lock:
            worth = self.retry_cost if retries else 1
            self._available = min(self.capacity, self._available + worth)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the lock: another process has a quota of its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
