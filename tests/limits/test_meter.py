"""One limit: the user's own, what the headers explain and what they do not, trials and doubts."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.limits.meter import Meter
from lc_service.limits.mirror import Mark
from lc_service.limits.told import Told

START = 1_000.0


def meter(dimension: Literal["requests", "tokens"] = "requests", cap: float | None = None) -> Meter:
    return Meter(dimension, cap, START)


def send(one: Meter, units: float = 1.0, now: float = START) -> Mark:
    return one.send(one.take(units, now), now)


def second(remaining: float, rate: float = 10.0) -> Told:
    """Return the headers of a second's bucket."""
    return Told(rate * 60, remaining, (rate - remaining) / rate)


def minute(remaining: float, rate: float = 10.0) -> Told:
    """Return the headers of a minute's bucket."""
    return Told(rate * 60, remaining, (rate * 60 - remaining) / rate)


def seen(told: Told, dimension: Literal["requests", "tokens"] = "requests", units: float = 1.0) -> Meter:
    one = meter(dimension)
    mark = send(one, units)
    one.see(told, mark, START)
    one.admitted(mark, START)
    return one


def go(one: Meter, now: float, units: float = 1.0) -> list[Mark]:
    """Send as many as may go at `now`, ten thousand at most."""
    marks = []
    while one.seconds_until(units, now) == 0 and len(marks) < 10_000:
        marks.append(send(one, units, now))
    return marks


def test_nothing_known_holds_nothing_back():
    one = meter()
    assert not one.is_paced
    assert one.seconds_until(1_000, START) == 0
    assert one.told_limit(START) is None
    assert one.found_per_second(START) is None


# The user's own limit


def test_a_cap_lets_a_seconds_worth_go_and_then_its_rate():
    one = meter(cap=600)
    assert one.is_paced
    assert len(go(one, START)) == 10
    assert one.seconds_until(1, START) == pytest.approx(0.1)


@pytest.mark.parametrize("charged", [0.5, 2.0])
def test_a_cap_is_kept_in_the_users_units_whatever_the_server_charges(charged):
    one, now = meter("tokens", cap=6_000), START
    remaining, sent = 1e6, 0.0
    for _ in range(400):
        now += max(0.01, one.seconds_until(10, now))
        mark = send(one, 10, now)
        sent += 10
        remaining -= 10 * charged
        one.see(Told(6e6, remaining, None), mark, now)
        one.admitted(mark, now)
    assert sent <= 100 + 100 * (now - START) + 10
    assert sent >= 0.95 * 100 * (now - START)


def test_what_was_not_used_of_a_cap_goes_again():
    one = meter("tokens", cap=6_000)
    send(one, 100)
    assert one.seconds_until(10, START) == pytest.approx(0.1)
    one.give_back(60)
    assert one.seconds_until(60, START) == 0


def test_whichever_is_lower_holds():
    one = meter(cap=60_000)
    one.see(second(9), send(one), START)
    assert len(go(one, START + 60)) <= 10


@given(
    cap=st.sampled_from([60.0, 600.0]),
    steps=st.lists(
        st.tuples(st.floats(0, 2), st.sampled_from(["go", "told", "rejected", "void"])), max_size=60
    ),
)
def test_no_more_goes_than_a_cap_allows_whatever_is_told(cap, steps):
    one, now, over, marks = meter(cap=cap), START, 0.0, []
    burst = max(1.0, cap / 60)
    for elapsed_seconds, step in steps:
        now += elapsed_seconds
        over = max(0.0, over - elapsed_seconds * cap / 60)
        if step == "go":
            went = go(one, now)
            over += len(went)
            marks += went
        elif marks:
            mark = marks.pop()
            if step == "told":
                one.see(minute(5_000, rate=100), mark, now)
                one.admitted(mark, now)
            elif step == "rejected":
                one.rejected(mark, None, now)
            else:
                one.void(mark, now)
        assert over <= burst + 1e-3


# What the server tells


def test_a_servers_limit_is_told_for_a_minute():
    one = seen(second(9))
    assert one.told_limit(START + 60) == 600
    assert one.told_limit(START + 60.1) is None


def test_a_bucket_as_small_as_the_pace_is_kept_to_as_it_is():
    one = seen(second(4))
    assert len(go(one, START)) == 3
    assert one.seconds_until(1, START) == pytest.approx(0.01)  # the margin
    assert len(go(one, START + 0.01)) == 1
    assert one.seconds_until(1, START + 0.01) == pytest.approx(0.1)


def test_a_higher_limit_voids_what_was_found_of_the_old_one():
    one = seen(minute(5_000, rate=100))
    found_by_rejections(one)
    assert one.found_per_second(START + 5) is not None
    one.see(minute(5_000, rate=200), send(one, now=START + 5), START + 5)
    assert one.found_per_second(START + 5) is None


# Trials and doubts


def test_where_the_headers_leave_room_two_are_tried_ahead_of_the_pace():
    one = seen(minute(599))
    marks = go(one, START)
    assert len(marks) == 9 + 2
    assert [mark.is_trial for mark in marks] == [False] * 9 + [True] * 2


def test_each_trial_that_comes_through_allows_two_until_the_bucket_is_empty():
    one, now, total = seen(minute(599)), START, 1
    for _ in range(20):
        marks = go(one, now)
        total += len(marks)
        for mark in marks:
            one.admitted(mark, now)
    assert 590 <= total <= 600


def test_a_rejected_trial_ends_them_for_a_minute_and_the_first_in_line_looks_then():
    one = seen(minute(599))
    trial = go(one, START)[-1]
    one.rejected(trial, minute(588), START + 0.1)
    assert not any(mark.is_trial for mark in go(one, START + 30))
    one.take(500, START + 30, may_try=False)  # a debt of the pace that takes longer than the doubt
    assert one.seconds_until(1, START + 30) == pytest.approx(30.1, rel=0.01)


def test_a_doubt_of_a_days_limit_keeps_nobody_for_longer_than_it_lasts():
    """The pace of a day's limit is so slow that one large request would have to wait for hours."""
    one = seen(Told(1e6, 600_000, 40_000.0), "tokens", 100.0)  # ten a second
    trials = go(one, START, 20_000)
    assert trials[-1].is_trial
    one.rejected(trials[-1], Told(1e6, 500_000, 40_000.0), START)
    assert one.seconds_until(20_000, START) <= 60
    assert one.seconds_until(20_000, START + 60) == 0


def test_what_was_tried_together_is_one_doubt():
    one = seen(minute(599))
    first, second_one = go(one, START)[-2:]
    one.rejected(first, minute(588), START + 0.1)
    one.rejected(second_one, minute(588), START + 0.2)
    assert any(mark.is_trial for mark in go(one, START + 60.1))


def test_a_trial_that_tells_nothing_may_be_repeated():
    one = seen(minute(599))
    one.void(go(one, START)[-1], START)
    assert [mark.is_trial for mark in go(one, START)] == [True]


def test_whoever_must_not_try_is_paced():
    one = seen(minute(599))
    go(one, START)
    assert not one.take(1, START, may_try=False).is_trial


# Rejections


def found_by_rejections(one: Meter, now: float = START) -> None:
    """Have five seconds' traffic and then rejections that headers do not explain."""
    for step in range(250):
        at = now + step / 50
        one.admitted(send(one, 1.0, at), at)
    for _ in range(20):
        one.rejected(send(one, 1.0, now + 5), None, now + 5)


def test_a_rejection_that_its_headers_explain_finds_no_rate():
    one = seen(second(9))
    for step in range(250):
        at = START + step / 50
        one.admitted(Mark(1.0, False, at, 1.0, True), at)
    for _ in range(20):
        one.rejected(Mark(1.0, False, START + 5, 1.0, True), second(0), START + 5)
    assert one.found_per_second(START + 5) is None


def test_rejections_without_a_reason_set_the_pace_below_what_came_through():
    one = meter()
    found_by_rejections(one)
    assert one.found_per_second(START + 5) == pytest.approx(0.85 * 50, rel=0.1)
    assert one.is_paced
    assert one.seconds_until(100, START + 5) > 0


@pytest.mark.parametrize(("dimension", "is_explained"), [("tokens", True), ("requests", False)])
def test_tokens_may_be_charged_more_than_reckoned_and_a_request_is_one_request(dimension, is_explained):
    told = second(30, rate=100)
    one = seen(told, dimension, 10.0 if dimension == "tokens" else 1.0)
    for step in range(250):
        at = START + step / 50
        one.admitted(Mark(1.0, False, at, 1.0, True), at)
    now = START + 5
    cost, left = (10.0, 30.0) if dimension == "tokens" else (1.0, 3.0)
    for _ in range(20):
        mark = send(one, cost, now)
        one.see(second(left, rate=100), mark, now)
        one.rejected(mark, second(left, rate=100), now)
    assert (one.found_per_second(now) is None) is is_explained


def test_a_minutes_headers_explain_only_what_did_not_fit():
    one = seen(minute(599), "tokens")
    go(one, START)
    mark = send(one, 10, START + 0.1)
    margin = one.mirror.margin if one.mirror is not None else math.nan
    one.rejected(mark, minute(30), START + 0.1)  # 30 left, and 10 did not come through
    assert one.mirror is not None
    assert one.mirror.margin == margin
    one.rejected(mark, minute(5), START + 0.2)
    assert one.mirror.margin > margin
