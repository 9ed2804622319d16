"""Hedging's rules and pace: how late is late, and how many second requests may go."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service import Hedge
from lc_service.limits import hedge as hedges
from lc_service.limits.hedge import Pace, pace_for


@pytest.mark.parametrize(
    "rules",
    [
        {"after": "p0"},
        {"after": "p100"},
        {"after": "95"},
        {"after": "p-5"},
        {"after": -0.1},
        {"after": float("inf")},
        {"after": float("nan")},
        {"after": True},
        {"after": None},
        {"max_extra": 0},
        {"max_extra": 1.01},
        {"max_extra": "2%"},
        {"max_extra": True},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(rules: dict[str, Any]) -> None:
    (name,) = rules
    with pytest.raises(ValueError, match=f"{name} must be"):
        Hedge(**rules)


@pytest.mark.parametrize(("after", "quantile"), [("p95", 0.95), ("p5", 0.05), ("p99.9", 0.999), (2, None)])
def test_a_quantile_is_read(after: Any, quantile: float | None) -> None:
    assert Hedge(after=after).quantile == (None if quantile is None else pytest.approx(quantile))


def learned(rules: Hedge, latencies: Any) -> Pace:
    pace = Pace(rules)
    for latency in latencies:
        pace.answered(latency)
    return pace


def test_late_is_what_a_quantile_of_the_recent_answers_took() -> None:
    pace = learned(Hedge(after="p90", max_extra=1), range(1, 20))
    assert pace.begin(0) is None, "19 answers are too few"
    pace.answered(20)
    assert pace.begin(0) == 18
    for _ in range(hedges.REMEMBERED_LATENCIES):
        pace.answered(0.5)
    assert pace.begin(0) == 0.5


def test_a_small_allowance_is_kept_for_the_slowest() -> None:
    pace = learned(Hedge(after="p50", max_extra=0.02), range(1, 101))
    assert [pace.begin(0) for _ in range(50)] == [None] * 49 + [98]


def test_seconds_need_nothing_learned() -> None:
    assert Pace(Hedge(after=0.5, max_extra=1)).begin(0) == 0.5


def test_a_rate_limit_keeps_it_quiet_for_a_while() -> None:
    pace = Pace(Hedge(after=1, max_extra=1))
    assert pace.begin(100) == 1
    pace.rejected(100)
    assert not pace.take(109.9)
    assert pace.begin(109.9) is None
    assert pace.take(110)


def test_what_was_not_sent_is_given_back() -> None:
    pace = Pace(Hedge(after=1, max_extra=1))
    pace.begin(0)
    assert pace.take(0)
    assert not pace.take(0)
    pace.give_back()
    assert pace.take(0)


@given(
    st.sampled_from([0.001, 0.02, 0.1, 1 / 3, 0.5, 1]),
    st.lists(st.sampled_from(["call", "take", "many calls"]), max_size=80),
)
def test_never_more_than_the_allowance(max_extra: float, steps: list[str]) -> None:
    pace = Pace(Hedge(after=1, max_extra=max_extra))
    calls = taken = 0
    for step in steps:
        for _ in range({"call": 1, "take": 0, "many calls": 150}[step]):
            pace.begin(0)
            calls += 1
        taken += step == "take" and pace.take(0)
        assert taken <= calls * max_extra + 1e-6
    assert sum(pace.take(0) for _ in range(20)) <= hedges.MAX_SAVED_REQUESTS


def test_all_calls_of_an_endpoint_and_model_share_a_pace() -> None:
    one = pace_for(Hedge(), endpoint="http://a/v1/", model="m")
    assert pace_for(Hedge(), endpoint="http://a/v1/", model="m") is one
    assert pace_for(Hedge(), endpoint="http://a/v1/", model="n") is not one
    assert pace_for(Hedge(), endpoint="http://b/v1/", model="m") is not one
    assert pace_for(Hedge(max_extra=0.1), endpoint="http://a/v1/", model="m") is not one


def test_memory_is_bounded() -> None:
    for number in range(hedges._MAX_PACES + 10):
        pace_for(Hedge(), endpoint=f"http://host-{number}/", model="m")
    assert len(hedges._paces) == hedges._MAX_PACES


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_begins_anew() -> None:
    pace_for(Hedge(), endpoint="http://a/", model="m")
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.write(writer, str(len(hedges._paces)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 10) == b"0"
    os.close(reader)
    os.close(writer)
