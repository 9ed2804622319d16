"""The loop: what is to happen, in the order of its time. No wall time passes.

Invariant: time never goes back, and what is due at the same moment happens in the order it was asked for.
It knows nothing of clients or servers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

BEGINNING_SECONDS = 1_000.0


class Events:
    """The events of one simulated world.

    Attributes:
        now: The world's own time, in seconds.
    """

    def __init__(self) -> None:
        self.now = BEGINNING_SECONDS
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, time: float, step: Callable[..., None], *args: Any) -> None:
        """Have `step(*args)` happen at `time`; at once where that has passed."""
        self._count += 1
        heapq.heappush(self._heap, (max(time, self.now), self._count, step, args))

    def after(self, seconds: float, step: Callable[..., None], *args: Any) -> None:
        """Have `step(*args)` happen so many seconds from now."""
        self.at(self.now + seconds, step, *args)

    def run(self, until: float) -> None:
        """Let all happen that is due before `until`."""
        while self._heap and self._heap[0][0] < until:
            self.now, _, step, args = heapq.heappop(self._heap)
            step(*args)
