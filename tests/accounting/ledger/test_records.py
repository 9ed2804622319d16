"""What goes into a ledger comes out of it, in SQLite and in PostgreSQL."""

from __future__ import annotations

import logging
import sqlite3
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.accounting.ledger import UsageLedger
from lc_service.accounting.ledger.row import FIELDS, from_picousd, to_picousd, to_record, to_row
from lc_service.accounting.record import AttemptRecord, AttemptStatus, Certainty
from lc_service.accounting.spending import Amount, AttemptRequest, Scope
from lc_service.accounting.usage import USAGE_FIELDS, TokenUsage
from lc_service.accounting.usage_line import LineKey, UsageLine

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
FULL = AttemptRecord(
    run_id=uuid.uuid4(),
    attempt=3,
    operation="embeddings",
    model="text-embedding-3-small",
    response_model="text-embedding-3-small-2",
    status=AttemptStatus.CANCELLED,
    certainty=Certainty.ESTIMATED,
    usage=TokenUsage(**{name: number + 1 for number, name in enumerate(USAGE_FIELDS)}),
    service_tier="flex",
    started_at=NOON + timedelta(microseconds=1),
    latency_seconds=1.25,
    first_chunk_seconds=0.125,
    error_kind="timeout",
    status_code=200,
    request_id="req_1",
    is_stream=True,
    tags=("b", "a", 'quote " and \\ and , and 🙂'),
    metadata={"user": "é", "n": 1, "share": 0.5, "is_test": True},
    reserved_tokens=50,
    reserved_usd=Decimal("0.000000000001"),
)


def test_every_field_comes_back(ledger: UsageLedger, make_attempt: Callable[..., AttemptRecord]) -> None:
    plain = make_attempt()
    ledger.record(FULL)
    ledger.record(plain)
    assert list(ledger.records()) == [FULL, plain]


texts = st.text(max_size=20)
numbers = st.integers(min_value=0, max_value=2**62)
records = st.builds(
    AttemptRecord,
    run_id=st.uuids(),
    attempt=st.integers(1, 1_000),
    operation=st.sampled_from(["chat", "embeddings"]),
    model=texts,
    response_model=st.none() | texts,
    status=st.sampled_from(AttemptStatus),
    certainty=st.sampled_from(Certainty),
    usage=st.builds(TokenUsage, **dict.fromkeys(USAGE_FIELDS, st.integers(0, 2**40))),
    service_tier=st.none() | texts,
    started_at=st.datetimes(
        min_value=datetime(1971, 1, 1),  # noqa: DTZ001  hypothesis adds the zone
        max_value=datetime(2200, 1, 1),  # noqa: DTZ001
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
    ),
    latency_seconds=st.floats(0, 1e6),
    first_chunk_seconds=st.none() | st.floats(0, 1e6),
    error_kind=st.none() | texts,
    status_code=st.none() | st.integers(100, 599),
    request_id=st.none() | texts,
    is_stream=st.booleans(),
    tags=st.lists(texts, max_size=4).map(tuple),
    metadata=st.dictionaries(texts, texts | st.booleans() | st.integers(-(2**70), 2**70), max_size=3),
    reserved_tokens=numbers,
    reserved_usd=st.none() | st.decimals(0, 10**6, places=12),
)


@given(records)
def test_any_record_survives_its_row(record: AttemptRecord) -> None:
    back = to_record(to_row(record))
    if "\0" not in repr(record) and "\\x00" not in repr(record):
        assert back == record
    assert to_row(back) == to_row(record)


def test_the_fields_are_the_columns(ledger: UsageLedger) -> None:
    from lc_service.accounting.ledger.schema import attempts

    assert ("id", *FIELDS) == tuple(column.name for column in attempts.columns)
    assert set(AttemptRecord.__dataclass_fields__) - {"usage", "reserved_usd"} <= set(FIELDS)
    assert set(USAGE_FIELDS) < set(FIELDS)


@pytest.mark.parametrize("text", ["a\0b", "half \ud800 a character", "\x00"])
def test_text_that_no_database_takes_is_mended(
    ledger: UsageLedger, make_attempt: Callable[..., AttemptRecord], text: str
) -> None:
    ledger.record(
        make_attempt(
            response_model=text, request_id=text, error_kind=text, tags=(text,), metadata={text: text}
        )
    )
    (record,) = ledger.records()
    assert record.response_model not in (None, text)
    assert record.tags == (record.response_model,) == tuple(record.metadata)
    assert ledger.unwritten == 0


@given(st.decimals(min_value=0, max_value=10**6, places=14))
def test_money_is_exact_to_a_picodollar_and_never_rounded_down(usd: Decimal) -> None:
    back = from_picousd(to_picousd(usd))
    assert usd <= back < usd + Decimal("1e-12")


def test_a_row_that_no_database_takes_is_reported_and_keeps_nothing_else_out(
    ledger: UsageLedger, make_attempt: Callable[..., AttemptRecord], caplog: pytest.LogCaptureFixture
) -> None:
    good = [make_attempt() for _ in range(3)]
    bad = [make_attempt(input_tokens=2**63), make_attempt(started_at="today")]
    with caplog.at_level(logging.ERROR):
        ledger.record_many([good[0], bad[0], good[1], bad[1], good[2]])
    assert list(ledger.records()) == good
    assert ledger.unwritten == 2
    assert "has lost 1 attempts" in caplog.text
    ledger.flush()
    assert ledger.unwritten == 2


def test_an_attempt_is_recorded_once(
    ledger: UsageLedger, make_attempt: Callable[..., AttemptRecord], caplog: pytest.LogCaptureFixture
) -> None:
    record = make_attempt()
    ledger.record(record)
    ledger.record_many([record, make_attempt(run_id=record.run_id, attempt=2)])
    assert [each.attempt for each in ledger.records()] == [1, 2]
    assert "had 1 of the attempts already" in caplog.text


def test_records_come_in_the_order_of_insertion_and_within_bounds(
    ledger: UsageLedger, make_attempt: Callable[..., AttemptRecord]
) -> None:
    moments = [NOON + timedelta(seconds=each) for each in (5, 1, 3)]
    made = [make_attempt(started_at=moment) for moment in moments]
    ledger.record_many(made)
    assert list(ledger.records()) == made
    since, until = NOON + timedelta(seconds=3), NOON + timedelta(seconds=5)
    assert list(ledger.records(since=since)) == [made[0], made[2]]
    assert list(ledger.records(until=until)) == [made[1], made[2]]
    assert list(ledger.records(since=since.replace(tzinfo=None), until=until)) == [made[2]]


def test_records_are_streamed_page_by_page_while_others_are_written(
    ledger: UsageLedger, make_attempt: Callable[..., AttemptRecord]
) -> None:
    made = [make_attempt() for _ in range(2_500)]
    ledger.record_many(made)
    stream = ledger.records()
    first = next(stream)
    ledger.record(make_attempt())  # neither blocked, nor in a stream that began before
    assert [first, *stream] == made


def test_lines_add_up_by_key(ledger: UsageLedger, make_attempt: Callable[..., AttemptRecord]) -> None:
    run = uuid.uuid4()
    options: dict[str, Any] = {"tags": ("x",), "metadata": {"b": 1, "a": "é"}}
    key = LineKey("gpt-4.1-mini", "chat", "ok", NOON.replace(hour=0), ("x",), (("a", "é"), ("b", 1)))
    cost_usd = Decimal(0)
    for number, certainty in enumerate([Certainty.MEASURED, Certainty.ESTIMATED, Certainty.MEASURED], 1):
        record = make_attempt(
            run_id=run, attempt=number, certainty=certainty, started_at=NOON, input_tokens=number, **options
        )
        cost_usd += record.cost_usd or 0
        ledger.record(record)
    ledger.record(make_attempt(model="nobody-knows", started_at=NOON))
    ledger.record(
        make_attempt(
            status=AttemptStatus.FAILED, certainty=Certainty.UNKNOWN, started_at=NOON, usage=TokenUsage()
        )
    )
    lines = ledger.lines()
    assert list(lines) == [
        key,
        key._replace(model="nobody-knows", tags=(), metadata=()),
        key._replace(status="failed", tags=(), metadata=()),
    ]
    assert cost_usd > 0
    assert lines[key] == UsageLine(
        calls=1, attempts=3, estimated=1, usage=TokenUsage(input_tokens=6), cost_usd=cost_usd
    )
    assert [each.unpriced for each in lines.values()] == [0, 1, 1]
    assert [each.unknown for each in lines.values()] == [0, 0, 1]


@pytest.mark.parametrize(
    ("resolution", "rounded"),
    [
        ("minute", {"second": 0}),
        ("hour", {"minute": 0, "second": 0}),
        ("day", {"hour": 0, "minute": 0, "second": 0}),
    ],
)
def test_lines_round_moments_down(
    ledger: UsageLedger, make_attempt: Callable[..., AttemptRecord], resolution: Any, rounded: Any
) -> None:
    moment = datetime(2026, 6, 1, 23, 59, 59, 999_999, tzinfo=UTC)
    ledger.record(make_attempt(started_at=moment.astimezone(timezone(timedelta(hours=9)))))
    ledger.record(make_attempt(started_at=moment + timedelta(microseconds=1)))
    expected = moment.replace(microsecond=0, **rounded)
    assert [key.at for key in ledger.lines(resolution=resolution)] == [
        expected,
        datetime(2026, 6, 2, tzinfo=UTC),
    ]
    assert [key.at for key in ledger.lines(until=NOON + timedelta(hours=12), resolution=resolution)] == [
        expected
    ]


def test_lines_refuse_another_resolution(ledger: UsageLedger) -> None:
    with pytest.raises(ValueError, match="resolution"):
        ledger.lines(resolution="week")  # type: ignore[arg-type]


def test_sums_of_more_than_nine_million_dollars_are_exact(
    ledger: UsageLedger, make_attempt: Callable[..., AttemptRecord]
) -> None:
    from lc_service.accounting.pricing import ModelPrice, set_price

    million = Decimal(1_000_000)
    set_price("gold", ModelPrice(input_usd_per_million=million * 4, output_usd_per_million=Decimal(0)))
    try:
        ledger.record_many(make_attempt(model="gold", input_tokens=1_000_001) for _ in range(4))
        (line,) = ledger.lines().values()
    finally:
        set_price("gold", None)
    assert line.cost_usd == 4 * 4 * Decimal(1_000_001)


def test_what_was_recorded_is_not_priced_again(
    ledger: UsageLedger, make_attempt: Callable[..., AttemptRecord]
) -> None:
    from lc_service.accounting.pricing import ModelPrice, set_price

    set_price("own", ModelPrice(input_usd_per_million=Decimal(1), output_usd_per_million=Decimal(0)))
    try:
        ledger.record(make_attempt(model="own", input_tokens=1_000_000))
        set_price("own", ModelPrice(input_usd_per_million=Decimal(5), output_usd_per_million=Decimal(0)))
        (line,) = ledger.lines().values()
    finally:
        set_price("own", None)
    assert line.cost_usd == 1


def test_people_with_a_sql_shell_read_a_view(
    path: Path, open_ledger: Callable[..., UsageLedger], make_attempt: Callable[..., AttemptRecord]
) -> None:
    open_ledger(path).record(make_attempt(started_at=NOON + timedelta(microseconds=7)))
    with sqlite3.connect(path) as shell:
        row = shell.execute("SELECT started_at, model, cost_usd FROM attempts_readable").fetchone()
    shell.close()
    assert row == ("2026-06-01T12:00:00.000007Z", "gpt-4.1-mini", pytest.approx(0.000072))


def test_the_view_in_postgresql(
    postgres_url: str, open_ledger: Callable[..., UsageLedger], make_attempt: Callable[..., AttemptRecord]
) -> None:
    import psycopg

    open_ledger(postgres_url).record(make_attempt(started_at=NOON))
    with psycopg.connect(postgres_url) as shell:
        row = shell.execute("SELECT started_at, cost_usd FROM attempts_readable").fetchone()
    assert row is not None
    assert (row[0], row[1]) == (NOON, Decimal("0.000072"))


def test_nothing_but_the_columns_is_stored(path: Path, open_ledger: Callable[..., UsageLedger]) -> None:
    open_ledger(path)
    with sqlite3.connect(path) as shell:
        columns = {row[1] for row in shell.execute("PRAGMA table_info(attempts)")}
    shell.close()
    assert not columns & {"prompt", "prompts", "messages", "answer", "content", "error", "error_text"}


@pytest.mark.parametrize("is_alone", [False, True], ids=["record", "try_reserve"])
def test_an_attempt_that_ends_inside_of_a_write_is_written_too(
    is_alone: bool, ledger: UsageLedger, make_attempt: Callable[..., AttemptRecord]
) -> None:
    """The garbage collector can end a stream anywhere, so also in the thread that is just writing."""
    inner = make_attempt()

    class EndsAStream:
        def __str__(self) -> str:
            ledger.record(inner)
            return "done"

    outer = make_attempt(metadata={"stream": EndsAStream()})
    if is_alone:
        ledger._writer.put((ledger._entry(outer),))
        request = AttemptRequest(
            call_id=uuid.uuid4(), attempt=1, model="m", input_tokens=1, max_input_tokens=1, at=NOON
        )
        ledger.try_reserve(request, Amount(tokens=1), 10_000, None, Scope(), 60)
    else:
        ledger.record(outer)
    assert [row.call_id for row in ledger._reader.records(None, None)] == [outer.call_id, inner.call_id]
