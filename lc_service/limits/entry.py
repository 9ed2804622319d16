"""One attempt's way through a breaker: in, a second look before it is sent, and out with what it showed.

Invariant: an attempt whose requests showed nothing still gives a probe's place back. Decides nothing: that is
the breaker's.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self


class OpenedSinceError(Exception):
    """Raise where an attempt got its turn to be sent after the circuit had opened: it must enter again."""


class Told(Protocol):
    """The breaker, as far as an entry needs it."""

    @property
    def is_open(self) -> bool:
        """Whether only probes may go."""
        ...

    def ended(self, probe: int, error: BaseException | None) -> None:
        """Learn from an attempt's end; never blocks."""
        ...


class Entry:
    """One attempt's way through a breaker. Belongs to that attempt, which may be two requests.

    A context manager that ends with its block, as the block ended.
    """

    __slots__ = ("_breaker", "_is_over", "_probe")

    def __init__(self, breaker: Told, probe: int) -> None:
        self._breaker = breaker
        self._probe = probe
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)

    def confirm(self) -> None:
        """Look once more before sending, where the attempt has waited for its turn since.

        Raises:
            OpenedSinceError: The circuit has opened.
        """
        if not self._probe and self._breaker.is_open:
            raise OpenedSinceError

    def tell(self, error: BaseException | None = None) -> None:
        """Tell how a request ended, or that its answer has begun to come; never blocks."""
        self._is_over = True
        self._breaker.ended(self._probe, error)

    def end(self, error: BaseException | None = None) -> None:
        """Tell how the attempt ended where no request of it did; never blocks."""
        if not self._is_over:
            self.tell(error)
