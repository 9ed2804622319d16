"""Where a ledger is kept, whichever database that is: how to connect, to keep others out, and to word errors.

Invariant: one writer at a time, so that rows are numbered in the order of their commits. Runs no queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.pool import PoolProxiedConnection

from lc_service.accounting.ledger.error import LedgerError
from lc_service.accounting.ledger.migration import migrate

Durability = Literal["process", "power", "buffered"]


class Database(ABC):
    """One database, of any kind. Thread-safe; connections are their users' own.

    Attributes:
        place: Its name for people, without a password.
        engine: SQLAlchemy's.
        begin: SQL that begins to read.
        begin_write: SQL that begins a transaction which is alone in writing; waits for its turn.
    """

    place: str
    engine: sa.Engine
    begin: str
    begin_write: str

    @abstractmethod
    def insert(self, table: sa.Table) -> sa.Insert:
        """Return an insert that leaves alone what is there already."""

    @abstractmethod
    def holds(self, tags: sa.Column[str], tag: sa.BindParameter[str]) -> sa.ColumnElement[bool]:
        """Return the condition that a JSON array of tags has this tag."""

    @abstractmethod
    def explain(self, error: BaseException) -> str:
        """Say what an error of the driver means, and what to do."""

    @abstractmethod
    def prepare(self) -> None:
        """Make sure that it can be written to and has this version's schema.

        Raises:
            LedgerError: It cannot.
        """

    @abstractmethod
    def set_up(self, connection: DBAPIConnection) -> None:
        """Give a new connection its settings."""

    def connect(self) -> PoolProxiedConnection:
        """Open a connection.

        Raises:
            Exception: Whatever the driver raises; `explain` words it.
        """
        connection = self.engine.raw_connection()
        try:
            self.set_up(connection.dbapi_connection)  # type: ignore[arg-type]  # it is fresh, so it is there
        except BaseException:
            connection.close()
            raise
        return connection

    def migrate(self) -> None:
        """Bring the schema to this version, alone.

        Raises:
            LedgerError: It is of a newer one, or cannot be written to.
        """
        try:
            with self.engine.connect() as connection:
                connection.exec_driver_sql(self.begin_write)
                migrate(connection, place=self.place)
                connection.commit()
        except sa.exc.SQLAlchemyError as error:
            raise self.error(error) from error

    def error(self, error: BaseException) -> LedgerError:
        """Return what to raise instead of an error of the driver."""
        return LedgerError(self.explain(original(error)))


class Statement:
    """SQL that Core made once, to be run on the driver's own cursor: Core's way takes three times as long."""

    def __init__(self, database: Database, construct: sa.ClauseElement) -> None:
        compiled: Any = construct.compile(dialect=database.engine.dialect)
        self.sql = str(compiled)
        self._names: Sequence[str] = compiled.positiontup
        self._fixed: Mapping[str, Any] = compiled.params

    def run(self, cursor: DBAPICursor, **values: object) -> DBAPICursor:
        """Run it once, with a value for each of its parameters."""
        fixed = self._fixed
        cursor.execute(self.sql, [values[name] if name in values else fixed[name] for name in self._names])
        return cursor


def original(error: BaseException) -> BaseException:
    """Return the driver's own error, where SQLAlchemy wrapped it."""
    inner = getattr(error, "orig", None)
    return inner if isinstance(inner, BaseException) else error
