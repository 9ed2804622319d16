"""A cell of the table: what a server enforces, who asks how much of it, and what has to come of that.

Invariant: a scenario and a seed determine a run. It runs nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from flow.floor import floor_seconds

from lc_service.limits.admission import Admission
from lc_service.limits.rate_limits import LEARNED, RateLimits
from lc_service.simulator import ServerLimits

MakeAdmission = Callable[[RateLimits, float], Admission]
"""Makes one process's line from what its user says and what its clock shows."""


def apart() -> MakeAdmission:
    """Let processes share nothing."""
    return Admission


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What is asked for; None is not."""

    floor_ratio: float | None = None
    rejected_share: float | None = None
    followed_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One cell.

    Attributes:
        items: Of all processes together; each has its own share from the beginning.
        tokens: Tokens of an item: from the first to the second, small ones far more often.
        workers: Calls that each process has under way or in line.
        latency_seconds: An admitted request takes between 80 % of it and all of it.
        changes: (seconds after the beginning, limits from then on).
        drift: Each clock gains or loses up to so many seconds a second, and is off by up to a day.
        reckoned: What a client takes a request for, over what the server charges.
        told: What users say about limits.
        seeds: Runs; the table shows the worst.
        fleet: Called once for each world: what processes share is made there.
    """

    name: str
    limits: ServerLimits
    items: int
    tokens: tuple[int, int] = (10, 10)
    processes: int = 1
    workers: int = 64
    latency_seconds: float = 0.1
    changes: tuple[tuple[float, ServerLimits], ...] = ()
    drift: float = 0.0
    reckoned: float = 1.0
    told: RateLimits = LEARNED
    bound: Bound = field(default_factory=Bound)
    seeds: tuple[int, ...] = (1, 2, 3)
    fleet: Callable[[], MakeAdmission] = apart

    def sizes(self) -> list[int]:
        """Return the tokens of each item, in the order of their arrival; the same for every seed."""
        least, most = self.tokens
        draws = [((place + 0.5) / self.items) ** 3 for place in range(self.items)]
        random.Random(4).shuffle(draws)
        return [round(least * (most / least) ** draw) for draw in draws]

    def floor_seconds(self) -> float:
        """Return the least time that any client needs."""
        return floor_seconds(
            self.limits,
            requests=self.items,
            tokens=sum(self.sizes()),
            latency_seconds=self.latency_seconds,
            concurrency=self.processes * self.workers,
            changes=self.changes,
        )
