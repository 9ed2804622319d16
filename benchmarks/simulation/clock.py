"""A machine's clock: set wrong, and too fast or too slow. Pure.

Invariant: there and back is the same time. Nothing here ticks.
"""

from __future__ import annotations

from typing import NamedTuple


class SkewedClock(NamedTuple):
    """What a machine's clock shows.

    Attributes:
        offset_seconds: How far it is ahead at the world's time 0.
        drift: Seconds that it gains in each.
    """

    offset_seconds: float = 0.0
    drift: float = 0.0

    def shows(self, time: float) -> float:
        """Return what it shows at the world's `time`."""
        return self.offset_seconds + time * (1 + self.drift)

    def time_when(self, shown: float) -> float:
        """Return the world's time when it shows `shown`."""
        return (shown - self.offset_seconds) / (1 + self.drift)
