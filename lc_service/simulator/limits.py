"""Rate limits as OpenAI enforces them: request and token buckets, refilled continuously.

Invariant: over any span, what is admitted is at most burst + rate x span (plus one request that is
larger than the burst). Pure: time is an argument, nothing sleeps, nothing is sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lc_service.simulator.bucket import TOLERANCE, Bucket

HeaderMode = Literal["true", "minute", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerLimits:
    """The limits of each model.

    Attributes:
        requests_per_minute: None is unlimited.
        tokens_per_minute: Prompt tokens plus the output a request asks for; None is unlimited.
        burst_seconds: Span over which the limits are enforced: 60 lets a minute's worth through at
            once, 1 a second's.
        headers: `"true"`: `x-ratelimit-*` describe what is enforced. `"minute"`: they describe a
            minute's bucket whatever is enforced. `"none"`: neither they nor retry-after are sent.
        sends_retry_after: Whether a rejection says when to come again, where there are headers.
        charge_rejected: Whether a rejected request uses up request capacity too.
        neighbour_share: Share of the rate, 0 <= share < 1, that somebody else uses all the time.

    Raises:
        ValueError: A value is out of range; the message names it.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    burst_seconds: float = 1.0
    headers: HeaderMode = "true"
    sends_retry_after: bool = True
    charge_rejected: bool = False
    neighbour_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, or None for unlimited; not {value}")
        if not self.burst_seconds > 0:
            raise ValueError(f"burst_seconds must be positive, not {self.burst_seconds}")
        if self.headers not in {"true", "minute", "none"}:
            raise ValueError(f'headers must be "true", "minute" or "none", not {self.headers!r}')
        if not 0 <= self.neighbour_share < 1:
            raise ValueError(f"neighbour_share must be in [0, 1), not {self.neighbour_share}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What the limits say to one request.

    Attributes:
        is_admitted: Whether it is served.
        headers: The headers to send, admitted or not.
        exceeded: The limit in the way of a rejected request.
        limit: That limit, per minute.
        used: How much of it is in use.
        requested: What the request asks of it.
        retry_after_seconds: Time until it fits; None when it never will.
    """

    is_admitted: bool
    headers: list[tuple[bytes, bytes]]
    exceeded: Literal["requests", "tokens"] = "requests"
    limit: float = 0
    used: float = 0
    requested: float = 0
    retry_after_seconds: float | None = 0.0


class _Meter:
    """One limit of one model: the enforced bucket, and the one its headers describe."""

    __slots__ = ("enforced", "limit", "name", "shown")

    def __init__(
        self, name: Literal["requests", "tokens"], limit: float, limits: ServerLimits, now: float
    ) -> None:
        rate = limit / 60 * (1 - limits.neighbour_share)
        smallest = 1.0 if name == "requests" else 0.0
        self.name = name
        self.limit = limit
        self.enforced = Bucket(max(smallest, limit * limits.burst_seconds / 60), rate, now)
        self.shown: Bucket | None = None
        if limits.headers == "true":
            self.shown = self.enforced
        elif limits.headers == "minute":
            self.shown = Bucket(limit, rate, now)

    def continue_from(self, before: _Meter, now: float) -> None:
        before.refill(now)
        self.enforced.fill_like(before.enforced)
        if self.shown is not None and self.shown is not self.enforced:
            self.shown.fill_like(before.shown or before.enforced)

    def refill(self, now: float) -> None:
        self.enforced.refill(now)
        if self.shown is not None:
            self.shown.refill(now)

    def take(self, units: float) -> None:
        self.enforced.level -= units
        if self.shown is not None and self.shown is not self.enforced:
            self.shown.level -= units

    def charge_rejected(self) -> None:
        # A floor of zero: hammering starves its own client, but not beyond the next refill.
        self.take(max(0.0, min(1.0, self.enforced.level)))

    def headers(self) -> list[tuple[bytes, bytes]]:
        if self.shown is None:
            return []
        name = self.name.encode()
        remaining = max(0, math.floor(self.shown.level + TOLERANCE))
        reset = format_duration(self.shown.seconds_until_full)
        return [
            (b"x-ratelimit-limit-" + name, b"%d" % self.limit),
            (b"x-ratelimit-remaining-" + name, b"%d" % remaining),
            (b"x-ratelimit-reset-" + name, reset.encode()),
        ]


class RateLimiter:
    """Applies one set of limits to every model by itself; not safe for use by several threads."""

    def __init__(self, limits: ServerLimits | None) -> None:
        self._limits = limits or ServerLimits()
        self._meters: dict[str, list[_Meter]] = {}

    @property
    def limits(self) -> ServerLimits:
        """The limits in force."""
        return self._limits

    def set_limits(self, limits: ServerLimits | None, now: float) -> None:
        """Change the limits of every model; buckets stay as full as they are, new ones start full.

        Args:
            limits: The limits from now on; None is unlimited.
            now: The time of the change: until then the old rates hold.
        """
        self._limits = limits or ServerLimits()
        before, self._meters = self._meters, {}
        for model, old in before.items():
            levels = {meter.name: meter for meter in old}
            for meter in self._meters_of(model, now):
                if meter.name in levels:
                    meter.continue_from(levels[meter.name], now)

    def reset(self) -> None:
        """Fill every bucket."""
        self._meters.clear()

    def admit(self, model: str, tokens: float, now: float) -> Decision:
        """Decide over one request and charge it if admitted.

        Args:
            model: The model it asks for.
            tokens: Its prompt tokens plus the output tokens it asks for.
            now: The time, in seconds of the simulator's clock.
        """
        meters = self._meters_of(model, now)
        asked = [1.0 if meter.name == "requests" else tokens for meter in meters]
        for meter, units in zip(meters, asked, strict=True):
            meter.refill(now)
            if meter.name == "tokens" and units > meter.limit:
                return self._rejection(meters, meter, units, None)
        waits = [m.enforced.seconds_until(u) for m, u in zip(meters, asked, strict=True)]
        if any(waits):
            return self._reject(meters, asked)
        for meter, units in zip(meters, asked, strict=True):
            meter.take(units)
        return Decision(is_admitted=True, headers=self._headers(meters))

    def _meters_of(self, model: str, now: float) -> list[_Meter]:
        meters = self._meters.get(model)
        if meters is None:
            limits = self._limits
            meters = self._meters[model] = []
            if limits.requests_per_minute is not None:
                meters.append(_Meter("requests", limits.requests_per_minute, limits, now))
            if limits.tokens_per_minute is not None:
                meters.append(_Meter("tokens", limits.tokens_per_minute, limits, now))
        return meters

    def _reject(self, meters: list[_Meter], asked: list[float]) -> Decision:
        if self._limits.charge_rejected:
            for meter in meters:
                if meter.name == "requests":
                    meter.charge_rejected()
        waits = [m.enforced.seconds_until(u) for m, u in zip(meters, asked, strict=True)]
        longest = waits.index(max(waits))
        return self._rejection(meters, meters[longest], asked[longest], waits[longest])

    def _rejection(
        self, meters: list[_Meter], meter: _Meter, requested: float, wait: float | None
    ) -> Decision:
        headers = self._headers(meters)
        if wait is not None and self._limits.headers != "none" and self._limits.sends_retry_after:
            headers += retry_after_headers(wait)
        return Decision(
            is_admitted=False,
            headers=headers,
            exceeded=meter.name,
            limit=meter.limit,
            used=max(0.0, meter.enforced.capacity - meter.enforced.level),
            requested=requested,
            retry_after_seconds=wait,
        )

    def _headers(self, meters: list[_Meter]) -> list[tuple[bytes, bytes]]:
        return [header for meter in meters for header in meter.headers()]


def retry_after_headers(seconds: float) -> list[tuple[bytes, bytes]]:
    """Return `retry-after-ms` and `retry-after` (whole seconds), both rounded up."""
    milliseconds = math.ceil(round(seconds * 1000, 6))
    return [
        (b"retry-after-ms", b"%d" % milliseconds),
        (b"retry-after", b"%d" % math.ceil(milliseconds / 1000)),
    ]


def format_duration(seconds: float) -> str:
    """Write a duration as OpenAI's headers do: `6m0s`, `1.2s`, `350ms`."""
    milliseconds = math.ceil(round(seconds * 1000, 6))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    written = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{written}"
    return f"{minutes}m{written}" if minutes else written
