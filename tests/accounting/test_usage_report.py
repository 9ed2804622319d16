"""What a set of attempts used and cost, how it splits, and that it stays small and whole."""

from __future__ import annotations

import gc
import pickle
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service import clock
from lc_service.accounting import usage_report
from lc_service.accounting.pricing import ModelPrice, price, set_price
from lc_service.accounting.record import AttemptRecord, AttemptStatus, Certainty
from lc_service.accounting.usage import TokenUsage
from lc_service.accounting.usage_line import LineKey, UsageLine, round_down, total_of
from lc_service.accounting.usage_report import UsageReport

USAGE = TokenUsage(input_tokens=1_000, output_tokens=500)
ONE = TokenUsage(input_tokens=10, cached_input_tokens=4, output_tokens=5, reasoning_tokens=2)
AT = datetime(2026, 11, 1, 10, 30, 59, 999, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _own_price() -> Iterator[None]:
    set_price("own", ModelPrice(input_usd_per_million="1", output_usd_per_million="2"))
    yield
    set_price("own", None)


def attempt(model: str = "own", usage: TokenUsage = USAGE, **fields: Any) -> AttemptRecord:
    fields = {"run_id": UUID(int=0), "started_at": AT} | fields
    return AttemptRecord(model=model, usage=usage, **fields)


def unknown(model: str = "own", **fields: Any) -> AttemptRecord:
    return attempt(model, TokenUsage(), certainty=Certainty.UNKNOWN, **fields)


def report_of(*records: AttemptRecord) -> UsageReport:
    report = UsageReport()
    for record in records:
        report.add(record)
    return report


# --- counting ---------------------------------------------------------------------------------------------


def test_an_empty_report_says_so() -> None:
    report = UsageReport()
    assert (report.total, report.calls, report.attempts, report.measured) == (TokenUsage(), 0, 0, 0)
    assert (report.cost_usd, report.known_cost_usd, report.unpriced_calls) == (0, 0, 0)
    assert report.group_by("model") == report.group_by("day") == {}
    assert repr(report) == (
        "UsageReport(calls=0, attempts=0, input_tokens=0, output_tokens=0, total_tokens=0)"
    )


def test_a_call_counts_with_its_first_attempt() -> None:
    report = report_of(attempt(status=AttemptStatus.TRUNCATED), attempt(attempt=2))
    assert (report.calls, report.attempts, report.total) == (1, 2, USAGE + USAGE)


def test_a_refused_attempt_counts_and_uses_nothing() -> None:
    report = report_of(attempt(usage=TokenUsage(), status=AttemptStatus.FAILED), attempt(attempt=2))
    assert (report.calls, report.attempts, report.measured, report.total) == (1, 2, 2, USAGE)
    assert report.group_by("status")["failed"].cost_usd == 0


def test_an_answer_from_a_cache_is_a_call_without_attempts() -> None:
    report = UsageReport()
    report.add_cached(model="nobody-knows", tags=["t"], metadata={"user": "u"}, at=AT)
    assert (report.calls, report.attempts, report.cost_usd, report.unpriced_calls) == (1, 0, 0, 0)
    minute = AT.replace(second=0, microsecond=0)
    assert list(report.lines) == [LineKey("nobody-knows", "chat", "cached", minute, ("t",), (("user", "u"),))]


def test_a_cached_call_is_made_now(fake_clock: Any) -> None:
    report = UsageReport()
    report.add_cached(model="m", operation="embeddings")
    (key,) = report.lines
    assert (key.operation, key.at) == ("embeddings", round_down(datetime.fromtimestamp(clock.wall(), UTC)))


def test_estimates_are_in_the_total_and_unknowns_are_not() -> None:
    report = report_of(attempt(), attempt(certainty=Certainty.ESTIMATED), unknown(), unknown("b"))
    assert (report.measured, report.estimated, report.unknown) == (1, 1, 2)
    assert report.total == USAGE + USAGE
    assert report.group_by("model")["b"].unknown == 1
    assert repr(report) == (
        "UsageReport(calls=4, attempts=4, input_tokens=2000, output_tokens=1000, total_tokens=3000, "
        "estimated=1, unknown=2)"
    )


# --- cost -------------------------------------------------------------------------------------------------


def test_cost_is_the_sum_of_the_attempts_own_prices() -> None:
    report = report_of(attempt(), attempt(), attempt())
    assert report.cost_usd == report.known_cost_usd == Decimal("0.006")
    assert report.unpriced_calls == 0


def test_an_openai_model_has_the_list_price_of_its_day() -> None:
    report = report_of(attempt("gpt-4.1-mini"))
    assert report.cost_usd == price(USAGE, "gpt-4.1-mini", at=AT)
    assert report.cost_usd is not None


def test_one_unknown_price_makes_the_cost_unknown_and_is_counted() -> None:
    report = report_of(attempt(), attempt("nobody-knows"))
    assert (report.cost_usd, report.known_cost_usd) == (None, Decimal("0.002"))
    assert report.unpriced_calls == 1
    groups = report.group_by("model")
    assert groups["own"].cost_usd == Decimal("0.002")
    assert groups["nobody-knows"].cost_usd is None


def test_unknown_usage_makes_the_cost_unknown() -> None:
    report = report_of(unknown())
    assert (report.cost_usd, report.unpriced_calls, report.unknown) == (None, 1, 1)


def test_counting_alone_works_out_no_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lc_service.accounting.record.price", None)
    report = report_of(attempt())
    assert (report.calls, report.total) == (1, USAGE)
    assert "calls=1" in repr(report)


# --- groups -----------------------------------------------------------------------------------------------


def test_groups_come_in_the_order_of_first_use() -> None:
    report = report_of(attempt("b"), attempt("a"), attempt("b"), attempt("e", operation="embeddings"))
    models, operations = report.group_by("model"), report.group_by("operation")
    assert list(models) == ["b", "a", "e"]
    assert (models["b"].calls, models["a"].calls) == (2, 1)
    assert {name: group.calls for name, group in operations.items()} == {"chat": 3, "embeddings": 1}
    assert operations["embeddings"].group_by("model")["e"].total == USAGE


def test_days_are_utc_days() -> None:
    late = datetime(2026, 11, 1, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    report = report_of(attempt(), attempt(started_at=late))
    assert list(report.group_by("day")) == ["2026-11-01", "2026-11-02"]


def test_an_attempt_is_in_the_group_of_each_of_its_tags_once() -> None:
    report = report_of(attempt(tags=("a", "b", "a")), attempt(tags=("b",)), attempt())
    groups = report.group_by("tag")
    assert {name: group.calls for name, group in groups.items()} == {"a": 1, "b": 2, "": 1}
    assert report.calls == 3


def test_metadata_groups_by_the_text_of_its_values() -> None:
    report = report_of(
        attempt(metadata={"user": "ann", "team": "x:y"}), attempt(metadata={"user": 7}), attempt()
    )
    assert list(report.group_by("metadata:user")) == ["ann", "7", ""]
    assert list(report.group_by("metadata:team")) == ["x:y", ""]


@pytest.mark.parametrize("key", ["colour", "", "metadata", "metadata:", "Model", None])
def test_another_group_is_a_value_error_that_names_the_forms(key: Any) -> None:
    with pytest.raises(ValueError, match="model, operation, status, day, tag, metadata:KEY"):
        UsageReport().group_by(key)


def test_a_group_stays_as_it_was_and_writes_nothing_back() -> None:
    report = report_of(attempt(usage=ONE))
    group = report.group_by("model")["own"]
    report.add(attempt(usage=ONE))
    assert group.total == ONE
    group.add(attempt(usage=ONE))
    assert group.total == report.total == ONE + ONE


records = st.lists(
    st.builds(
        attempt,
        st.sampled_from(["own", "b", "nobody-knows"]),
        st.builds(TokenUsage, input_tokens=st.integers(0, 9), output_tokens=st.integers(0, 9)),
        attempt=st.integers(1, 2),
        operation=st.sampled_from(["chat", "embeddings"]),
        certainty=st.sampled_from(Certainty),
        status=st.sampled_from(AttemptStatus),
        started_at=st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 4), timezones=st.just(UTC)),  # noqa: DTZ001  hypothesis wants them naive
        tags=st.lists(st.sampled_from(["s", "t"]), max_size=2).map(tuple),
        metadata=st.dictionaries(st.just("user"), st.text(max_size=1)),
    ),
    max_size=20,
)
SPLITS = ("model", "operation", "status", "day", "metadata:user")
"""What puts an attempt into one group and no other."""


def sums(report: UsageReport) -> UsageLine:
    """Return all that a report adds up, as its properties tell it."""
    assert report.measured + report.estimated + report.unknown == report.attempts
    assert (report.cost_usd is None) == bool(report.unpriced_calls)
    return UsageLine(
        calls=report.calls, attempts=report.attempts, estimated=report.estimated, unknown=report.unknown,
        usage=report.total, cost_usd=report.known_cost_usd, unpriced=report.unpriced_calls,
    )  # fmt: skip


@given(records, st.integers(0, 20))
def test_groups_and_sums_of_reports_add_up_to_the_whole(records: list[AttemptRecord], cut: int) -> None:
    report = report_of(*records)
    whole = sums(report)
    assert report.attempts == len(records)
    for key in SPLITS:
        assert total_of(map(sums, report.group_by(key).values())) == whole
    assert sums(report_of(*records[:cut]) + report_of(*records[cut:])) == whole


@given(records, st.randoms(use_true_random=False))
def test_the_order_in_which_attempts_end_changes_nothing(
    records: list[AttemptRecord], random: Random
) -> None:
    report = report_of(*records)
    random.shuffle(records)
    assert dict(report_of(*records).lines) == dict(report.lines)


@given(records)
def test_a_coarser_report_keeps_every_sum_of_what_it_still_knows(records: list[AttemptRecord]) -> None:
    report, small = report_of(*records), UsageReport()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(usage_report, "MAX_LINES", 3)
        patched.setattr(usage_report, "MAX_PENDING", 1)
        for record in records:
            small.add(record)
    assert sums(small) == sums(report)
    for key in ("model", "operation", "status", "day"):
        assert {name: sums(group) for name, group in small.group_by(key).items()} == {
            name: sums(group) for name, group in report.group_by(key).items()
        }


# --- bounds -----------------------------------------------------------------------------------------------


def test_attempts_wait_in_bounded_numbers() -> None:
    report = UsageReport()
    for _ in range(2_500):
        report.add(attempt())
    assert len(report._pending) < 256
    assert (report.cost_usd, report.calls) == (Decimal(5), 2_500)


@pytest.mark.parametrize(
    ("spread", "tags", "metadata", "steps"),
    [
        (lambda i: {"started_at": AT + timedelta(minutes=i)}, 1, 1, 1),
        (lambda i: {"started_at": AT + timedelta(hours=i)}, 1, 1, 2),
        (lambda i: {"metadata": {"user": i}}, 1, 0, 3),
        (lambda i: {"tags": (f"t{i}",)}, 0, 0, 4),
    ],
    ids=["minutes", "hours", "metadata", "tags"],
)
def test_a_large_report_becomes_coarser_and_stays_exact(
    spread: Any, tags: int, metadata: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_report, "MAX_LINES", 100)
    report = UsageReport()
    for i in range(1_000):
        report.add(attempt(**({"tags": ("t",), "metadata": {"user": "u"}} | spread(i))))
    assert len(report.lines) <= 100
    assert (report.calls, report.total.input_tokens, report.cost_usd) == (1_000, 1_000_000, Decimal(2))
    assert {(len(key.tags), len(key.metadata)) for key in report.lines} == {(tags, metadata)}
    assert report._sums.steps == steps
    assert all(key.at.minute == 0 for key in report.lines)


def test_ten_thousand_lines_are_the_most_that_a_report_holds() -> None:
    report = UsageReport()
    for number in range(10_000):
        report.add(attempt(usage=ONE, started_at=AT + timedelta(minutes=number)))
    assert len(report.lines) == 10_000
    report.add(attempt(usage=ONE, started_at=AT - timedelta(minutes=1)))
    assert len(report.lines) == 168  # hours
    assert (report.calls, report.total.input_tokens) == (10_001, 100_010)


def test_lines_of_a_ledger_make_a_report_that_counts_on() -> None:
    key = LineKey("own", "chat", "ok", round_down(AT))
    given_lines = {key: UsageLine(calls=2, attempts=3, usage=ONE, cost_usd=Decimal(1))}
    report = UsageReport(given_lines)
    report.add(attempt(usage=ONE))
    assert (report.calls, report.attempts, report.total) == (3, 4, ONE + ONE)
    assert list(report.lines) == [key]
    assert given_lines[key].calls == 2
    with pytest.raises(TypeError):
        report.lines[key] = UsageLine()  # type: ignore[index]


@pytest.mark.parametrize("is_read", [False, True])
def test_a_report_can_be_pickled_and_counts_on(is_read: bool) -> None:
    report = report_of(attempt(tags=("t",), metadata={"user": "u"}))
    _ = is_read and report.cost_usd
    copy = pickle.loads(pickle.dumps(report))
    copy.add(attempt())
    assert (report.cost_usd, copy.cost_usd) == (Decimal("0.002"), Decimal("0.004"))
    assert (report.calls, copy.calls) == (1, 2)


@pytest.mark.parametrize("resolution", ["minute", "hour", "day"])
def test_times_round_down_in_utc(resolution: Any) -> None:
    east = timezone(timedelta(hours=5, minutes=45))
    expected = {"minute": (10, 30), "hour": (10, 0), "day": (0, 0)}[resolution]
    for at in (AT, AT.replace(tzinfo=None), AT.astimezone(east)):
        assert round_down(at, resolution) == datetime(2026, 11, 1, *expected, tzinfo=UTC)


def test_a_sum_over_lines_is_their_sum() -> None:
    line = UsageLine(calls=1, attempts=2, estimated=1, unknown=1, usage=ONE, cost_usd=Decimal(3), unpriced=1)
    assert total_of([]) == UsageLine()
    assert total_of([line]) == line
    assert total_of(iter([line, line, line])) == line + line + line


# --- threads and finalizers -------------------------------------------------------------------------------


@pytest.fixture
def _frequent_switches() -> Iterator[None]:
    """Give other threads a turn after every few instructions, so that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_frequent_switches")
def test_threads_lose_no_attempt() -> None:
    report = UsageReport()

    def write(number: int) -> None:
        for i in range(1_000):
            report.add(attempt(f"m{(number + i) % 3}", ONE))
            if i % 100 == 0:
                _ = report.total, report.group_by("model"), repr(report)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (report.calls, report.total.input_tokens) == (8_000, 80_000)
    assert sum(part.calls for part in report.group_by("model").values()) == 8_000


def test_an_attempt_that_ends_in_a_finalizer_cannot_wait_for_itself() -> None:
    """A stream that nobody holds is closed by the garbage collector, in the middle of whatever runs."""
    report = UsageReport()

    def stream() -> Iterator[None]:
        try:
            yield
        finally:
            for _ in range(300):
                report.add(attempt())

    abandoned = stream()
    next(abandoned)
    with report._lock:
        del abandoned
        gc.collect()
    assert report.calls == 300


def test_what_cannot_be_priced_now_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_of(attempt())
    with monkeypatch.context() as broken:
        broken.setattr("lc_service.accounting.record.price", None)
        with pytest.raises(TypeError):
            _ = report.cost_usd
    assert (report.calls, report.cost_usd) == (1, Decimal("0.002"))
