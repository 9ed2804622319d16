"""What one process learns of a limit that several share: rates, capacity and charge, never the level.

Invariant: the counts that it reads are those of all processes. The level is Redis's.
"""

from __future__ import annotations

from lc_service.limits.mirror import MIN_TOKEN_RATIO, Mark, Mirror
from lc_service.limits.pace import Pace
from lc_service.limits.shared.call import Argument, shown
from lc_service.limits.told import Dimension, Told


class Learning:
    """What is known of one limit; not thread-safe.

    Args:
        dimension: `"requests"` or `"tokens"`.
        cap_per_minute: The user's own limit; None for none.
    """

    def __init__(self, dimension: Dimension, cap_per_minute: float | None) -> None:
        # a request is one request; of tokens, servers have ideas of their own
        self._least_ratio = 1.0 if dimension == "requests" else MIN_TOKEN_RATIO
        self._cap_per_second = None if cap_per_minute is None else cap_per_minute / 60
        self._mirror: Mirror | None = None
        self._pace = Pace(1.0 if dimension == "requests" else 0.0)
        self._set_pace(0.0)

    def pace(self) -> tuple[Argument, Argument]:
        """Return rate and capacity, as the script reads them."""
        rate = self._pace.rate_per_second
        return shown(rate), "" if rate is None else self._pace.capacity

    def _set_pace(self, now: float) -> None:
        rates = [] if self._mirror is None else [self._mirror.rate_per_second]
        if self._cap_per_second is not None:
            rates.append(self._cap_per_second)
        if rates:
            self._pace.set_rate(min(rates), 0.0, now)

    def see(self, told: Told | None, mark: Mark, now: float) -> tuple[Argument, ...]:
        """Learn from a response's headers, and return what to tell the script of them.

        Args:
            told: What they tell.
            mark: The request: its cost, when it went out, and what all had asked for by then.
            now: The time.
        """
        if told is None:
            return ("",) * 8
        if self._mirror is None:
            self._mirror = Mirror(told, mark, mark.sent, now, least_ratio=self._least_ratio)
        else:
            self._mirror.see(told, mark, mark.sent, now)
        self._set_pace(now)
        mirror = self._mirror
        known = (mirror.rate_per_second, mirror.capacity, mirror.margin, mirror.ratio)
        return (told.remaining, mark.sent, *known, *self.pace())

    def rejected(self, told: Told | None, mark: Mark, now: float) -> None:
        """Learn from a rejection that is this limit's."""
        if self._mirror is None:
            return
        self._mirror.forget_look()
        if told is not None and told.remaining < mark.cost * self._mirror.ratio:
            self._mirror.rejected(mark, now)
