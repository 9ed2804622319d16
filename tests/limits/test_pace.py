"""The client's own pace: its rate and its burst at most, and trials where the server promises more."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.limits.pace import Pace

START = 1_000.0


def paced(rate_per_second: float = 10.0, smallest: float = 1.0, sent: float = 0.0) -> Pace:
    pace = Pace(smallest)
    pace.set_rate(rate_per_second, sent, START)
    return pace


def go(pace: Pace, now: float) -> int:
    """Send as many of one unit as may go at `now`."""
    count = 0
    while pace.seconds_until(1, now) == 0:
        pace.take(1, now)
        count += 1
    return count


def test_without_a_rate_nothing_waits_and_nothing_is_counted():
    pace = Pace(1.0)
    pace.take(1_000, START)
    pace.give_back(5)
    assert pace.seconds_until(1_000, START) == 0
    pace.set_rate(10, 0, START)
    assert go(pace, START) == 10


def test_a_seconds_worth_goes_at_once_and_then_one_at_a_time():
    pace = paced()
    assert go(pace, START) == 10
    assert pace.seconds_until(1, START) == pytest.approx(0.1)
    assert go(pace, START + 0.1) == 1
    assert go(pace, START + 60) == 10


def test_what_was_sent_before_the_rate_was_known_is_off_the_first_burst():
    assert go(paced(sent=7), START) == 3
    assert go(paced(sent=70), START) == 0


def test_a_rate_below_one_a_second_lets_one_go():
    pace = paced(rate_per_second=0.1)
    assert go(pace, START) == 1
    assert pace.seconds_until(1, START) == pytest.approx(10)


def test_what_is_larger_than_the_burst_goes_when_that_is_whole_and_is_paid_afterwards():
    pace = paced(smallest=0)
    assert pace.seconds_until(50, START) == 0
    pace.take(50, START)
    assert pace.seconds_until(50, START) == pytest.approx(5)
    assert pace.seconds_until(1, START) == pytest.approx(4.1)


def test_what_is_given_back_goes_again_and_no_more_than_the_burst():
    pace = paced()
    go(pace, START)
    pace.give_back(3)
    assert go(pace, START) == 3
    pace.give_back(1_000)
    assert go(pace, START) == 10


def test_a_lower_rate_takes_the_larger_burst_away_at_once():
    pace = paced(rate_per_second=1_000)
    pace.set_rate(10, 0, START)
    assert go(pace, START) == 10


def test_a_higher_rate_counts_from_when_it_is_set():
    pace = paced()
    go(pace, START)
    pace.set_rate(100, 0, START + 0.5)
    assert go(pace, START + 0.5) == 5
    assert pace.seconds_until(1, START + 0.5) == pytest.approx(0.01)


def test_a_level_that_is_known_to_be_let_through_is_caught_up_with():
    pace = paced()
    go(pace, START)
    pace.catch_up(4)
    assert go(pace, START) == 4
    pace.catch_up(1_000)
    assert go(pace, START) == 10
    pace.catch_up(-5)
    assert go(pace, START) == 0


@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.sampled_from([1.0, 2.0, 7.0]), st.sampled_from([None, 5.0, 20.0])),
        min_size=1, max_size=80,
    ),
)  # fmt: skip
def test_no_more_goes_than_the_rate_and_one_burst_in_any_span(steps):
    pace, now = paced(), START
    over, rate = 0.0, 10.0  # what is ahead of the rate, as a leaky bucket sees it
    for elapsed_seconds, units, new_rate in steps:
        now += elapsed_seconds
        over = max(0.0, over - elapsed_seconds * rate)
        if new_rate is not None:
            rate = new_rate
            pace.set_rate(rate, 0, now)
        if pace.seconds_until(units, now) == 0:
            pace.take(units, now)
            over += units
        # the largest burst, and of one that is larger than the smallest burst what goes beyond that
        assert over <= 20 + (7 - 5) + 1e-3


@given(st.floats(0.01, 1e4), st.floats(0, 1e4), st.floats(0, 1e5), st.sampled_from([0.0, 1.0]))
def test_whoever_waits_as_long_as_told_may_go(rate_per_second, taken, units, smallest):
    pace = paced(rate_per_second, smallest)
    pace.take(taken, START)
    seconds = pace.seconds_until(units, START)
    assert 0 <= seconds < math.inf
    assert pace.seconds_until(units, START + seconds) <= 1e-6 * (1 + seconds)


# Trials


def test_two_trials_at_first_and_each_that_comes_through_allows_two():
    pace = paced()
    assert not pace.is_trying
    for _ in range(2):
        assert pace.seconds_until_trial(START) == 0
        pace.begin_trial()
    assert pace.seconds_until_trial(START) == math.inf
    assert pace.is_trying
    pace.end_trial(1, is_admitted=True, now=START)
    for _ in range(2):
        assert pace.seconds_until_trial(START) == 0
        pace.begin_trial()
    assert pace.seconds_until_trial(START) == math.inf


def test_a_trial_that_came_through_makes_the_burst_larger_by_itself():
    pace = paced()
    pace.begin_trial()
    pace.end_trial(5, is_admitted=True, now=START)
    assert pace.capacity == pytest.approx(15)


def test_a_trial_that_tells_nothing_only_makes_room_for_another():
    pace = paced()
    pace.begin_trial()
    pace.begin_trial()
    pace.end_trial(1, is_admitted=False, now=START)
    assert pace.seconds_until_trial(START) == 0
    assert pace.capacity == 10


def test_doubts_last_a_minute_then_two_and_at_most_an_hour():
    pace, now, doubts = paced(), START, []
    for _ in range(8):
        pace.doubt(now)
        doubts.append(pace.seconds_until_trial(now))
        now += doubts[-1]
        assert pace.seconds_until_trial(now) == 0
    assert doubts == [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]


def test_a_doubt_takes_the_learned_burst_and_what_was_saved_up():
    pace = paced()
    for _ in range(5):
        pace.begin_trial()
        pace.end_trial(10, is_admitted=True, now=START)
    pace.doubt(START)
    assert pace.capacity == 10
    assert not pace.is_trying
    assert go(pace, START) == 0
    assert pace.seconds_until(1, START) == pytest.approx(0.1)


def test_a_trial_from_before_a_doubt_does_not_end_it():
    """Rejections are told sooner than answers: what was let in before them proves nothing."""
    pace = paced()
    pace.begin_trial()
    pace.doubt(START)
    pace.end_trial(10, is_admitted=True, now=START + 1)
    assert pace.capacity == 10
    assert not pace.is_trying


def test_a_burst_is_halved_down_to_a_quarter_of_a_second():
    pace = paced(rate_per_second=100)
    bursts = []
    for _ in range(4):
        pace.shorten()
        bursts.append(pace.capacity)
    assert bursts == [50, 25, 25, 25]
    assert go(pace, START) == 0
