"""A ledger in PostgreSQL, for teams: the extra `postgres` brings the driver.

Invariant: writers take turns by an advisory lock that ends with their transaction. Makes no database
and no role.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine.interfaces import DBAPIConnection

from lc_service.accounting.ledger.database import Database, Durability
from lc_service.accounting.ledger.error import LedgerError

_LOCK = 0x6C63_7365_7276_6963  # "lcservic": the same for every ledger of a database


class PostgresDatabase(Database):
    """A PostgreSQL database.

    Args:
        url: Of any driver; psycopg is what is used.
        durability: As `UsageLedger` takes it; here it is about a crash of the server.
        busy_timeout_seconds: How long to wait while another program writes.

    Raises:
        LedgerError: psycopg is not installed.
    """

    begin = "SELECT 1"  # the driver begins by itself
    begin_write: str

    def __init__(self, url: sa.URL, durability: Durability, busy_timeout_seconds: float) -> None:
        self._busy_timeout_seconds = busy_timeout_seconds
        is_synchronous = "on" if durability == "power" else "off"
        # for this transaction only, so that it works through a connection pooler too
        self.begin_write = (
            f"SELECT set_config('synchronous_commit', '{is_synchronous}', true), "
            f"set_config('lock_timeout', '{max(1, round(busy_timeout_seconds * 1e3))}', true), "
            f"pg_advisory_xact_lock({_LOCK})"
        )
        url = url.set(drivername="postgresql+psycopg")
        self.place = url.set(drivername="postgresql").render_as_string(hide_password=True)
        try:
            self.engine = sa.create_engine(
                url, poolclass=sa.NullPool, paramstyle="format", connect_args=_patience(url)
            )
        except ModuleNotFoundError as error:
            raise LedgerError(
                f'The ledger {self.place} needs psycopg: pip install "lc-service[postgres]".'
            ) from error

    def insert(self, table: sa.Table) -> sa.Insert:
        """Return an insert that leaves alone what is there already."""
        return postgresql.insert(table).on_conflict_do_nothing().inline()

    def holds(self, tags: sa.Column[str], tag: sa.BindParameter[str]) -> sa.ColumnElement[bool]:
        """Return the condition that a JSON array of tags has this tag."""
        return sa.cast(tags, postgresql.JSONB).op("?", return_type=sa.Boolean())(tag)

    def set_up(self, connection: DBAPIConnection) -> None:
        """Do nothing: settings are made by transaction."""

    def prepare(self) -> None:
        """Connect, and bring the schema to this version.

        Raises:
            LedgerError: It cannot be a ledger: the words say why.
        """
        self.migrate()

    def explain(self, error: BaseException) -> str:
        """Say what an error of the server or the driver means."""
        if getattr(error, "sqlstate", None) == "55P03":  # lock_not_available
            words = f"has been locked by another program for more than {self._busy_timeout_seconds:g} s."
        else:
            first_line = str(error).strip().partition("\n")[0]
            words = f"cannot be used: {type(error).__name__}: {first_line}"
        return f"The ledger {self.place} {words}"


def _patience(url: sa.URL) -> dict[str, int]:
    """Return libpq's settings that end a wait for a server that is gone, but for those that the URL has."""
    settings = {
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
    }
    return {name: value for name, value in settings.items() if name not in url.query}
