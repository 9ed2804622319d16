"""`Hedge`, the rules of second requests, and the pace at which a model's calls may send them.

Invariant: no more second requests than the allowance that calls have earned. Sends nothing, and waits for
nothing.
"""

from __future__ import annotations

import math
import os
import re
import threading
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

REMEMBERED_LATENCIES = 256
MIN_LATENCIES = 20
MAX_SAVED_REQUESTS = 10.0
QUIET_SECONDS = 10.0
"""How long after a rate limit's rejection nothing is sent that is not needed."""

_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")


@dataclass(frozen=True, kw_only=True)
class Hedge:
    """When to send a request a second time because the first one is slow; the first good answer is taken.

    Both requests are paid for and counted, the loser as unknown where it was cancelled before its answer.
    For `invoke`, `ainvoke` and their batches: streams are not hedged, nor are retries and embeddings.

    Args:
        after: Seconds without an answer; or a quantile of the recent latencies of this endpoint and model,
            such as `"p95"`, which nothing is hedged by before 20 answers have come. Where `max_extra` is less
            than the share that such a quantile leaves, the quantile is as much later: `"p95"` with 0.02 is
            the p98, so that the extra requests go to the slowest.
        max_extra: Second requests for each call so far, at most: 0.02 is one for every 50 calls, the first of
            them for the 50th. Up to 10 are saved up.

    Raises:
        ValueError: A value is out of range; the message names it.
    """

    after: str | float = "p95"
    max_extra: float = 0.02

    def __post_init__(self) -> None:
        is_seconds = not isinstance(self.after, str) and _is_number(self.after) and 0 <= self.after < math.inf
        if not is_seconds and self.quantile is None:
            raise ValueError(f'after must be seconds or a quantile such as "p95", not {self.after!r}.')
        if not (_is_number(self.max_extra) and 0 < self.max_extra <= 1):
            raise ValueError(f"max_extra must be above 0 and at most 1, not {self.max_extra!r}.")

    @property
    def quantile(self) -> float | None:
        """The share of answers that are waited for; None where `after` is in seconds."""
        match = _QUANTILE.fullmatch(self.after) if isinstance(self.after, str) else None
        return None if match is None or not float(match[1]) else float(match[1]) / 100


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Pace:
    """How late is late, and how many second requests may go: of one endpoint and model. Thread-safe.

    Args:
        rules: The user's.
    """

    def __init__(self, rules: Hedge) -> None:
        quantile = rules.quantile
        self._share = None if quantile is None else max(quantile, 1 - rules.max_extra)
        self._seconds = rules.after if isinstance(rules.after, (int, float)) else None
        self._earned = rules.max_extra
        self._allowance = 0.0
        self._quiet_until = -math.inf
        self._ring: deque[float] = deque()
        self._sorted: list[float] = []
        self._lock = threading.Lock()

    def begin(self, now: float) -> float | None:
        """Take note of a call.

        Returns:
            Seconds after which a second request may be sent; None where it may not.
        """
        with self._lock:
            self._allowance = min(self._allowance + self._earned, MAX_SAVED_REQUESTS)
            return self._after_seconds() if self._may_send(now) else None

    def take(self, now: float) -> bool:
        """Use up a second request, and say whether there was one."""
        with self._lock:
            if not self._may_send(now):
                return False
            self._allowance -= 1
            return True

    def give_back(self) -> None:
        """Take note that it was not sent."""
        with self._lock:
            self._allowance += 1

    def answered(self, latency_seconds: float) -> None:
        """Learn from an attempt that was answered; of two requests, since the first one began."""
        with self._lock:
            if len(self._ring) == REMEMBERED_LATENCIES:
                del self._sorted[bisect_left(self._sorted, self._ring.popleft())]
            self._ring.append(latency_seconds)
            insort(self._sorted, latency_seconds)

    def rejected(self, now: float) -> None:
        """Take note that a rate limit was met."""
        with self._lock:
            self._quiet_until = now + QUIET_SECONDS

    def _may_send(self, now: float) -> bool:
        # Fifty times 0.02 comes to a little less than 1.
        return now >= self._quiet_until and self._allowance >= 1 - 1e-9

    def _after_seconds(self) -> float | None:
        if self._share is None:
            return self._seconds
        if len(self._sorted) < MIN_LATENCIES:
            return None
        return self._sorted[math.ceil(self._share * len(self._sorted)) - 1]


_MAX_PACES = 1_024
_paces: dict[tuple[Hedge, str, str], Pace] = {}


def pace_for(rules: Hedge, *, endpoint: str, model: str) -> Pace:
    """Return the pace that all with the same arguments share in this process. Thread-safe.

    Args:
        rules: The user's.
        endpoint: The API's base URL.
        model: The name that is asked for.
    """
    key = (rules, endpoint, model)
    pace = _paces.get(key)
    if pace is None:
        pace = _paces.setdefault(key, Pace(rules))  # of threads that meet here one wins
        while len(_paces) > _MAX_PACES:
            _paces.pop(next(iter(_paces)), None)
    return pace


def forget() -> None:
    """Forget all latencies and allowances, for tests and for measurements that start anew."""
    _paces.clear()


if hasattr(os, "register_at_fork"):  # the locks of the parent's threads may not be free here
    os.register_at_fork(after_in_child=forget)
