"""`CircuitBreaker`, the rules, and the circuit that follows them: closed, open, or with a probe under way.

Invariant: while it is open, one probe at a time is let through, and any success closes it. Pure: time is an
argument, nothing sleeps, and no lock is taken.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

from lc_service.retry.exceptions import ErrorKind

DEAD_KINDS = frozenset({ErrorKind.CONNECTION, ErrorKind.TIMEOUT, ErrorKind.SERVER_ERROR, ErrorKind.MALFORMED})
"""The failures of an endpoint that does not work: no answer, a 5xx, or a page."""

_JITTER = 0.1
"""Share of a pause by which processes that share a dead endpoint are spread out."""


@dataclass(frozen=True, kw_only=True)
class CircuitBreaker:
    """When to leave a dead endpoint alone, and when to look whether it is back.

    Models with equal rules share what they know of an endpoint (scheme, host and port), in all threads and
    event loops of the process. Timeouts, lost connections, 5xx and pages instead of answers are failures;
    whatever else the server says, a 429 or a 400 too, shows that it lives, and ends the run of failures.

    Args:
        failures: So many attempts in a row must have failed, at least 1, ...
        min_seconds: ... over at least this long, from the first of them to the last: a blip that meets many
            calls at once opens nothing.
        probe_after_seconds: Seconds until the first probe. Each probe that fails doubles them.
        max_probe_after_seconds: The longest of these pauses. A probe that takes longer is not waited for:
            the next one goes.
        is_patient: Whether calls wait for the endpoint to come back, however long that takes, instead of
            failing at once.

    Raises:
        ValueError: A value is out of range; the message names it.
    """

    failures: int = 20
    min_seconds: float = 10.0
    probe_after_seconds: float = 5.0
    max_probe_after_seconds: float = 60.0
    is_patient: bool = False

    def __post_init__(self) -> None:
        if type(self.failures) is not int or self.failures < 1:
            raise ValueError(f"failures must be a whole number of at least 1, not {self.failures!r}.")
        for name in ("min_seconds", "probe_after_seconds", "max_probe_after_seconds"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (is_number and 0 <= value < math.inf):
                raise ValueError(f"{name} must be a finite number of seconds of at least 0, not {value!r}.")
        if self.max_probe_after_seconds < self.probe_after_seconds:
            raise ValueError("max_probe_after_seconds must not be below probe_after_seconds.")


class Opened(NamedTuple):
    """Why a circuit is open, and since when.

    Attributes:
        failures: Attempts that failed in a row.
        since: When the first of them failed, by `clock.now`.
        kind: Why the last of them failed.
    """

    failures: int
    since: float
    kind: ErrorKind


class Circuit:
    """One endpoint's. Not thread-safe."""

    def __init__(self, rules: CircuitBreaker) -> None:
        self._rules = rules
        self._failures = 0
        self._since = 0.0
        self._kind = ErrorKind.UNKNOWN
        self._probe_at: float | None = None
        self._pause_seconds = 0.0
        self._probe = 0
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Whether only probes may go."""
        return self._probe_at is not None

    @property
    def has_failures(self) -> bool:
        """Whether a success would change anything."""
        return self._failures > 0

    @property
    def opened(self) -> Opened:
        """Why it is open, where it is."""
        return Opened(self._failures, self._since, self._kind)

    def admit(self, now: float) -> int | None:
        """Let an attempt go, or not.

        Returns:
            The number of the probe that it is; 0 for an ordinary attempt; None where it may not go.
        """
        if self._probe_at is None:
            return 0
        if now < self._probe_at:
            return None
        self._probe += 1
        self._is_probing = True
        self._probe_at = now + self._rules.max_probe_after_seconds  # not for ever, should it never end
        return self._probe

    def seconds_left(self, now: float) -> float:
        """Return how long until a probe may go; 0 while one is under way."""
        return 0.0 if self._is_probing or self._probe_at is None else max(0.0, self._probe_at - now)

    def patience_seconds(self, now: float) -> float:
        """Return how long until it is worth asking again even if nothing happens."""
        return 0.0 if self._probe_at is None else max(0.0, self._probe_at - now)

    def succeed(self) -> None:
        """Take note of a sign of life, of whichever attempt: close."""
        self._probe_at = None  # first: who reads without a lock must not see it open for no failures
        self._failures = 0
        self._is_probing = False

    def fail(self, probe: int, kind: ErrorKind, now: float) -> None:
        """Take note of a failure of the endpoint's.

        Args:
            probe: What `admit` had returned.
            kind: One of `DEAD_KINDS`.
            now: The time.
        """
        if self._probe_at is not None and not self._is_current(probe):
            return  # it was under way when the circuit opened, and tells nothing new
        if not self._failures:
            self._since = now
        self._failures += 1
        self._kind = kind
        if self._probe_at is not None:
            self._pause(min(2 * self._pause_seconds, self._rules.max_probe_after_seconds), now)
        elif self._failures >= self._rules.failures and now - self._since >= self._rules.min_seconds:
            self._pause(self._rules.probe_after_seconds, now)

    def give_up(self, probe: int, now: float) -> None:
        """Take note that an attempt ended and showed nothing, as a cancelled one: another may probe."""
        if self._is_current(probe):
            self._is_probing = False
            self._probe_at = now

    def _is_current(self, probe: int) -> bool:
        return self._is_probing and probe == self._probe

    def _pause(self, seconds: float, now: float) -> None:
        self._pause_seconds = seconds
        self._is_probing = False
        self._probe_at = now + seconds * (1 + _JITTER * random.random())  # noqa: S311  jitter, not cryptography
