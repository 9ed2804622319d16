"""What an endpoint is, and one request on its way through it.

Invariant: an endpoint is four functions and a name; it holds no state, so the course of a request
is written once for all of them. It says what the parts look like, and does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lc_service.simulator.bill import Operation, Usage
from lc_service.simulator.errors import ApiError, Headers
from lc_service.simulator.exchange import Exchange
from lc_service.simulator.faults import Fault
from lc_service.simulator.journal import Entry
from lc_service.simulator.stream import StreamEvent


class Ask(Protocol):
    """A request that was read."""

    @property
    def model(self) -> str:
        """The model asked for."""

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt."""

    @property
    def admission_tokens(self) -> int:
        """What the rate limit charges."""


class Answer(Protocol):
    """An answer that was made, not yet written."""

    @property
    def usage(self) -> Usage:
        """What it costs as a whole."""

    def usage_after(self, visible_tokens: int) -> Usage:
        """Return what it costs when it ends after that much output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """How one path reads requests and writes answers.

    Attributes:
        operation: What the bill calls it.
        read: Reads a body, or raises `ApiError`.
        answer: Makes the answer to what was read.
        plain: Writes it whole: answer, request number, whether it is finished.
        events: Writes it as events; None where the path does not stream.
        error_event: Writes an error as an event of a stream.
        has_context: Whether the context window applies.
    """

    operation: Operation
    read: Callable[[Mapping[str, Any]], Any]
    answer: Callable[[Any], Answer]
    plain: Callable[..., bytes]
    events: Callable[[Any, int], Iterator[StreamEvent]] | None = None
    error_event: Callable[[ApiError, int], bytes] | None = None
    has_context: bool = True


@dataclass(slots=True)
class Job:
    """One request on its way.

    Attributes:
        exchange: The connection's side of it.
        endpoint: What it asked.
        entry: Its line in the journal.
        headers: What its answer will carry.
        digest: What identifies it from attempt to attempt.
        fault: What it meets.
    """

    exchange: Exchange
    endpoint: Endpoint
    entry: Entry
    headers: Headers
    digest: bytes = b""
    fault: Fault | None = None

    def has_fault(self, *kinds: str) -> bool:
        """Return whether it meets a fault of one of these kinds."""
        return self.fault is not None and self.fault.kind in kinds
