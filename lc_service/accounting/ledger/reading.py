"""Reading a ledger: sums by SQL's GROUP BY, and attempts one after another.

Invariant: what is read was stored, prices too; nothing is priced or estimated here. Writes nothing, and keeps
no transaction open between two rows.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPICursor

from lc_service.accounting.ledger.connection import Connection
from lc_service.accounting.ledger.database import Database, Statement
from lc_service.accounting.ledger.row import (
    from_microseconds,
    from_picousd,
    from_tags,
    to_microseconds,
    to_record,
)
from lc_service.accounting.ledger.schema import ROW, attempts
from lc_service.accounting.record import AttemptRecord, Certainty, MetadataValue
from lc_service.accounting.usage import USAGE_FIELDS, TokenUsage
from lc_service.accounting.usage_line import LineKey, UsageLine

Resolution = Literal["minute", "hour", "day"]
_MICROSECONDS = {"minute": 60_000_000, "hour": 3_600_000_000, "day": 86_400_000_000}
_PAGE = 1_000
_ALWAYS, _NEVER = -(2**63), 2**63 - 1


class Reader:
    """A connection that reads. Thread-safe; one query at a time.

    Attributes:
        connection: Closed and opened as needed.
    """

    def __init__(self, database: Database) -> None:
        self.connection = Connection(database)
        self._database = database
        self._lines: dict[str, Statement] = {}
        columns = attempts.c
        self._last_id = Statement(database, sa.select(sa.func.coalesce(sa.func.max(columns.id), 0)))
        within = sa.and_(columns.id > sa.bindparam("seen_id"), columns.id <= sa.bindparam("last_id"))
        page = sa.select(columns.id, *ROW).where(within, _during(columns)).order_by(columns.id)
        self._page = Statement(database, page.limit(sa.literal_column(str(_PAGE))))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[DBAPICursor]:
        """Read within one transaction.

        Raises:
            LedgerError: The database cannot be read.
        """
        with self.connection.lock:
            try:
                with self.connection.transaction(self._database.begin) as cursor:
                    yield cursor
            except Exception as error:
                raise self._database.error(error) from error

    def lines(
        self, since: datetime | None, until: datetime | None, resolution: Resolution
    ) -> dict[LineKey, UsageLine]:
        """See `UsageLedger.lines`."""
        statement = self._lines.get(resolution)
        if statement is None:
            statement = self._lines[resolution] = Statement(self._database, _lines(resolution))
        with self.transaction() as cursor:
            rows = statement.run(cursor, **_bounds(since, until)).fetchall()
        return dict(map(_line, rows))

    def records(self, since: datetime | None, until: datetime | None) -> Iterator[AttemptRecord]:
        """See `UsageLedger.records`."""
        bounds = _bounds(since, until)
        with self.transaction() as cursor:
            ((last_id,),) = self._last_id.run(cursor).fetchall()
        seen_id = 0
        while True:
            with self.transaction() as cursor:
                rows = self._page.run(cursor, seen_id=seen_id, last_id=last_id, **bounds).fetchall()
            yield from (to_record(row[1:]) for row in rows)
            if len(rows) < _PAGE:
                return
            seen_id = rows[-1][0]


def _during(columns: Any) -> sa.ColumnElement[bool]:
    return sa.and_(columns.started_at >= sa.bindparam("since"), columns.started_at < sa.bindparam("until"))


def _bounds(since: datetime | None, until: datetime | None) -> dict[str, int]:
    return {
        "since": _ALWAYS if since is None else to_microseconds(since),
        "until": _NEVER if until is None else to_microseconds(until),
    }


def _lines(resolution: Resolution) -> sa.Select[Any]:
    columns = attempts.c
    span: sa.ColumnElement[int] = sa.literal_column(str(_MICROSECONDS[resolution]), sa.BigInteger)
    at = (columns.started_at - columns.started_at % span).label("at")
    keys = (columns.model, columns.operation, columns.status, at, columns.tags, columns.metadata)

    def count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((condition, sa.literal_column("1")), else_=sa.literal_column("0")))

    million: sa.ColumnElement[int] = sa.literal_column("1000000", sa.BigInteger)
    return (
        sa.select(
            *keys,
            count(columns.attempt == sa.literal_column("1")),
            sa.func.count(),
            count(columns.certainty == Certainty.ESTIMATED.value),
            count(columns.certainty == Certainty.UNKNOWN.value),
            *(sa.func.sum(columns[name]) for name in USAGE_FIELDS),
            sa.func.sum(
                columns.cost_picousd // million
            ),  # in two parts: SQLite's sums end at nine million USD
            sa.func.sum(columns.cost_picousd % million),
            sa.func.count() - sa.func.count(columns.cost_picousd),
        )
        .where(_during(columns))
        .group_by(*(sa.text(key.name) for key in keys))
        .order_by(sa.func.min(columns.id))
    )


def _line(row: Any) -> tuple[LineKey, UsageLine]:
    model, operation, status, at, tags, metadata, *sums = row
    calls, number, estimated, unknown, *usage, millions, rest, unpriced = (int(each or 0) for each in sums)
    key = LineKey(model, operation, status, from_microseconds(at), from_tags(tags), _metadata(metadata))
    return key, UsageLine(
        calls=calls,
        attempts=number,
        estimated=estimated,
        unknown=unknown,
        usage=TokenUsage(**dict(zip(USAGE_FIELDS, usage, strict=True))),
        cost_usd=from_picousd(millions * 1_000_000 + rest),
        unpriced=unpriced,
    )


@lru_cache(maxsize=1_024)
def _metadata(text: str) -> tuple[tuple[str, MetadataValue], ...]:
    return tuple(json.loads(text).items())
