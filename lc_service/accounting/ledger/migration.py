"""Numbered changes to the schema, each recorded in the database that it was made to.

A change that was released is never edited: what comes later gets the next number. Goes forward only.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from lc_service import clock
from lc_service.accounting.ledger.error import LedgerError
from lc_service.accounting.ledger.schema import attempts, migrations, reservations


def _add_attempts(connection: sa.Connection) -> None:
    attempts.create(connection)


def _add_reservations(connection: sa.Connection) -> None:
    reservations.create(connection)


_READABLE = """
CREATE VIEW attempts_readable AS
SELECT id, {started_at} AS started_at, operation, model, response_model, status, certainty,
       input_tokens, cached_input_tokens, output_tokens, reasoning_tokens,
       {cost_usd} AS cost_usd, latency_seconds, service_tier, error_kind, status_code, request_id,
       is_stream, tags, metadata, run_id, call_id, attempt
FROM attempts
"""
_WORDS = {
    "sqlite": {
        "started_at": "strftime('%Y-%m-%dT%H:%M:%S', started_at / 1000000, 'unixepoch') || "
        "printf('.%06dZ', started_at % 1000000)",
        "cost_usd": "cost_picousd / 1e12",
    },
    "postgresql": {
        "started_at": "to_timestamp(started_at / 1e6)",
        "cost_usd": "cost_picousd / 1000000000000.0",
    },
}


def _add_readable(connection: sa.Connection) -> None:
    words = _WORDS[connection.dialect.name]
    connection.exec_driver_sql(_READABLE.format_map(words))


MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (_add_attempts, _add_reservations, _add_readable)
"""The first makes version 1 of an empty database, the next version 2 of that, and so on."""


def migrate(connection: sa.Connection, *, place: str) -> None:
    """Bring a database to this version, within the caller's transaction, which keeps others out.

    Args:
        connection: In a transaction that can write.
        place: The database's name, for the error.

    Raises:
        LedgerError: A newer version has been here.
        sqlalchemy.exc.DBAPIError: The database cannot be written to.
    """
    migrations.create(connection, checkfirst=True)
    version = connection.scalar(sa.select(sa.func.max(migrations.c.version))) or 0
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"{place} was made by a newer lc-service: its schema is version {version}, this one knows "
            f"{len(MIGRATIONS)}. Upgrade lc-service, or choose another place for the ledger."
        )
    for number, change in enumerate(MIGRATIONS[version:], start=version + 1):
        change(connection)
        applied_at = int(clock.wall() * 1e6)
        connection.execute(migrations.insert().values(version=number, applied_at=applied_at))
    nothing = sa.select(attempts).where(sa.false())
    connection.execute(
        attempts.insert().from_select(attempts.columns.keys(), nothing)
    )  # refused if read-only
