"""What came through of late: exact over its spans, and nothing from before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.limits.throughput import Throughput

START = 1_000.0


def test_nothing_is_told_before_a_span_was_seen():
    seen = Throughput(0.25)
    assert seen.rate_per_second(START) is None
    assert seen.units(START) == 0
    seen.add(1, START)
    assert seen.rate_per_second(START + 0.2) is None
    assert seen.rate_per_second(START + 0.25) == pytest.approx(4)


def test_a_steady_rate_is_told_as_it_is():
    seen = Throughput(0.25)
    for number in range(200):
        seen.add(2, START + number / 20)
    assert seen.rate_per_second(START + 10) == pytest.approx(40, rel=0.05)


def test_fewer_than_asked_for_tell_no_rate():
    seen = Throughput(0.25)
    seen.add(4, START)
    assert seen.rate_per_second(START + 1, least_units=5) is None
    assert seen.rate_per_second(START + 1, least_units=4) == pytest.approx(4)


def test_what_is_eight_spans_ago_is_forgotten():
    seen = Throughput(0.25)
    seen.add(5, START)
    assert seen.units(START + 1.99) == 5
    assert seen.units(START + 2) == 0


def test_after_a_silence_it_begins_anew():
    seen = Throughput(0.25)
    seen.add(100, START)
    seen.add(1, START + 60)
    assert seen.units(START + 60) == 1
    assert seen.rate_per_second(START + 60.1) is None
    assert seen.rate_per_second(START + 60.5) == pytest.approx(2)


def test_a_clock_that_goes_back_neither_raises_nor_loses():
    seen = Throughput(0.25)
    seen.add(1, START + 1)
    seen.add(1, START)
    assert seen.units(START + 1) == 2


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1_000)), min_size=1, max_size=60),
    st.sampled_from([0.25, 4.0]),
)
def test_the_sum_is_that_of_the_current_span_and_the_seven_before(steps, span_seconds):
    seen, now, added = Throughput(span_seconds), START, []
    for elapsed_seconds, units in steps:
        now += elapsed_seconds
        seen.add(units, now)
        added.append((int(now / span_seconds), units))
        oldest = int(now / span_seconds) - 7
        expected = sum(units for span, units in added if span >= oldest)
        assert seen.units(now) == pytest.approx(expected)
        rate = seen.rate_per_second(now)
        assert rate is None or 0 <= rate <= expected / span_seconds + 1e-9
