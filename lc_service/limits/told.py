"""What a server tells of its limits, read from the `x-ratelimit-*` headers of a response.

Every unreadable, negative or endless value counts as not said; nothing here raises. Believes what it reads:
doubts are the meter's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from lc_service.retry.retry_after import parse_duration

Dimension = Literal["requests", "tokens"]
DIMENSIONS: tuple[Dimension, ...] = ("requests", "tokens")

_MINUTE_SECONDS = 60.0
_SURELY_LONGER_SECONDS = 65.0
"""A bucket that needs longer than this to fill is none of a minute."""
_MOST_UNITS = 1e12
"""Beyond it, and below one unit, a limit is a mistake."""


class Told(NamedTuple):
    """One limit, as a response's headers have it.

    Attributes:
        limit: Units a minute, or in the longer span that some servers mean.
        remaining: Units that are left; what the request itself took is off already.
        reset_seconds: Time until all of the limit is there again; None where that is not said.
    """

    limit: float
    remaining: float
    reset_seconds: float | None

    @property
    def rate_per_second(self) -> float:
        """Units that come back in a second.

        A minute's worth in a minute. Where the reset is further away than that, the limit is a longer span's,
        such as a day's, and what is missing will be back by the reset.
        """
        missing = self.limit - self.remaining
        if self.reset_seconds is not None and self.reset_seconds > _SURELY_LONGER_SECONDS and missing >= 1:
            return missing / self.reset_seconds
        return self.limit / _MINUTE_SECONDS

    @property
    def capacity(self) -> float:
        """Units that the server lets through at once when nothing was used for long."""
        if self.reset_seconds is None:
            return self.limit
        return max(
            self.remaining, min(self.limit, self.remaining + self.reset_seconds * self.rate_per_second)
        )


def read_told(headers: Mapping[str, str], dimension: Dimension) -> Told | None:
    """Return what `headers` tell of one limit, or None where they do not tell both limit and remaining.

    Args:
        headers: Response headers with case-insensitive look-up.
        dimension: `"requests"` or `"tokens"`.
    """
    limit = _number(headers.get(f"x-ratelimit-limit-{dimension}"))
    if limit is None or not 1 <= limit <= _MOST_UNITS:
        return None
    remaining = _number(headers.get(f"x-ratelimit-remaining-{dimension}"))
    if remaining is None or remaining > limit:
        return None
    reset = headers.get(f"x-ratelimit-reset-{dimension}")
    return Told(limit, remaining, None if reset is None else _seconds(reset))


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _seconds(text: str) -> float | None:
    seconds = parse_duration(text)
    if seconds is None:
        seconds = _number(text)
    # beyond a month it is a date, or a mistake
    return seconds if seconds is not None and seconds <= 31 * 86_400 else None
