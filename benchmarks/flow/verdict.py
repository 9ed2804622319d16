"""The verdict over ours: which of a scenario's bounds are missed.

Invariant: a run without a single miss passes; there is no rounding in its favour. It runs nothing.
"""

from __future__ import annotations

from flow.run import Outcome
from flow.scenario import Scenario
from flow.server import Served

_FOLLOWED_SHARE = 0.10  # what a second's rate may be off: it is counted in whole requests


def misses(outcome: Outcome) -> list[str]:
    """Return the bounds that a run of ours misses, in words."""
    bound, found = outcome.scenario.bound, []
    if outcome.lost or outcome.wrong:
        found.append(f"{outcome.lost} lost, {outcome.wrong} wrong")
    if bound.floor_ratio is not None and outcome.floor_ratio > bound.floor_ratio:
        found.append(f"{outcome.floor_ratio:.3f} > {bound.floor_ratio} x floor")
    share = outcome.rejections / outcome.items
    if bound.rejected_share is not None and share > bound.rejected_share:
        found.append(f"{share:.1%} > {bound.rejected_share:.1%} rejected")
    billed = outcome.served.billed if outcome.served else 0
    if outcome.scenario.faults is not None and billed != outcome.answered:
        found.append(f"{billed} paid for {outcome.answered} answers")
    if bound.fault_free_rate is not None and outcome.fault_free_seconds is not None:
        rate = outcome.fault_free_seconds / outcome.seconds
        if rate < bound.fault_free_rate:
            found.append(f"{rate:.2f} < {bound.fault_free_rate} x the fault-free rate")
    if bound.is_followed and outcome.served is not None:
        found += [
            f"{rate:.0f} a second where {limit:.0f} are allowed"
            for rate, limit in followed(outcome.scenario, outcome.served)
            if abs(rate / limit - 1) > _FOLLOWED_SHARE
        ]
    return found


def followed(scenario: Scenario, served: Served) -> list[tuple[float, float]]:
    """Return what was asked for in the third second after each change, and what was allowed, a second."""
    rates = []
    for moment, (_, limits) in zip(served.changed_at, scenario.changes, strict=False):
        asked = sum(moment + 2 <= at < moment + 3 for at in served.arrived_at)
        rates.append((float(asked), (limits.requests_per_minute or 0) / 60))
    return rates
