"""What headers tell, and what does not count as told."""

from __future__ import annotations

import math

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.limits.told import DIMENSIONS, Told, read_told


def told(limit: str | None = None, remaining: str | None = None, reset: str | None = None) -> Told | None:
    said = {"limit": limit, "remaining": remaining, "reset": reset}
    headers = {f"X-RateLimit-{name}-Tokens": text for name, text in said.items() if text is not None}
    return read_told(httpx2.Headers(headers), "tokens")


def test_all_three():
    assert told("6000", "5999", "10ms") == Told(6_000, 5_999, 0.01)
    assert told("6000", "0", "1m0.5s") == Told(6_000, 0, 60.5)


def test_the_other_limit_is_another():
    assert read_told(httpx2.Headers({"x-ratelimit-limit-requests": "1"}), "tokens") is None


@pytest.mark.parametrize("reset", [None, "soon", "-1", "nan", "inf", "32d", "1800000000"])
def test_a_reset_that_is_none(reset):
    assert told("60", "59", reset) == Told(60, 59, None)


@pytest.mark.parametrize("limit", [None, "", "many", "0", "-1", "nan", "inf", "1e300", "0.5", "1e-300"])
def test_a_limit_that_is_none(limit):
    assert told(limit, "0", "1s") is None


@pytest.mark.parametrize("remaining", [None, "", "some", "-1", "nan", "inf", "61"])
def test_a_remainder_that_is_none(remaining):
    assert told("60", remaining, "1s") is None


def test_a_minutes_limit_comes_back_in_a_minute():
    assert Told(600, 0, 60.0).rate_per_second == 10
    assert Told(600, 0, None).rate_per_second == 10
    assert Told(600, 0, None).capacity == 600


def test_what_is_missing_of_a_days_limit_comes_back_by_the_reset():
    assert Told(10_000, 6_400, 3_600.0).rate_per_second == 1
    assert Told(10_000, 10_000, 86_400.0).rate_per_second == pytest.approx(10_000 / 60)


def test_a_reset_within_the_second_tells_of_a_seconds_bucket():
    assert Told(3_000, 40, 0.2).capacity == 50


ANY = st.none() | st.text(max_size=10) | st.floats().map(str) | st.integers(-9, 10**13).map(str)


@given(limit=ANY, remaining=ANY, reset=ANY | st.floats(0, 1e9).map(lambda seconds: f"{seconds:f}s"))
def test_whatever_is_told_can_be_reckoned_with(limit, remaining, reset):
    said = {"limit": limit, "remaining": remaining, "reset": reset}
    for name in DIMENSIONS:
        headers = {f"x-ratelimit-{key}-{name}": text for key, text in said.items() if text is not None}
        found = read_told(headers, name)
        if found is not None:
            assert 0 <= found.remaining <= found.limit < math.inf
            assert 1e-7 < found.rate_per_second < math.inf
            assert found.remaining <= found.capacity <= found.limit
