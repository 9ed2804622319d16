"""The requests that arrived, in their order: number, model, attempt, status, fault.

Invariant: an entry is complete before the last byte of its answer leaves. It keeps a bounded number
of requests and a smaller number of bodies, and never a key in the clear.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from lc_service.simulator.bill import Usage

MAX_REQUESTS = 100_000
"""Requests kept; older ones are forgotten."""

MAX_BODIES = 1_000
"""Latest requests whose bodies are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedRequest:
    """One request, as it arrived and was answered.

    Attributes:
        number: Its place in the order of arrival, from 1; the answer's ids are made of it.
        path: The path asked for.
        model: The model asked for; empty when the request named none.
        attempt: 1 plus the times in a row the same body was not served.
        status: HTTP status sent; None while in progress, and after a reset.
        fault: Kind of the fault it met, if any.
        streamed: Whether it asked for a stream.
        authorization_masked: The key it came with, all but its ends starred out.
        arrived_at_seconds: Time of arrival by the simulator's clock.
        usage: What was billed for it; None when nothing was.
        body: Its body, for the latest `MAX_BODIES` requests; else empty.
    """

    number: int
    path: str
    model: str = ""
    attempt: int = 1
    status: int | None = None
    fault: str | None = None
    streamed: bool = False
    authorization_masked: str = ""
    arrived_at_seconds: float = 0.0
    usage: Usage | None = None
    body: bytes = b""


class Entry:
    """A request in progress; the engine fills it in."""

    __slots__ = tuple(ServedRequest.__dataclass_fields__)

    number: int
    path: str
    model: str
    attempt: int
    status: int | None
    fault: str | None
    streamed: bool
    authorization_masked: str
    arrived_at_seconds: float
    usage: Usage | None
    body: bytes

    def __init__(self, number: int, path: str, arrived_at_seconds: float) -> None:
        self.number = number
        self.path = path
        self.model = ""
        self.attempt = 1
        self.status = None
        self.fault = None
        self.streamed = False
        self.authorization_masked = ""
        self.arrived_at_seconds = arrived_at_seconds
        self.usage = None
        self.body = b""

    def snapshot(self) -> ServedRequest:
        """Return the request as it stands."""
        return ServedRequest(**{name: getattr(self, name) for name in self.__slots__})


class Journal:
    """Keeps the latest requests; safe to read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=MAX_REQUESTS)
        self._bodies: deque[Entry] = deque()
        self._count = 0

    def open(self, path: str, arrived_at_seconds: float) -> Entry:
        """Note an arriving request and return its entry."""
        with self._lock:
            self._count += 1
            entry = Entry(self._count, path, arrived_at_seconds)
            self._entries.append(entry)
            self._bodies.append(entry)
            if len(self._bodies) > MAX_BODIES:
                self._bodies.popleft().body = b""
        return entry

    def snapshot(self) -> list[ServedRequest]:
        """Return the requests so far, in order of arrival."""
        with self._lock:
            entries = list(self._entries)
        return [entry.snapshot() for entry in entries]

    def reset(self) -> None:
        """Forget all requests and count from 1 again."""
        with self._lock:
            self._entries.clear()
            self._bodies.clear()
            self._count = 0
