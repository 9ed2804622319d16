"""Which fault the next request meets: a scripted list, or a plan over attempts.

Invariant: an attempt's number is one more than the times in a row its body was not served. It keeps
only bodies that are waiting to be served, and forgets the oldest beyond a bound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lc_service.simulator.faults import Fault, FaultPlan, as_fault

MAX_OPEN_REQUESTS = 100_000
"""Bodies whose failed attempts are remembered."""


class FaultScript:
    """Decides over faults in arrival order; not safe for use by several threads.

    Args:
        faults: None, one entry per request in order of arrival, or a plan.
    """

    def __init__(self, faults: Sequence[Fault | str | None] | FaultPlan | None = None) -> None:
        self.set_faults(faults)

    def set_faults(self, faults: Sequence[Fault | str | None] | FaultPlan | None) -> None:
        """Begin with other faults, every request at attempt 1."""
        self._plan = faults if isinstance(faults, FaultPlan) else None
        if isinstance(faults, str):
            raise TypeError(f'faults must be a list or a FaultPlan: write ["{faults}"]')
        self._script: tuple[Fault | None, ...] = ()
        if faults is not None and not isinstance(faults, FaultPlan):
            self._script = tuple(as_fault(entry) for entry in faults)
        self._position = 0
        self._failed: dict[bytes, int] = {}

    @staticmethod
    def digest(path: str, body: bytes) -> bytes:
        """Return what identifies a request from attempt to attempt."""
        return hashlib.blake2b(body, digest_size=16, key=path.encode()[:64]).digest()

    def arrive(self, digest: bytes) -> tuple[int, Fault | None]:
        """Return the attempt number of an arriving request, and the fault it meets."""
        attempt = self._failed.get(digest, 0) + 1
        if self._plan is not None:
            return attempt, self._plan.draw(digest, attempt)
        fault = None
        if self._position < len(self._script):
            fault = self._script[self._position]
            self._position += 1
        return attempt, fault

    def failed(self, digest: bytes) -> None:
        """Note that an attempt was not served: the next one has the next number."""
        self._failed[digest] = self._failed.get(digest, 0) + 1
        if len(self._failed) > MAX_OPEN_REQUESTS:
            del self._failed[next(iter(self._failed))]

    def served(self, digest: bytes) -> None:
        """Note that a request was served: the same body starts again at attempt 1."""
        self._failed.pop(digest, None)

    def reset(self) -> None:
        """Start again: the script at its first entry, every request at attempt 1."""
        self._position = 0
        self._failed.clear()
