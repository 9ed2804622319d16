"""The ledger as its users know it: record attempts, read them back, hold budgets against them.

Invariant: recording never fails a call; what cannot work is refused when it is made, with SQLAlchemy loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Self, get_args
from uuid import UUID

from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.spending import Amount, AttemptRequest, Balance, Scope
from lc_service.accounting.usage_line import LineKey, UsageLine

if TYPE_CHECKING:
    from lc_service.accounting.ledger.writer import Entry

Durability = Literal["process", "power", "buffered"]
Resolution = Literal["minute", "hour", "day"]


class UsageLedger:
    """A durable, append-only record of every attempt, in a SQLite file or a PostgreSQL database.

    Thread-safe, for any number of event loops and processes at once. After a fork, parent and child go on
    with connections of their own; a pickled ledger opens its database again where it is unpickled. Holds no
    prompt, no answer and no error text.

    While the database cannot be written (a full disk, a lock that is held too long, a lost server) calls go
    on: that is an error in the log, `unwritten` counts, and up to 10,000 attempts are kept to be written when
    it can be again.

    Args:
        path_or_url: A SQLite file, which is made with access for its owner only, or a URL: `sqlite:///...` or
            `postgresql://...`, which needs the extra `postgres`.
        durability: What has happened when `record` returns. `"process"`: committed; a killed process loses
            nothing, a power cut may take the last moments. `"power"`: on the disk. `"buffered"`: queued; a
            killed process may lose the last 100 ms.
        busy_timeout_seconds: How long to wait while others write, before that counts as a fault.

    Raises:
        LedgerError: It cannot be a ledger: it cannot be written, is damaged, is no database, or was made by a
            newer version. The words say what to do.
        ValueError: An argument is none of what it may be.
    """

    def __init__(
        self,
        path_or_url: str | os.PathLike[str],
        *,
        durability: Durability = "process",
        busy_timeout_seconds: float = 30.0,
    ) -> None:
        from lc_service.accounting.ledger import courier, place, reading, reservation, writer  # noqa: PLC0415  slow

        if durability not in get_args(Durability):
            raise ValueError(f"durability is one of {get_args(Durability)}, not {durability!r}.")
        if not busy_timeout_seconds > 0:
            raise ValueError(f"busy_timeout_seconds must be above 0, not {busy_timeout_seconds!r}.")
        database = place.find(path_or_url, durability, busy_timeout_seconds)
        database.prepare()
        self._options = (place.address(database), durability, busy_timeout_seconds)
        self._place = database.place
        self._is_buffered = durability == "buffered"
        self._reservations = reservation.Reservations(database)  # the writer's
        self._balances = reservation.Reservations(database)  # the reader's, whose sums may be a moment older
        self._reader = reading.Reader(database)
        self._writer = writer.Writer(database)
        self._courier = courier.Courier(self._writer, gathers=self._is_buffered)
        self._entry: type[Entry] = writer.Entry
        self._release = writer.Release
        weakref.finalize(self, self._courier.abandon).atexit = False  # at exit the courier closes by itself

    @property
    def unwritten(self) -> int:
        """How many attempts are not in the database because it could not be written."""
        fault = self._writer.fault
        return fault.lost + (0 if fault.words is None else self._writer.waiting)

    def record(self, record: AttemptRecord) -> None:
        """Record an attempt; blocks until it is as durable as promised.

        Never raises for the database: see `unwritten`. The first one in a process that has a price takes a
        quarter of a second longer.

        Args:
            record: The attempt. Recorded twice, it counts once.
        """
        self._put((self._entry(record),))

    def record_many(self, records: Iterable[AttemptRecord]) -> None:
        """Record attempts in few transactions; blocks until they are as durable as promised.

        Args:
            records: The attempts; all of them are read before the first is written.
        """
        self._put(map(self._entry, records))

    async def arecord(self, record: AttemptRecord) -> None:
        """Record an attempt; waits until it is as durable as promised, without blocking the event loop.

        A task that is cancelled while it waits has its attempt recorded all the same. Never raises for the
        database: see `unwritten`.

        Args:
            record: As for `record`.
        """
        waiter: asyncio.Future[None] | None = None
        if not self._is_buffered and self._writer.fault.words is None:
            with contextlib.suppress(RuntimeError):  # a coroutine that ends after its loop: nobody can wait
                waiter = asyncio.get_running_loop().create_future()
        self._writer.put((self._entry(record, waiter),))
        self._courier.wake()
        if waiter is not None:
            await waiter

    def post(self, record: AttemptRecord) -> None:
        """Queue an attempt for the ledger's thread, which writes it at once, or at exit: for finalizers.

        Never waits and never raises, but a killed process may lose it. At exit, without a thread, it writes.

        Args:
            record: As for `record`.
        """
        self._writer.post(self._entry(record))
        self._courier.wake(may_wait=False)

    def lines(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        resolution: Resolution = "day",
    ) -> dict[LineKey, UsageLine]:
        """Add attempts up, as they were priced when they were recorded.

        Args:
            since: Those that began then or later.
            until: Those that began before then.
            resolution: What the moments in the keys are rounded down to, in UTC.

        Returns:
            The sums, in the order in which they were begun.

        Raises:
            LedgerError: The database cannot be read.
            ValueError: `resolution` is none of these.
        """
        if resolution not in get_args(Resolution):
            raise ValueError(f"resolution is one of {get_args(Resolution)}, not {resolution!r}.")
        self.flush()
        return self._reader.lines(since, until, resolution)

    def records(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[AttemptRecord]:
        """Read attempts back, in the order in which they were recorded, a page at a time.

        Args:
            since: Those that began then or later.
            until: Those that began before then.

        Raises:
            LedgerError: The database cannot be read; raised as it is iterated over.
        """
        self.flush()
        return self._reader.records(since, until)

    def try_reserve(  # noqa: PLR0917  budgets name them
        self,
        request: AttemptRequest,
        amount: Amount,
        limit_tokens: int | None,
        limit_usd: Decimal | None,
        scope: Scope,
        lease_seconds: float,
    ) -> tuple[bool, Balance]:
        """Set an amount aside for an attempt, if limits allow it. Blocks; no two at once, in any process.

        Recording the attempt, or `release`, ends it. Several budgets can reserve for one attempt: the largest
        amount is kept. If the process dies, the amount counts as spent once the lease is over.

        Args:
            request: The attempt.
            amount: What it may take.
            limit_tokens: What all of the scope may come to, inclusive; no limit where None.
            limit_usd: The same in USD.
            scope: Which attempts count.
            lease_seconds: How long it is believed to be under way.

        Returns:
            Whether it fits, and the balance without this attempt's own reservation.

        Raises:
            LedgerError: The database cannot be written: nothing was set aside.
        """
        with self._writer.alone() as cursor:
            return self._reservations.try_reserve(
                cursor,
                request,
                amount,
                limit_tokens=limit_tokens,
                limit_usd=limit_usd,
                scope=scope,
                lease_seconds=lease_seconds,
            )

    def release(self, call_id: UUID, attempt: int) -> None:
        """Give back what was set aside for an attempt that was not sent. Never raises for the database.

        Args:
            call_id: The call, as in its request.
            attempt: The attempt's number within the call, from 1.
        """
        self._put((self._entry(self._release(str(call_id), attempt)),))

    def balance(self, scope: Scope) -> Balance:
        """Return what attempts of a scope have taken, and what is set aside for those under way.

        Args:
            scope: Which attempts count.

        Raises:
            LedgerError: The database cannot be read.
        """
        self.flush()
        with self._reader.transaction() as cursor:
            return self._balances.balance(cursor, scope)

    def flush(self) -> None:
        """Write what is queued, now. Blocks; never raises for the database: see `unwritten`."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is queued and close the connections. A closed ledger opens again when it is used."""
        self._courier.close()
        with self._reader.connection.lock:
            self._reader.connection.close()

    def _put(self, entries: Iterable[Entry]) -> None:
        self._writer.put(entries)
        if self._is_buffered:
            self._courier.wake()
            return
        self._writer.write()
        if self._writer.fault.words is not None:
            self._courier.wake()  # it tries again until it can

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where the ledger is and how it writes; for PostgreSQL that has the URL's password in it."""
        return _open, self._options

    def __repr__(self) -> str:
        return f"UsageLedger({self._place!r}, durability={self._options[1]!r})"


def _open(address: str, durability: Durability, busy_timeout_seconds: float) -> UsageLedger:
    return UsageLedger(address, durability=durability, busy_timeout_seconds=busy_timeout_seconds)
