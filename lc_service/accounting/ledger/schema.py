"""The ledger's tables: attempts, which only grow, and reservations, which come and go.

Money is a whole number of 1e-12 USD, moments are microseconds since 1970 in UTC. Neither prompts nor answers
have a column.
"""

from __future__ import annotations

import sqlalchemy as sa

from lc_service.accounting.ledger.row import FIELDS
from lc_service.accounting.usage import USAGE_FIELDS

metadata = sa.MetaData()

_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only an INTEGER PRIMARY KEY


def _number(name: str, *, is_optional: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=is_optional)


def _text(name: str, *, is_optional: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=is_optional)


def _seconds(name: str, *, is_optional: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=is_optional)


attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("id", _id, sa.Identity(), primary_key=True),
    _text("call_id"),
    _number("attempt"),
    _text("run_id"),
    _text("operation"),
    _text("model"),
    _text("response_model", is_optional=True),
    _text("status"),
    _text("certainty"),
    *(_number(name) for name in USAGE_FIELDS),
    _text("service_tier", is_optional=True),
    _number("started_at"),
    _seconds("latency_seconds"),
    _seconds("first_chunk_seconds", is_optional=True),
    _text("error_kind", is_optional=True),
    _number("status_code", is_optional=True),
    _text("request_id", is_optional=True),
    sa.Column("is_stream", sa.Boolean, nullable=False),
    _text("tags"),
    _text("metadata"),
    _number("reserved_tokens"),
    _number("reserved_picousd", is_optional=True),
    _number("cost_picousd", is_optional=True),
    _number("charged_tokens"),
    _number("charged_picousd"),
    sa.UniqueConstraint("call_id", "attempt", name="attempts_call_id_attempt"),
    # in a SQLite file it would make a row half as dear again, and reading it all takes less than a second
    sa.Index("attempts_started_at", "started_at").ddl_if(dialect="postgresql"),
)
"""One row an attempt, numbered in the order of their commits; NULL in `cost_picousd` is an unknown price."""

reservations = sa.Table(
    "reservations",
    metadata,
    _text("call_id"),
    _number("attempt"),
    _number("tokens"),
    _number("picousd"),
    _text("tags"),
    _number("started_at"),
    _number("expires_at"),
    sa.PrimaryKeyConstraint("call_id", "attempt", name="reservations_call_id_attempt"),
)
"""What budgets have set aside for attempts that have no row yet."""

migrations = sa.Table(
    "ledger_migrations",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    _number("applied_at"),
)
"""Which changes to the schema this database has seen."""

ROW = tuple(attempts.c[name] for name in FIELDS)
"""The columns of a row, in its order."""
