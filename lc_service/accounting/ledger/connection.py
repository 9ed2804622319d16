"""A connection that opens when it is first used, closes at an error, and never crosses a fork.

Invariant: whoever uses it holds its lock. What SQLite knows of a file belongs to a process: after a fork both
sides would believe in the other's locks, and rows could be lost. So it is closed before, and opened anew.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator

from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.pool import PoolProxiedConnection

from lc_service.accounting.ledger.database import Database


class Turn:
    """A lock that knows whether this thread has it: a stream collected inside of a write ends in a write."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds it."""
        return self._holder == threading.get_ident()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._holder = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._holder = 0
        self._lock.release()


class Connection:
    """One connection to a database at a time.

    Attributes:
        lock: Hold it while you use the connection.
    """

    def __init__(self, database: Database) -> None:
        self.lock = Turn()
        self._database = database
        self._raw: PoolProxiedConnection | None = None
        with _registering:
            _all.add(self)

    @contextlib.contextmanager
    def transaction(self, begin: str) -> Iterator[DBAPICursor]:
        """Run a transaction; the caller holds the lock.

        Args:
            begin: The SQL that begins it.

        Raises:
            Exception: Whatever the driver raises; nothing has been written then.
        """
        raw = self._raw
        if raw is None:
            raw = self._raw = self._database.connect()
        try:
            cursor = raw.cursor()
            cursor.execute(begin)
            yield cursor
            raw.commit()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it, and undo what was not committed; the caller holds the lock."""
        raw, self._raw = self._raw, None
        if raw is not None:
            with contextlib.suppress(Exception):  # it may be what broke
                raw.close()


_registering = threading.Lock()
_all: weakref.WeakSet[Connection] = weakref.WeakSet()
_held: list[Connection] = []


def _before_fork() -> None:
    _registering.acquire()
    _held.extend(_all)
    for connection in _held:
        connection.lock.__enter__()
        connection.close()


def _after_fork() -> None:
    for connection in _held:
        connection.lock.__exit__()
    _held.clear()
    _registering.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
