"""The floor: the shortest time in which a server that enforces its limits can answer all items.

Invariant: no client can be faster, whatever it knows. It measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lc_service.simulator import ServerLimits


def floor_seconds(
    limits: ServerLimits | None,
    *,
    requests: int,
    tokens: float,
    latency_seconds: float,
    concurrency: int,
    changes: Sequence[tuple[float, ServerLimits]] = (),
) -> float:
    """Return the time that limits and latency need.

    What exceeds the first burst comes at the limit's rate; the last of it then takes the latency. Without
    limits the latency alone counts, of as many rounds as the calls in flight need.

    Args:
        limits: The limits at the beginning.
        requests: Items.
        tokens: What the token limit charges for all of them.
        latency_seconds: What the server takes to answer.
        concurrency: Calls in flight at once.
        changes: (seconds after the first request, limits from then on), in order.
    """
    rounds = math.ceil(requests / concurrency) * latency_seconds
    phases = [(0.0, limits or ServerLimits()), *changes]
    by_requests = _seconds_to_admit(requests, [(at, one.requests_per_minute, one) for at, one in phases])
    by_tokens = _seconds_to_admit(tokens, [(at, one.tokens_per_minute, one) for at, one in phases])
    return max(rounds, by_requests + latency_seconds, by_tokens + latency_seconds)


def _seconds_to_admit(units: float, phases: Sequence[tuple[float, float | None, ServerLimits]]) -> float:
    first = phases[0]
    if first[1] is None:
        return 0.0
    left = units - first[1] / 60 * first[2].burst_seconds
    ends = [at for at, _, _ in phases[1:]] + [math.inf]
    for (at, per_minute, limits), end in zip(phases, ends, strict=True):
        if left <= 0:
            return at
        if per_minute is None:
            return at
        rate = per_minute / 60 * (1 - limits.neighbour_share)
        if left <= rate * (end - at):
            return at + left / rate
        left -= rate * (end - at)
    raise AssertionError("the last phase has no end")
