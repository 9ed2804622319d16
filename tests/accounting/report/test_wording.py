"""Numbers, money and doubts in words, and that a lower bound never reads as more than it is."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.accounting.report import wording
from lc_service.accounting.usage_line import LineKey, UsageLine, total_of

MakeLine = Callable[..., UsageLine]


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0"), ("1234.567", "$1,234.57"), ("1", "$1.00"), ("0.5", "$0.5000"), ("0.0123456", "$0.0123"),
        ("0.00098765", "$0.00099"), ("0.00000015", "$0.00000015"),
    ],
)  # fmt: skip
def test_money_shows_the_digits_that_matter(amount: str, text: str) -> None:
    assert wording.usd(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (950, "950"), (1200, "1.2k"), (34_000_000, "34M"), (2 * 10**9, "2G")]
)
def test_large_numbers_are_short(number: int, text: str) -> None:
    assert wording.compact(Decimal(number)) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0"),
        ("0.00250", "$0.0025"),
        ("2E+3", "$2,000"),
        ("0.30000000000000004", "$0.30"),
        ("15", "$15"),
    ],
)
def test_a_scale_has_round_amounts(amount: str, text: str) -> None:
    assert wording.usd_mark(Decimal(amount)) == text


def test_a_cost_that_is_not_all_known_never_reads_as_if_it_were(line: MakeLine) -> None:
    assert wording.cost(line(usd="2")) == "$2.00"
    assert wording.cost(line(usd="2", unpriced=1)) == "≥ $2.00"
    assert wording.cost(line(usd="0", unpriced=1)) == "unknown"
    assert wording.cost_in_words(line(usd="2", unpriced=1)) == "at least $2.00"


@given(st.decimals("1e-9", "1e9", allow_nan=False))
def test_a_lower_bound_is_not_rounded_above_what_is_known(line: MakeLine, amount: Decimal) -> None:
    written = wording.cost(line(usd=str(amount), unpriced=1))
    bound = Decimal(written.removeprefix("≥ $").replace(",", ""))
    assert amount * Decimal("0.9") < bound <= amount
    exact = Decimal(wording.cost(line(usd=str(amount))).removeprefix("$").replace(",", ""))
    assert exact == pytest.approx(amount, rel=Decimal("0.06"))


def test_doubts_are_told_each_by_its_name(line: MakeLine, partial_lines: dict[LineKey, UsageLine]) -> None:
    assert wording.doubts(line()) == []
    assert wording.doubts(total_of(partial_lines.values())) == [
        "The usage of 1 of 5 attempts is estimated; the estimates are in the sums.",
        "1 of 5 attempts may have been billed for tokens that nobody counted: the sums are lower bounds.",
        "1 of 5 attempts used tokens without a known price: the cost is at least $3.00.",
    ]
    assert wording.doubts(line(estimated=1))[0].startswith("The usage of the only attempt is")
    assert wording.doubts(line(attempts=2, estimated=2))[0].startswith("The usage of all 2 attempts is")
