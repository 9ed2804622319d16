"""How long a server asked to wait, read from its response headers.

Reads `retry-after-ms`, `retry-after` in seconds or as an HTTP date, then `x-ratelimit-reset-*`.
Every unreadable, negative or endless value counts as not said; nothing here raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from lc_service import clock

_UNIT_SECONDS = {
    "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9,
}  # fmt: skip
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|us|µs|ns|d|h|m|s))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)", re.ASCII)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return the wait in seconds that response `headers` ask for, or None where they ask for none.

    `retry-after-ms` comes before `retry-after`, as in the OpenAI SDKs; a wait of zero or less is no
    request to wait (their rule too). An HTTP date is read against the response's own `date` header where
    there is one, so that a client's wrong clock does no harm (RFC 9110, 10.2.3). Where neither header is
    given, the reset time of an exhausted bucket (`x-ratelimit-remaining-*` of 0) is used.

    Args:
        headers: Response headers with case-insensitive look-up.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return _positive(milliseconds / 1000)
    value = headers.get("retry-after")
    if (seconds := _number(value)) is not None:
        return _positive(seconds)
    if value is not None and (until := _http_date(value)) is not None:
        sent = _http_date(headers.get("date", ""))
        return _positive(until - (clock.wall() if sent is None else sent))
    return _reset_seconds(headers)


def parse_duration(text: str) -> float | None:
    """Return the seconds in a duration such as `6m0s`, `1.2s` or `350ms`, or None where it is none."""
    if not _DURATION.fullmatch(text.strip()):
        return None
    seconds = sum(float(n) * _UNIT_SECONDS[unit] for n, unit in _DURATION_PART.findall(text))
    return seconds if math.isfinite(seconds) else None


def _reset_seconds(headers: Mapping[str, str]) -> float | None:
    waits = [
        parse_duration(headers.get(f"x-ratelimit-reset-{bucket}", ""))
        for bucket in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{bucket}", "").strip() == "0"
    ]
    return _positive(max((wait for wait in waits if wait is not None), default=0.0))


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else math.nan
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _http_date(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
        # asctime's form names no zone, and HTTP dates are always in UTC (RFC 9110, 5.6.7)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _positive(seconds: float) -> float | None:
    return seconds if seconds > 0 else None
