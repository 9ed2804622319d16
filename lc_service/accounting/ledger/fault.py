"""What a ledger does while its database cannot be written: it says so loudly, counts, and tries again.

Invariant: each attempt that is not in the database is counted. Does no I/O but the log's.
"""

from __future__ import annotations

import logging
import threading

from lc_service import clock

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0  # so long is a database left alone that could not be written
_REMIND_SECONDS = 60.0


class Fault:
    """Whether the database can be written, as far as is known. Thread-safe.

    Attributes:
        words: Why it could not be written when that was last tried; None where it could.
        lost: Attempts that will never be written.
    """

    def __init__(self, place: str) -> None:
        self.words: str | None = None
        self.lost = 0
        self._place = place
        self._retry_at = self._remind_at = self._complain_at = -1.0
        self._lock = threading.RLock()  # a finalizer may run inside of it

    @property
    def is_waiting(self) -> bool:
        """Whether it is too early to try again."""
        return self.words is not None and clock.now() < self._retry_at

    def begin(self, words: str, *, waiting: int) -> None:
        """Note that writing failed; the first time, and each minute, that is an error in the log."""
        now = clock.now()
        self._retry_at = now + _RETRY_SECONDS
        if self.words is None or now >= self._remind_at:
            self._remind_at = now + _REMIND_SECONDS
            logger.error(
                "%s Calls go on meanwhile. %d attempts wait to be written, %d are lost.",
                words, waiting, self.lost,
            )  # fmt: skip
        self.words = words

    def end(self) -> None:
        """Note that writing worked; after a failure, that is a warning in the log."""
        if self.words is not None:
            self.words = None
            logger.warning("The ledger %s is written again. %d attempts are lost.", self._place, self.lost)

    def lose(self, number: int, reason: str) -> None:
        """Note attempts that will never be written; the first time, and each minute, an error in the log."""
        with self._lock:
            self.lost += number
            now = clock.now()
            if now < self._complain_at:
                return
            self._complain_at = now + _REMIND_SECONDS
        logger.error("The ledger %s has lost %d attempts: %s.", self._place, self.lost, reason)
