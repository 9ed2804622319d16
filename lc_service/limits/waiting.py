"""One attempt in the line, as those who let it in see it: what it asks for, and what it is told.

Says nothing of how it waits: a thread, a task, or nobody at all in a simulation.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

from lc_service.limits.mirror import Mark
from lc_service.limits.told import Told


class Waiting(Protocol):
    """One attempt that wants to be sent."""

    tokens: int
    party: Hashable
    is_retry: bool
    is_admitted: bool
    ready_at: float | None
    marks: Sequence[Mark]
    told: Sequence[Told | None]

    def wake(self) -> bool:
        """Tell whoever waits for it to look again; False where nobody ever will."""


def units_of(waiting: Waiting) -> tuple[float, float]:
    """Return what it takes of each limit."""
    return 1.0, float(waiting.tokens)
