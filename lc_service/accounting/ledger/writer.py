"""Rows on their way into the database: a queue, and whoever comes first writes for all.

Invariant: what is taken out of the queue is committed, or is put back, or is counted as lost. Starts no
thread and knows no budgets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPICursor

from lc_service.accounting.ledger.connection import Connection
from lc_service.accounting.ledger.database import Database, Statement, original
from lc_service.accounting.ledger.error import LedgerError
from lc_service.accounting.ledger.fault import Fault
from lc_service.accounting.ledger.row import FIELDS, Row, to_row
from lc_service.accounting.ledger.schema import attempts, reservations
from lc_service.accounting.record import AttemptRecord

logger = logging.getLogger(__name__)

MAX_KEPT = 10_000
"""How many attempts wait in memory, at most, while the database cannot be written."""
_BATCH = 500  # rows of a transaction: other processes wait for as long


class Release(NamedTuple):
    """A reservation that is to go, because its attempt was not sent."""

    call_id: str
    attempt: int


class Entry(NamedTuple):
    """What waits to be written, and the task that waits for it."""

    item: AttemptRecord | Release
    waiter: asyncio.Future[None] | None = None


class _Ready(NamedTuple):
    entry: Entry
    row: Row | None
    reservation: Release


class Writer:
    """The queue, and the connection that it is written through. Thread-safe.

    Attributes:
        connection: Closed and opened as needed.
        fault: Whether the database can be written.
    """

    def __init__(self, database: Database) -> None:
        self.connection = Connection(database)
        self.fault = Fault(database.place)
        self._database = database
        self._queue: deque[Entry] = deque()
        self._has_late_entries = False
        insert = database.insert(attempts).values({name: sa.bindparam(name) for name in FIELDS})
        key = reservations.c
        release = sa.delete(reservations).where(
            key.call_id == sa.bindparam("call_id"), key.attempt == sa.bindparam("attempt")
        )
        self._insert = Statement(database, insert).sql
        self._release = Statement(database, release).sql

    @property
    def waiting(self) -> int:
        """Attempts in the queue."""
        return sum(isinstance(entry.item, AttemptRecord) for entry in self._queue.copy())

    def put(self, entries: Iterable[Entry]) -> None:
        """Queue entries. Never waits."""
        self._queue.extend(entries)
        if self.fault.words is not None:
            self._drop_what_is_too_much()

    def post(self, entry: Entry) -> None:
        """Queue an entry: for finalizers. No lock, no log; `try_again` drops what is too much."""
        self._queue.append(entry)

    def write(self) -> None:
        """Write what is queued: on return it is in the database, by this thread or another, or cannot be.

        A database that could not be written is left to `try_again`, so that callers need not wait for it.
        """
        if self.fault.words is None:
            self.flush()

    def try_again(self) -> None:
        """Write what is queued, unless that failed a moment ago."""
        if not self.fault.is_waiting:
            self.flush()

    def flush(self) -> None:
        """Write what is queued, whatever happened before."""
        if self.connection.lock.is_mine:  # in a finalizer, inside of a write: that one sees to it
            self._has_late_entries = True
            return
        self._has_late_entries = True
        while self._has_late_entries:
            with self.connection.lock:
                self._has_late_entries = False
                self._write_queue()

    @contextlib.contextmanager
    def alone(self) -> Iterator[DBAPICursor]:
        """Run a transaction that is alone in writing, after all that was queued.

        Raises:
            LedgerError: The database cannot be written.
        """
        with self.connection.lock:
            self._write_queue()
            if self.fault.words is not None:
                raise LedgerError(self.fault.words)
            try:
                with self.connection.transaction(self._database.begin_write) as cursor:
                    yield cursor
            except Exception as error:
                raise self._database.error(error) from error
        if self._has_late_entries:
            self.flush()

    def forget(self) -> None:
        """Forget what is queued: after a fork, the process that queued it writes it."""
        self._queue.clear()
        self.fault = Fault(self._database.place)

    def _write_queue(self) -> None:
        left = len(self._queue)  # not what comes while this runs: it would never end
        while left > 0:
            size = min(left, _BATCH)
            left -= size
            batch = deque(self._queue.popleft() for _ in range(size))
            try:
                self._write_batch(batch)
            except Exception as error:  # noqa: BLE001  whatever it is, an answer is worth more than its record
                self._queue.extendleft(reversed(batch))
                self._let_nobody_wait(self._database.explain(original(error)))
                return
            except BaseException:  # Ctrl-C: the next to come writes it
                self._queue.extendleft(reversed(batch))
                raise
            self.fault.end()

    def _write_batch(self, batch: deque[Entry]) -> None:
        """Write a batch and take out of it what is settled."""
        ready = [each for entry in batch if (each := self._ready(entry)) is not None]
        try:
            self._commit(ready)
        except Exception as error:
            if not _is_about_a_row(error):
                raise
            self._write_one_by_one(ready, batch)
        _tell(batch)
        batch.clear()

    def _write_one_by_one(self, ready: Sequence[_Ready], batch: deque[Entry]) -> None:
        for each in ready:
            try:
                self._commit([each])
            except Exception as error:
                if not _is_about_a_row(error):
                    raise
                self.fault.lose(1, f"the database refuses a row ({type(original(error)).__name__})")
            batch.remove(each.entry)
            _tell([each.entry])

    def _commit(self, ready: Sequence[_Ready]) -> None:
        rows = [each.row for each in ready if each.row is not None]
        with self.connection.transaction(self._database.begin_write) as cursor:
            if rows:
                cursor.executemany(self._insert, rows)
                repeated = len(rows) - cursor.rowcount
            cursor.executemany(self._release, [each.reservation for each in ready])
        if rows and repeated:  # after a connection broke in the midst of a commit, or if two share a number
            logger.warning("The ledger %s had %d of the attempts already.", self._database.place, repeated)

    def _ready(self, entry: Entry) -> _Ready | None:
        item = entry.item
        if isinstance(item, Release):
            return _Ready(entry, None, item)
        try:
            row = to_row(item)
        except Exception as error:  # noqa: BLE001  a record that is none must not keep the others out
            self.fault.lose(1, f"a record cannot be a row ({type(error).__name__})")
            return None
        return _Ready(entry, row, Release(str(item.call_id), item.attempt))

    def _let_nobody_wait(self, words: str) -> None:
        entries = [self._queue.popleft() for _ in range(len(self._queue))]
        self._queue.extendleft(Entry(entry.item) for entry in reversed(entries))
        self.fault.begin(words, waiting=self.waiting)
        self._drop_what_is_too_much()
        _tell(entries)

    def _drop_what_is_too_much(self) -> None:
        lost = 0
        while len(self._queue) > MAX_KEPT:
            entry = self._queue.pop()
            lost += isinstance(entry.item, AttemptRecord)
            _tell([entry])
        if lost:
            self.fault.lose(lost, f"only {MAX_KEPT} are kept while it cannot be written")


def _is_about_a_row(error: BaseException) -> bool:
    """Tell a row that no database would take from a database that takes nothing now."""
    names = {kind.__name__ for kind in type(original(error)).__mro__}
    return bool(names & {"DataError", "IntegrityError", "OverflowError", "TypeError", "ValueError"})


def _tell(entries: Iterable[Entry]) -> None:
    """Wake the tasks that wait, each in its own event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for _, waiter in entries:
        if waiter is not None:
            by_loop.setdefault(waiter.get_loop(), []).append(waiter)
    for loop, waiters in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_finish, waiters)


def _finish(waiters: Iterable[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():  # its task may have been cancelled
            waiter.set_result(None)
