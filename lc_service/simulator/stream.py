"""One server-sent event of a streamed answer, and what it adds to the bill."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamEvent:
    """One event, as it goes over the wire.

    Attributes:
        data: The whole event, with its empty line.
        tokens: Output tokens it carries; content events carry some, all others none.
        is_end: Whether it says that the answer is complete.
    """

    data: bytes
    tokens: int = 0
    is_end: bool = False
