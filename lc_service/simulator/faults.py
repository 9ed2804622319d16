"""Faults: what can go wrong with a request, and plans that say when.

Invariant: a plan draws from (seed, request body, attempt) alone, so the same run meets the same
faults whatever the order of its requests. It does not act them out; `app` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

_DEFAULT_DELAYS_SECONDS = {"slow": 1.0, "stall": 30.0}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, by its kind.

    | Kind | What the client sees |
    |---|---|
    | `rate_limit` | 429 with `retry-after-ms` and `retry-after` (whole seconds, rounded up) |
    | `rate_limit_seconds` | 429 with `retry-after` in seconds only |
    | `rate_limit_date` | 429 with `retry-after` as an HTTP date (full seconds) and `date` |
    | `rate_limit_reset` | 429 with `x-ratelimit-{remaining,reset}-requests` only |
    | `rate_limit_bare` | 429 without a hint |
    | `request_too_large` | 429 "Request too large": waiting cannot help |
    | `insufficient_quota` | 429 with code and type `insufficient_quota` |
    | `server_error` | 500 |
    | `bad_gateway` | 502 with an HTML body |
    | `unavailable` | 503 |
    | `gateway_timeout` | 504 |
    | `reset` | the connection is reset (TCP RST) before any byte of a response |
    | `slow` | the answer, its first byte `delay_seconds` late |
    | `stall` | `after_chunks` chunks, silence for `delay_seconds`, then the connection is dropped; \
a plain answer stalls after its headers |
    | `cut` | the connection is closed after `after_chunks` chunks; a plain answer ends half-way |
    | `no_finish` | a clean end without finish_reason, usage or `[DONE]` (`response.completed`); \
a plain answer has finish_reason null (status in_progress) |
    | `error_event` | an SSE error event after `after_chunks` chunks; plain: a 500 |
    | `not_json` | 200 with an HTML page |
    | `broken_json` | 200 with `application/json` that does not parse |
    | `context_length` | 400 with code `context_length_exceeded` |
    | `bad_request` | 400 |
    | `unauthorized` | 401 |
    | `forbidden` | 403 |
    | `not_found` | 404 |
    | `timeout` | 408 |
    | `conflict` | 409 |
    | `unprocessable` | 422 |

    Attributes:
        kind: One of `Fault.KINDS`.
        retry_after_seconds: What the rate limit kinds tell the client to wait.
        after_chunks: Content chunks sent before `stall`, `cut` or `error_event`; 0 sends the
            response headers only.
        delay_seconds: How long `slow` and `stall` take (default 1 and 30); ends early when the
            client goes away.
        message: Replaces the message of the error body.

    Raises:
        ValueError: The kind is unknown, or a number is below 0.
    """

    KINDS: ClassVar[tuple[str, ...]] = (
        "rate_limit", "rate_limit_seconds", "rate_limit_date", "rate_limit_reset",
        "rate_limit_bare", "request_too_large", "insufficient_quota",
        "server_error", "bad_gateway", "unavailable", "gateway_timeout",
        "reset", "slow", "stall", "cut", "no_finish", "error_event", "not_json", "broken_json",
        "context_length", "bad_request", "unauthorized", "forbidden", "not_found",
        "timeout", "conflict", "unprocessable",
    )  # fmt: skip

    kind: str
    retry_after_seconds: float = 0.02
    after_chunks: int = 3
    delay_seconds: float | None = None
    message: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise ValueError(f"unknown fault {self.kind!r}; one of: {', '.join(self.KINDS)}")
        if self.retry_after_seconds < 0:
            raise ValueError(f"retry_after_seconds must be >= 0, not {self.retry_after_seconds}")
        if self.after_chunks < 0:
            raise ValueError(f"after_chunks must be >= 0, not {self.after_chunks}")
        if self.delay_seconds is not None and self.delay_seconds < 0:
            raise ValueError(f"delay_seconds must be >= 0, not {self.delay_seconds}")

    @property
    def delay(self) -> float:
        """Seconds of delay, the kind's default where none was given."""
        if self.delay_seconds is not None:
            return self.delay_seconds
        return _DEFAULT_DELAYS_SECONDS.get(self.kind, 0.0)


def as_fault(entry: Fault | str | None) -> Fault | None:
    """Return the fault an entry of a script stands for; None and "ok" mean serve."""
    if entry is None or entry == "ok":
        return None
    return entry if isinstance(entry, Fault) else Fault(entry)


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultPlan:
    """Faults drawn from a seed by (request body, attempt).

    Attributes:
        seed: Another seed gives other faults.
        rate: Share of attempts that get a fault, 0 to 1.
        kinds: What to draw from, evenly: kinds, or faults with their parameters.
        max_attempts: Attempts that may get a fault; every later one is served, so a client that
            retries this many times always gets through.

    Raises:
        ValueError: A value is out of range, or a kind is unknown.
    """

    seed: int = 0
    rate: float = 0.2
    kinds: Sequence[str | Fault] = ("rate_limit", "server_error", "unavailable", "reset")
    max_attempts: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate must be between 0 and 1, not {self.rate}")
        if self.max_attempts < 0:
            raise ValueError(f"max_attempts must be >= 0, not {self.max_attempts}")
        if isinstance(self.kinds, str) or not self.kinds:
            raise ValueError("kinds must be a non-empty sequence of fault kinds")
        for kind in self.kinds:
            as_fault(kind)

    @classmethod
    def first(cls, kind: str | Fault) -> FaultPlan:
        """Return a plan by which every request fails once and is served on its second attempt.

        Args:
            kind: The fault's kind, or a fault with its parameters.
        """
        return cls(rate=1.0, kinds=(kind,), max_attempts=1)

    def draw(self, digest: bytes, attempt: int) -> Fault | None:
        """Return the fault of an attempt.

        Args:
            digest: Hash of the request.
            attempt: Its number, the first being 1.
        """
        if attempt > self.max_attempts:
            return None
        seed = f"{self.seed}:{attempt}:".encode()
        drawn = hashlib.blake2b(seed + digest, digest_size=16).digest()
        if int.from_bytes(drawn[:8], "big") >= self.rate * 2**64:
            return None
        return as_fault(self.kinds[int.from_bytes(drawn[8:], "big") % len(self.kinds)])
