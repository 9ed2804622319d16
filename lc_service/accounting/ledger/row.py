"""An attempt as a row of the ledger, and back: exact money, UTC microseconds, JSON for tags and metadata.

Invariant: what a row says never changes, a price of today does not touch it. No SQL and no I/O here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Context, Decimal
from functools import lru_cache
from operator import attrgetter
from typing import Any, cast
from uuid import UUID

from lc_service.accounting.record import AttemptRecord, AttemptStatus, Certainty, Operation
from lc_service.accounting.spending import charge_at
from lc_service.accounting.usage import USAGE_FIELDS, TokenUsage

Row = tuple[str | int | float | bool | None, ...]

FIELDS = (
    "call_id", "attempt", "run_id", "operation", "model", "response_model", "status", "certainty",
    *USAGE_FIELDS,
    "service_tier", "started_at", "latency_seconds", "first_chunk_seconds", "error_kind", "status_code",
    "request_id", "is_stream", "tags", "metadata", "reserved_tokens", "reserved_picousd",
    "cost_picousd", "charged_tokens", "charged_picousd",
)  # fmt: skip
"""The columns of a row, in its order."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EXACT = Context(prec=60, rounding=ROUND_CEILING)  # a budget never sees less than was spent
_LARGEST = 2**63 - 1  # what a database holds: nine million dollars
_usage_values = attrgetter(*USAGE_FIELDS)
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str).encode


def to_row(record: AttemptRecord) -> Row:
    """Return the row of an attempt, priced now. The first price of a process takes a quarter of a second."""
    cost_usd = record.cost_usd
    charged = charge_at(record, cost_usd)
    return (
        str(record.call_id),
        record.attempt,
        str(record.run_id),
        record.operation,
        clean(record.model),
        _clean_or_none(record.response_model),
        record.status.value,
        record.certainty.value,
        *_usage_values(record.usage),
        _clean_or_none(record.service_tier),
        to_microseconds(record.started_at),
        record.latency_seconds,
        record.first_chunk_seconds,
        _clean_or_none(record.error_kind),
        record.status_code,
        _clean_or_none(record.request_id),
        record.is_stream,
        to_tags(record.tags),
        _to_json(dict(record.metadata)) if record.metadata else "{}",
        record.reserved_tokens,
        None if record.reserved_usd is None else to_picousd(record.reserved_usd),
        None if cost_usd is None else to_picousd(cost_usd),
        charged.tokens,
        to_picousd(charged.usd),
    )


def to_record(row: Sequence[Any]) -> AttemptRecord:
    """Return the attempt of a row in the order of `FIELDS`."""
    value = dict(zip(FIELDS, row, strict=True))
    reserved_picousd = value["reserved_picousd"]
    return AttemptRecord(
        run_id=UUID(value["run_id"]),
        call_id=UUID(value["call_id"]),
        attempt=value["attempt"],
        operation=cast("Operation", value["operation"]),
        model=value["model"],
        response_model=value["response_model"],
        status=AttemptStatus(value["status"]),
        certainty=Certainty(value["certainty"]),
        usage=TokenUsage(**{name: value[name] for name in USAGE_FIELDS}),
        service_tier=value["service_tier"],
        started_at=from_microseconds(value["started_at"]),
        latency_seconds=value["latency_seconds"],
        first_chunk_seconds=value["first_chunk_seconds"],
        error_kind=value["error_kind"],
        status_code=value["status_code"],
        request_id=value["request_id"],
        is_stream=bool(value["is_stream"]),
        tags=from_tags(value["tags"]),
        metadata=json.loads(value["metadata"]),
        reserved_tokens=value["reserved_tokens"],
        reserved_usd=None if reserved_picousd is None else from_picousd(reserved_picousd),
    )


def to_picousd(usd: Decimal) -> int:
    """Return USD in units of 1e-12, rounded up."""
    scaled = _EXACT.scaleb(usd, 12)
    return min(int(scaled.to_integral_value(context=_EXACT)), _LARGEST)


def from_picousd(picousd: int) -> Decimal:
    """Return USD from units of 1e-12, exactly."""
    return _EXACT.scaleb(Decimal(picousd), -12) if picousd else Decimal()


def to_microseconds(moment: datetime) -> int:
    """Return microseconds since 1970, UTC; a moment without a time zone is UTC."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """Return the moment in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


@lru_cache(maxsize=1_024)
def to_tags(tags: tuple[str, ...]) -> str:
    """Return tags as a JSON array, in their order."""
    return _to_json([clean(tag) for tag in tags])


@lru_cache(maxsize=1_024)
def from_tags(text: str) -> tuple[str, ...]:
    """Return the tags of a JSON array."""
    return tuple(json.loads(text))


def clean(text: str) -> str:
    """Return text as every database takes it: without NUL, and without halves of characters."""
    if text.isprintable():
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _clean_or_none(text: str | None) -> str | None:
    return None if text is None else clean(text)


def _to_json(value: list[str] | dict[str, Any]) -> str:
    if isinstance(value, dict):
        value = {clean(k): clean(v) if isinstance(v, str) else v for k, v in value.items()}
    return _encode(value)
