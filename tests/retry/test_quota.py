from __future__ import annotations

import pickle
import threading
from contextlib import nullcontext

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.retry.quota import RetryQuota


def test_a_retry_takes_its_cost_and_an_empty_quota_refuses():
    quota = RetryQuota(capacity=25, retry_cost=10)
    assert [quota.take(), quota.take(), quota.take()] == [True, True, False]
    assert quota.available == 5  # the refused one took nothing


@pytest.mark.parametrize(("retries", "worth"), [(0, 1), (1, 10), (3, 10)])
def test_a_success_gives_back_its_last_retry_or_one_token(retries, worth):
    quota = RetryQuota(capacity=100, retry_cost=10)
    for _ in range(5):
        quota.take()
    quota.give_back(retries)
    assert quota.available == 50 + worth


def test_it_is_never_fuller_than_its_capacity():
    quota = RetryQuota(capacity=10)
    quota.give_back(0)
    quota.give_back(1)
    assert quota.available == 10


@pytest.mark.parametrize(
    ("arguments", "name"), [({"capacity": -1}, "capacity"), ({"retry_cost": 0}, "retry_cost")]
)
def test_a_wrong_size_is_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        RetryQuota(**arguments)


def test_a_pickled_quota_keeps_its_level_and_works():
    quota = RetryQuota(capacity=20)
    quota.take()
    copy = pickle.loads(pickle.dumps(quota))
    assert (copy.available, copy.capacity, copy.retry_cost) == (10, 20, 10)
    assert copy.take()
    assert quota.available == 10  # two quotas from here on


def test_threads_never_take_more_than_there_is():
    quota = RetryQuota(capacity=1_000, retry_cost=1)
    taken = [0] * 8
    start = threading.Barrier(8)

    def work(who: int) -> None:
        start.wait()
        for _ in range(500):
            taken[who] += quota.take()

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 1_000
    assert quota.available == 0


@given(
    capacity=st.integers(0, 60),
    cost=st.integers(1, 12),
    steps=st.lists(st.one_of(st.just("take"), st.integers(0, 4)), max_size=80),
)
def test_the_level_stays_between_zero_and_capacity_and_pays_for_every_retry(capacity, cost, steps):
    quota = RetryQuota(capacity=capacity, retry_cost=cost)
    taken = returned = 0
    for step in steps:
        if step == "take":
            taken += cost * quota.take()
        else:
            quota.give_back(step)
            returned += cost if step else 1
        assert 0 <= quota.available <= capacity
    assert taken <= capacity + returned


@pytest.mark.parametrize("failures_of_ten", [10, 9, 5, 1])
def test_once_empty_an_outage_adds_at_most_ten_percent_to_the_good_requests(
    execute, fake_clock, api_error, failures_of_ten
):
    quota = RetryQuota()
    policy = RetryWithExponentialBackoff(quota=quota)
    while quota.take():
        pass
    calls = requests = 0
    for number in range(200):
        is_down = number % 10 < failures_of_ten

        def call(is_down=is_down) -> None:
            nonlocal requests
            requests += 1
            if is_down:
                raise api_error(503)

        calls += 1
        with pytest.raises(openai.APIStatusError) if is_down else nullcontext():
            execute(policy, call)
    retries = requests - calls
    assert retries <= (calls * (10 - failures_of_ten) / 10) / 10
    assert retries == len(fake_clock.waits)


def test_rate_limits_draw_nothing(execute, fake_clock, api_error):
    quota = RetryQuota(capacity=0)
    policy = RetryWithExponentialBackoff(max_retries=3, quota=quota)
    attempts = []

    def call() -> None:
        attempts.append(1)
        raise api_error(429)

    with pytest.raises(Exception, match="m"):
        execute(policy, call)
    assert len(attempts) == 4
