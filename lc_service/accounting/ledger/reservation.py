"""What budgets set aside, each in a transaction that is alone in writing: no two can spend the same dollar.

Invariant: a reservation goes only when its attempt is recorded or released; one whose process died counts as
spent once its lease is over. The caller holds the transaction.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPICursor

from lc_service import clock
from lc_service.accounting.ledger.database import Database, Statement
from lc_service.accounting.ledger.row import clean, from_picousd, to_microseconds, to_picousd, to_tags
from lc_service.accounting.ledger.schema import attempts, reservations
from lc_service.accounting.spending import Amount, AttemptRequest, Balance, Scope

_MILLION: sa.ColumnElement[int] = sa.literal_column("1000000", sa.BigInteger)
_ALWAYS = -(2**63)
_MAX_SCOPES = 256  # a scope with a moving `since` is a new one each time


class _Sum(NamedTuple):
    last_id: int = 0
    tokens: int = 0
    picousd: int = 0


class Reservations:
    """Reservations and what they are held against, for one connection and whoever holds its lock.

    What was spent is added up once a scope; from then on only newer rows are, which works because rows are
    only ever added, with growing ids.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sums: dict[Scope, _Sum] = {}
        self._spent = cache(self._spent_statement)
        self._reserved = cache(self._reserved_statement)
        columns, tag_columns = reservations.c, ("call_id", "attempt")
        own = sa.and_(*(columns[name] == sa.bindparam(f"own_{name}") for name in tag_columns))
        self._last_id = Statement(database, sa.select(sa.func.coalesce(sa.func.max(attempts.c.id), 0)))
        self._own = Statement(
            database, sa.select(columns.tokens, columns.picousd, columns.expires_at).where(own)
        )
        self._remove = Statement(database, sa.delete(reservations).where(own))
        values: dict[str, sa.BindParameter[object]] = {
            column.name: sa.bindparam(column.name) for column in columns
        }
        self._add = Statement(database, sa.insert(reservations).values(values))

    def try_reserve(
        self,
        cursor: DBAPICursor,
        request: AttemptRequest,
        amount: Amount,
        *,
        limit_tokens: int | None,
        limit_usd: Decimal | None,
        scope: Scope,
        lease_seconds: float,
    ) -> tuple[bool, Balance]:
        """Set an amount aside if it fits. See `UsageLedger.try_reserve`."""
        own_call_id, own_attempt = str(request.call_id), request.attempt
        balance = self.balance(cursor, scope, own_call_id=own_call_id, own_attempt=own_attempt)
        gone = balance.spent + balance.reserved + amount
        if limit_tokens is not None and gone.tokens > limit_tokens:
            return False, balance
        if limit_usd is not None and gone.usd > limit_usd:
            return False, balance
        tokens, picousd = amount.tokens, to_picousd(amount.usd)
        expires_at = int((clock.wall() + lease_seconds) * 1e6)
        if own := self._own.run(
            cursor, own_call_id=own_call_id, own_attempt=own_attempt
        ).fetchone():  # another budget's: the larger covers both
            tokens, picousd, expires_at = map(max, zip(own, (tokens, picousd, expires_at), strict=True))
            self._remove.run(cursor, own_call_id=own_call_id, own_attempt=own_attempt)
        self._add.run(
            cursor,
            call_id=own_call_id,
            attempt=own_attempt,
            tokens=tokens,
            picousd=picousd,
            tags=to_tags(request.tags),
            started_at=to_microseconds(request.at),
            expires_at=expires_at,
        )
        return True, balance

    def balance(
        self, cursor: DBAPICursor, scope: Scope, *, own_call_id: str = "", own_attempt: int = 0
    ) -> Balance:
        """Return what is gone, without one attempt's own reservation."""
        spent = self._add_up(cursor, scope)
        parameters = self._parameters(scope)
        rows = self._reserved(scope.tag is not None).run(
            cursor,
            now=int(clock.wall() * 1e6),
            own_call_id=own_call_id,
            own_attempt=own_attempt,
            **parameters,
        )
        expired = Amount()
        reserved = Amount()
        for is_expired, tokens, *usd in rows.fetchall():
            amount = Amount(tokens=int(tokens), usd=from_picousd(_joined(*usd)))
            if is_expired:
                expired = amount
            else:
                reserved = amount
        known = Amount(tokens=spent.tokens, usd=from_picousd(spent.picousd))
        return Balance(spent=known + expired, reserved=reserved)

    def _add_up(self, cursor: DBAPICursor, scope: Scope) -> _Sum:
        known = self._sums.get(scope, _Sum())
        ((last_id,),) = self._last_id.run(cursor).fetchall()
        if last_id < known.last_id:  # somebody removed rows
            known = _Sum()
        if last_id > known.last_id:
            statement = self._spent(scope.tag is not None)
            ((tokens, *usd),) = statement.run(
                cursor, seen_id=known.last_id, last_id=last_id, **self._parameters(scope)
            ).fetchall()
            known = _Sum(last_id, known.tokens + int(tokens or 0), known.picousd + _joined(*usd))
            if len(self._sums) >= _MAX_SCOPES:
                self._sums.clear()
            self._sums[scope] = known
        return known

    @staticmethod
    def _parameters(scope: Scope) -> dict[str, object]:
        since = _ALWAYS if scope.since is None else to_microseconds(scope.since)
        return {"since": since} | ({} if scope.tag is None else {"tag": clean(scope.tag)})

    def _spent_statement(self, has_tag: bool) -> Statement:
        columns = attempts.c
        select = sa.select(sa.func.sum(columns.charged_tokens), *_split_sum(columns.charged_picousd)).where(
            columns.started_at >= sa.bindparam("since"),
            columns.id > sa.bindparam("seen_id"),
            columns.id <= sa.bindparam("last_id"),
        )
        return self._tagged(select, columns.tags, has_tag=has_tag)

    def _reserved_statement(self, has_tag: bool) -> Statement:
        columns = reservations.c
        is_expired = (columns.expires_at <= sa.bindparam("now")).label("is_expired")
        select = sa.select(is_expired, sa.func.sum(columns.tokens), *_split_sum(columns.picousd))
        is_own = (columns.call_id == sa.bindparam("own_call_id")) & (
            columns.attempt == sa.bindparam("own_attempt")
        )
        select = select.where(columns.started_at >= sa.bindparam("since"), ~is_own)
        return self._tagged(select.group_by(sa.text("is_expired")), columns.tags, has_tag=has_tag)

    def _tagged(
        self, select: sa.Select[*tuple[Any, ...]], tags: sa.Column[str], *, has_tag: bool
    ) -> Statement:
        if has_tag:
            select = select.where(self._database.holds(tags, sa.bindparam("tag", type_=sa.Text)))
        return Statement(self._database, select)


def _split_sum(column: sa.Column[int]) -> tuple[sa.ColumnElement[int], sa.ColumnElement[int]]:
    """Add up in two parts: SQLite's sums end at nine million dollars."""
    return sa.func.sum(column // _MILLION), sa.func.sum(column % _MILLION)


def _joined(millions: int | None, rest: int | None) -> int:
    return int(millions or 0) * 1_000_000 + int(rest or 0)
