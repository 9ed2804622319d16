"""What came of a run, in the figures that bounds are about.

Invariant: reads the log alone. It judges, and runs nothing but the world it is given.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

from simulation.scenario import Scenario
from simulation.world import Log, World

_FOLLOWED_SHARE = 0.10
_LOOK_SECONDS = 0.25


class Followed(NamedTuple):
    """How soon a change was followed; None where it never was."""

    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run.

    Attributes:
        floor_ratio: Time to the last answer over the least time possible.
        rejected_share: Rejections over items.
        lost: Items without an answer.
        followed: Of each change, in order.
        looks_share: Sleeps in line that ended, over items: what waiting costs a process.
    """

    scenario: Scenario
    seed: int
    floor_ratio: float
    rejected_share: float
    lost: int
    followed: tuple[Followed, ...]
    looks_share: float

    @property
    def misses(self) -> list[str]:
        """The bounds that it misses, in words; an item lost is one in every case."""
        bound, found = self.scenario.bound, []
        if self.lost:
            found.append(f"{self.lost} lost")
        if bound.floor_ratio is not None and self.floor_ratio > bound.floor_ratio:
            found.append(f"{self.floor_ratio:.3f} > {bound.floor_ratio} x floor")
        if bound.rejected_share is not None and self.rejected_share > bound.rejected_share:
            found.append(f"{self.rejected_share:.1%} > {bound.rejected_share:.1%} rejected")
        if bound.followed_seconds is not None:
            late = [
                one for one in self.followed if one.seconds is None or one.seconds > bound.followed_seconds
            ]
            found += ["a change followed too late"] * bool(late)
        return found


def run(scenario: Scenario, seed: int) -> Result:
    """Run a scenario once."""
    log = World(scenario, seed).run()
    last = max(log.answered, default=0.0)
    return Result(
        scenario=scenario,
        seed=seed,
        floor_ratio=last / scenario.floor_seconds(),
        rejected_share=len(log.rejected) / scenario.items,
        lost=scenario.items - len(log.answered),
        followed=tuple(_followed(scenario, log)),
        looks_share=log.looks / scenario.items,
    )


def _followed(scenario: Scenario, log: Log) -> list[Followed]:
    """Say when the first second ended in which as many came as the new limit allows, within 10 %."""
    asked = sorted([time for time, _ in log.admitted] + log.rejected)
    ends = [*(at for at, _ in scenario.changes[1:]), asked[-1]]
    found = []
    for (at, limits), end in zip(scenario.changes, ends, strict=False):
        allowed = (limits.requests_per_minute or 0.0) / 60 * (1 - limits.neighbour_share)
        began = at
        seconds = None
        while seconds is None and began + 1 <= end:
            count = bisect_left(asked, began + 1) - bisect_left(asked, began)
            if abs(count / allowed - 1) <= _FOLLOWED_SHARE:
                seconds = began + 1 - at
            began += _LOOK_SECONDS
        found.append(Followed(seconds))
    return found
