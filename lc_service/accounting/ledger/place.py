"""Which database a path or a URL means. Opens nothing."""

from __future__ import annotations

import os

import sqlalchemy as sa

from lc_service.accounting.ledger.database import Database, Durability
from lc_service.accounting.ledger.error import LedgerError
from lc_service.accounting.ledger.postgres import PostgresDatabase
from lc_service.accounting.ledger.sqlite import SqliteDatabase


def find(
    path_or_url: str | os.PathLike[str], durability: Durability, busy_timeout_seconds: float
) -> Database:
    """Return the database that a path or a URL means.

    Raises:
        LedgerError: It means none that a ledger can be kept in.
    """
    text = os.fspath(path_or_url)
    if "://" not in text:
        return SqliteDatabase(_path(text), durability, busy_timeout_seconds)
    scheme = text.partition("://")[0]
    kind = scheme.partition("+")[0]
    try:
        url = sa.make_url("postgresql" + text[len(scheme) :] if kind == "postgres" else text)
    except (sa.exc.ArgumentError, ValueError):
        raise LedgerError("The ledger's URL cannot be read. Write postgresql://user@host/database.") from None
    if kind == "sqlite":
        return SqliteDatabase(_path(url.database or ""), durability, busy_timeout_seconds)
    if kind in ("postgres", "postgresql"):
        return PostgresDatabase(url, durability, busy_timeout_seconds)
    raise LedgerError(f"A ledger is a path, sqlite:///... or postgresql://..., not {scheme}://.")


def address(database: Database) -> str:
    """Return what finds the same database again, in another process and folder; with its password."""
    if isinstance(database, SqliteDatabase):
        return database.place
    return database.engine.url.render_as_string(hide_password=False)


def _path(path: str) -> str:
    if not path or path == ":memory:" or path.startswith("file:"):
        raise LedgerError("A ledger in memory would be lost with its process. Give it a path.")
    return os.path.abspath(path)
