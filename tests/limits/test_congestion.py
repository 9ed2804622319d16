"""The rate that is found by meeting its end."""

from __future__ import annotations

import pytest

from lc_service.limits.congestion import Congestion


def busy(rate_per_second: float = 20.0, seconds: float = 4.0) -> tuple[Congestion, float]:
    congestion = Congestion()
    for number in range(int(seconds * rate_per_second)):
        congestion.admitted(1.0, 1_000 + number / rate_per_second)
    return congestion, 1_000 + seconds


def test_nothing_is_known_before_the_first_end():
    assert Congestion().rate_per_second(1_000) is None
    assert not Congestion().rejected(1.0, 1_000, None, 1_000)


def test_a_rejection_cuts_to_a_share_of_what_came_through():
    congestion, now = busy()
    for _ in range(5):
        congestion.rejected(1.0, now, None, now)
    assert congestion.rate_per_second(now) == pytest.approx(0.85 * 20, rel=0.1)


def test_what_was_sent_before_a_cut_is_the_same_congestion():
    congestion, now = busy()
    cuts = [congestion.rejected(1.0, now - 0.1, None, now + number / 100) for number in range(30)]
    assert sum(cuts) == 1


def test_the_rate_lingers_where_it_was_cut_and_then_grows():
    congestion, now = busy()
    while not congestion.rejected(1.0, now, None, now):
        pass
    plateau = congestion.rate_per_second(now) / 0.85
    rates = []
    for number in range(1, 121):
        congestion.admitted(1.0, now + number / 20)
        rates.append(congestion.rate_per_second(now + number / 20))
    assert rates == sorted(rates)
    assert rates[48] == pytest.approx(plateau, rel=0.001)  # 2.47 s after
    assert rates[-1] > 1.3 * plateau


def test_cuts_that_change_nothing_are_given_up_for_a_while():
    congestion, now = busy()
    cuts = []
    for number in range(2_000):
        at = now + number / 100
        congestion.rejected(1.0, at, congestion.rate_per_second(at), at)
        if number % 5 == 0:
            congestion.admitted(1.0, at)
        cuts.append(congestion.rate_per_second(at))
    assert cuts[100] is not None
    assert cuts[-1] is None


def test_what_costs_nothing_tells_nothing():
    congestion, now = busy()
    assert not congestion.rejected(0.0, now, None, now)
    assert congestion.rate_per_second(now) is None
