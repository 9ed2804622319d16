"""How many are under way: grows only when used, shrinks seldom, and never past a user's own number."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.limits.concurrency import Concurrency

START = 1_000.0


def filled(most: int | None = None, *, is_told: bool = True, count: int | None = None) -> Concurrency:
    concurrency = Concurrency(most, START)
    if is_told:
        concurrency.trust()
    for _ in range(concurrency.limit if count is None else count):
        concurrency.enter()
    return concurrency


def fast_rounds(concurrency: Concurrency, now: float, latency_seconds: float = 0.1, rounds: int = 1) -> None:
    for _ in range(rounds):
        for _ in range(concurrency.limit):
            concurrency.answered(latency_seconds, now)
        concurrency.in_flight = concurrency.limit


def test_it_begins_with_few_and_each_answer_allows_for_two():
    concurrency = filled(is_told=False)
    assert concurrency.limit == 4
    concurrency.answered(0.1, START)
    assert concurrency.limit == 5


def test_in_the_dark_it_is_doubled_each_second_until_it_is_known():
    concurrency = filled(is_told=False, count=0)
    went = []
    for now in (START, START + 0.99, START + 1, START + 2, START + 3, START + 4, START + 9):
        while concurrency.seconds_until_room(now) == 0:
            concurrency.enter()
        went.append(concurrency.in_flight)
    assert went == [4, 4, 8, 16, 32, 64, 64]
    assert concurrency.seconds_until_room(START + 9) is None


def test_it_says_when_the_next_may_go():
    concurrency = filled(is_told=False, count=0)
    assert concurrency.seconds_until_room(START) == 0
    for _ in range(4):
        concurrency.enter()
    assert concurrency.seconds_until_room(START + 0.25) == pytest.approx(0.75)


def test_a_server_that_tells_its_limits_is_trusted_with_64_at_once():
    concurrency = filled(is_told=False)
    concurrency.trust()
    assert concurrency.limit == 64


def test_a_server_that_tells_its_limits_and_answers_slowly_is_asked_twice_as_much_each_second():
    concurrency = filled(count=0)
    went = []
    for now in (START, START + 1, START + 2, START + 3, START + 4, START + 60):
        while concurrency.seconds_until_room(now) == 0:
            concurrency.enter()
        went.append(concurrency.in_flight)
    assert went == [64, 128, 256, 512, 1_024, 1_024]


def test_where_it_was_too_much_once_it_is_not_doubled_by_time_any_more():
    concurrency = filled()
    concurrency.overloaded(START + 1, START + 1)
    assert concurrency.limit == 51
    assert concurrency.seconds_until_room(START + 100) is None


def test_a_round_as_fast_as_the_best_doubles_it():
    concurrency = filled()
    fast_rounds(concurrency, START)
    assert concurrency.limit == 128
    fast_rounds(concurrency, START, latency_seconds=0.14)
    assert concurrency.limit == 256


def test_a_slower_round_keeps_it_and_a_threefold_latency_shrinks_it():
    concurrency = filled()
    fast_rounds(concurrency, START)
    fast_rounds(concurrency, START, latency_seconds=0.2)
    assert concurrency.limit == 128
    fast_rounds(concurrency, START, latency_seconds=0.4)
    assert concurrency.limit == 102


def test_after_it_shrank_it_grows_by_the_tenth():
    concurrency = filled()
    concurrency.overloaded(START + 1, START + 1)
    concurrency.in_flight = concurrency.limit
    fast_rounds(concurrency, START + 2)
    assert concurrency.limit == 56


def test_it_does_not_grow_where_it_is_not_what_holds_calls_back():
    concurrency = filled(count=40)
    for _ in range(1_000):
        concurrency.answered(0.1, START)
    assert concurrency.limit == 64


def test_it_shrinks_once_in_fifteen_seconds_and_not_below_sixteen():
    concurrency = filled()
    shrunk_at, limit = [], concurrency.limit
    for tenth in range(1, 2_000):
        now = START + tenth / 10
        concurrency.overloaded(now, now)
        if concurrency.limit < limit:
            shrunk_at.append(now)
            limit = concurrency.limit
    assert limit == 16
    assert min(after - before for before, after in pairwise(shrunk_at)) >= 15 - 1e-6


def test_what_was_sent_before_it_shrank_is_the_same_overload():
    concurrency = filled()
    concurrency.overloaded(START + 1, START + 2)
    concurrency.overloaded(START + 1.5, START + 60)
    assert concurrency.limit == 51


@pytest.mark.parametrize("most", [1, 3, 64])
def test_a_users_own_small_number_holds_from_the_beginning(most):
    concurrency = filled(most, count=0, is_told=False)
    while concurrency.seconds_until_room(START) == 0:
        concurrency.enter()
    assert concurrency.in_flight == most
    assert concurrency.seconds_until_room(START + 100) is None


def test_a_users_own_large_number_begins_with_64_and_is_reached_by_time():
    concurrency = filled(200, count=0, is_told=False)
    went = []
    for now in (START, START + 1, START + 2, START + 9):
        while concurrency.seconds_until_room(now) == 0:
            concurrency.enter()
        went.append(concurrency.in_flight)
    assert went == [64, 128, 200, 200]


def test_a_users_own_large_number_is_reached_at_once_where_the_server_tells_its_limits():
    assert filled(200).limit == 200


def test_a_users_own_number_neither_grows_nor_shrinks():
    concurrency = filled(100)
    fast_rounds(concurrency, START, rounds=5)
    concurrency.overloaded(START + 1, START + 1)
    assert concurrency.limit == 100


@given(
    seed=st.integers(0, 2**32), most=st.sampled_from([None, 1, 5, 64, 65, 300]), tells=st.booleans(),
)  # fmt: skip
def test_whatever_happens_it_stays_within_its_bounds(seed, most, tells):
    chance, now = random.Random(seed), START
    concurrency = filled(most, is_told=tells, count=0)
    limit, shrunk_at = concurrency.limit, START - 15
    for _ in range(300):
        now += chance.choice([0, 0.001, 0.1, 2])
        step = chance.randrange(4)
        if step <= 1:
            seconds = concurrency.seconds_until_room(now)
            assert seconds is None or seconds >= 0
            if seconds == 0:
                concurrency.enter()
        elif step == 2 and concurrency.in_flight:
            concurrency.answered(chance.choice([0.1, 0.2, 1.0]), now)
            concurrency.leave()
        elif step == 3:
            concurrency.overloaded(now, now)
        assert 1 <= concurrency.limit <= (most or 4_096)
        if concurrency.limit < limit:
            assert now - shrunk_at >= 15
            assert concurrency.limit >= 16
            shrunk_at = now
        limit = concurrency.limit
        assert concurrency.in_flight >= 0
