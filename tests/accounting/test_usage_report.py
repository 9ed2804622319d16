"""What a set of calls cost, and that a report travels."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from decimal import Decimal

import pytest

from lc_service.accounting.pricing import ModelPrice, price, set_price
from lc_service.accounting.usage import TokenUsage
from lc_service.accounting.usage_report import UsageReport

USAGE = TokenUsage(input_tokens=1_000, output_tokens=500)


@pytest.fixture(autouse=True)
def _own_price() -> Iterator[None]:
    set_price("own", ModelPrice(input_usd_per_million="1", output_usd_per_million="2"))
    yield
    set_price("own", None)


def test_cost_is_the_sum_of_the_calls_own_prices():
    report = UsageReport()
    for _ in range(3):
        report.record(USAGE, model="own")
    assert report.cost_usd == Decimal("0.006")
    assert report.unpriced_calls == 0


def test_an_openai_model_has_a_list_price():
    report = UsageReport()
    report.record(USAGE, model="gpt-4.1-mini")
    assert report.cost_usd == price(USAGE, "gpt-4.1-mini")
    assert report.cost_usd is not None


def test_one_unknown_price_makes_the_cost_unknown_and_is_counted():
    report = UsageReport()
    report.record(USAGE, model="own")
    report.record(USAGE, model="nobody-knows")
    assert report.cost_usd is None
    assert report.unpriced_calls == 1
    groups = report.group_by("model")
    assert groups["own"].cost_usd == Decimal("0.002")
    assert groups["nobody-knows"].cost_usd is None


def test_unknown_usage_makes_the_cost_unknown():
    report = UsageReport()
    report.record(None, model="own")
    assert (report.cost_usd, report.unpriced_calls, report.unknown) == (None, 1, 1)


def test_an_answer_from_a_cache_and_an_empty_report_cost_nothing():
    report = UsageReport()
    assert report.cost_usd == 0
    report.record(TokenUsage(), model="nobody-knows")
    assert (report.cost_usd, report.unpriced_calls, report.calls) == (0, 0, 1)


def test_calls_wait_for_their_price_in_bounded_numbers():
    report = UsageReport()
    for _ in range(2_500):
        report.record(USAGE, model="own")
    assert len(report._unpriced) < 256
    assert report.cost_usd == Decimal(5)


def test_a_report_can_be_pickled_and_counts_on():
    report = UsageReport()
    report.record(USAGE, model="own")
    copy = pickle.loads(pickle.dumps(report))
    copy.record(USAGE, model="own")
    assert (report.cost_usd, copy.cost_usd) == (Decimal("0.002"), Decimal("0.004"))
