"""A ledger in a SQLite file: write-ahead log, one writer at a time, readable by its owner only.

Invariant: a file that cannot be kept is refused when it is opened. Does not wait without end for a lock.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection

from lc_service import clock
from lc_service.accounting.ledger.database import Database, Durability
from lc_service.accounting.ledger.error import LedgerError

_LOG_PAGES = 4_000  # 16 MB: whoever fills it waits for the disk, so not every 300 attempts
_CHECKED_BYTES = 64 * 2**20  # a check reads it all: a fifth of a second
_WORDS = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite database. Choose another path.",
    sqlite3.SQLITE_CORRUPT: "is damaged. Move it away with its -wal file; restore a copy, or run sqlite3's "
    ".recover on it.",
    sqlite3.SQLITE_READONLY: "cannot be written. Check the permissions of the file and of its folder.",
    sqlite3.SQLITE_PERM: "cannot be written. Check the permissions of the file and of its folder.",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened. Check that its folder is there and can be written to.",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full. Make room.",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk reports an error, or is full.",
}


class SqliteDatabase(Database):
    """A file, and the -wal and -shm files that SQLite keeps beside it.

    Args:
        path: The file; made where it is missing, its folder is not.
        durability: As `UsageLedger` takes it.
        busy_timeout_seconds: How long to wait while another process writes.
    """

    begin = "BEGIN"
    begin_write = "BEGIN IMMEDIATE"

    def __init__(self, path: str, durability: Durability, busy_timeout_seconds: float) -> None:
        self.place = path
        self._busy_timeout_seconds = busy_timeout_seconds
        self._synchronous = "FULL" if durability == "power" else "NORMAL"
        self.engine = sa.create_engine(
            sa.URL.create("sqlite", database=path),
            poolclass=sa.NullPool,
            connect_args={
                "isolation_level": None,  # transactions begin where we say so
                "check_same_thread": False,
                "timeout": busy_timeout_seconds,
            },
        )

    def insert(self, table: sa.Table) -> sa.Insert:
        """Return an insert that leaves alone what is there already."""
        return sqlite.insert(table).on_conflict_do_nothing()

    def holds(self, tags: sa.Column[str], tag: sa.BindParameter[str]) -> sa.ColumnElement[bool]:
        """Return the condition that a JSON array of tags has this tag."""
        each = sa.func.json_each(tags).table_valued("value")
        return sa.exists().select_from(each).where(each.c.value == tag)

    def set_up(self, connection: DBAPIConnection) -> None:
        """Set how much a commit waits for the disk."""
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        cursor.execute(f"PRAGMA synchronous={self._synchronous}")
        cursor.execute("PRAGMA fullfsync=ON")  # macOS: an fsync that means it
        cursor.close()

    def prepare(self) -> None:
        """Make the file where it is missing, check it, and bring its schema to this version.

        Raises:
            LedgerError: It cannot be a ledger: the words say why.
        """
        self._make_file()
        try:
            with contextlib.closing(self.connect()) as connection:
                cursor = connection.cursor()
                if os.path.getsize(self.place) <= _CHECKED_BYTES:
                    self._check(cursor)
                self._use_write_ahead_log(cursor)
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise self.error(error) from error
        self.migrate()

    def explain(self, error: BaseException) -> str:
        """Say what an error of SQLite means, and what to do."""
        code = getattr(error, "sqlite_errorcode", None)
        if isinstance(code, int) and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            words = f"has been locked by another program for more than {self._busy_timeout_seconds:g} s."
        elif isinstance(code, int) and code & 0xFF in _WORDS:
            words = _WORDS[code & 0xFF]
        else:
            words = f"cannot be used: {type(error).__name__}: {error}."
        return f"The ledger {self.place} {words}"

    def _make_file(self) -> None:
        folder = os.path.dirname(self.place)
        if os.path.isdir(self.place):
            raise LedgerError(f"The ledger {self.place} is a folder. Name a file in it.")
        if not os.path.isdir(folder):
            raise LedgerError(f"The ledger's folder {folder} is not there. Make it first.")
        try:  # a file that is there is never opened here: closing it would drop this process's locks on it
            os.close(os.open(self.place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return
        except OSError as error:
            raise LedgerError(f"The ledger {self.place} cannot be made: {error.strerror}.") from error
        with contextlib.suppress(
            OSError
        ):  # where folders can be synced, the new file's name outlives a power cut
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _check(self, cursor: sqlite3.Cursor | sa.engine.interfaces.DBAPICursor) -> None:
        cursor.execute("PRAGMA quick_check(1)")
        if cursor.fetchone()[0] != "ok":  # type: ignore[index]  # the check always answers
            raise LedgerError(f"The ledger {self.place} {_WORDS[sqlite3.SQLITE_CORRUPT]}")

    def _use_write_ahead_log(self, cursor: sqlite3.Cursor | sa.engine.interfaces.DBAPICursor) -> None:
        deadline = clock.now() + self._busy_timeout_seconds
        while True:
            try:
                cursor.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as error:  # SQLite itself does not wait here
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or clock.now() > deadline:
                    raise
                clock.sleep(0.01)
        if (mode := cursor.fetchone()[0]) != "wal":  # type: ignore[index]  # the pragma always answers
            raise LedgerError(
                f"The ledger {self.place} is where SQLite cannot keep a write-ahead log (but {mode!r}): a "
                "network drive, for example. Choose a local disk, or PostgreSQL."
            )
