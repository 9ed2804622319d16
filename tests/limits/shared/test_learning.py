"""What a process learns of a limit that it shares: rates, capacity and charge; never the level."""

from __future__ import annotations

import pytest

from lc_service.limits.mirror import Mark
from lc_service.limits.shared.call import shown
from lc_service.limits.shared.learning import Learning
from lc_service.limits.told import Told

NOW = 1_000.0


def mark(cost: float = 1.0, sent: float = 1.0, at: float = NOW) -> Mark:
    return Mark(cost, False, at, sent, True)


def told(limit: float = 600.0, remaining: float = 9.0, reset_seconds: float | None = 0.1) -> Told:
    return Told(limit, remaining, reset_seconds)


def test_nothing_is_known_at_first() -> None:
    assert Learning("requests", None).pace() == ("", "")


def test_a_cap_is_a_pace_with_a_seconds_burst() -> None:
    assert Learning("tokens", 6_000).pace() == (100.0, 100.0)


def test_a_slow_cap_lets_one_request_through() -> None:
    assert Learning("requests", 6).pace() == (0.1, 1.0)


def test_what_headers_tell_is_passed_on() -> None:
    learning = Learning("requests", None)
    remaining, position, rate, capacity, margin, ratio, *pace = learning.see(told(), mark(sent=41), NOW)
    assert (remaining, position) == (9.0, 41)
    assert (rate, capacity, ratio) == (10.0, pytest.approx(10.0), 1.0)
    assert 0 < margin < 1
    assert pace == [10.0, 10.0] == list(learning.pace())


def test_the_lower_of_cap_and_headers_is_the_pace() -> None:
    assert Learning("requests", 300).see(told(), mark(), NOW)[6:] == (5.0, 5.0)
    assert Learning("requests", 6_000).see(told(), mark(), NOW)[6:] == (10.0, 10.0)


def test_no_headers_say_nothing() -> None:
    assert Learning("tokens", None).see(None, mark(), NOW) == ("",) * 8


def test_a_limit_that_changes_is_followed() -> None:
    learning = Learning("requests", None)
    learning.see(told(), mark(), NOW)
    assert learning.see(told(limit=1_200), mark(sent=2, at=NOW + 1), NOW + 1)[2] == 20.0


def test_what_a_token_costs_is_learned_from_the_counts_of_all() -> None:
    learning = Learning("tokens", None)
    rate, level, sent = 100.0, 4_000.0, 0.0
    for number in range(40):
        at = NOW + number * 0.5
        level += 0.5 * rate - 100  # others' and its own, charged double
        sent += 50
        ratio = learning.see(Told(6_000, level, 60.0), mark(cost=5, sent=sent, at=at), at)[5]
    assert ratio == pytest.approx(2.0, rel=0.1)


def test_a_surprise_keeps_more_free() -> None:
    learning = Learning("requests", None)
    margin = learning.see(told(), mark(), NOW)[4]
    learning.rejected(told(remaining=0), mark(sent=2, at=NOW + 1), NOW + 1)
    assert learning.see(told(), mark(sent=3, at=NOW + 1), NOW + 1)[4] > margin


def test_a_rejection_of_what_there_was_room_for_keeps_no_more_free() -> None:
    learning = Learning("requests", None)
    learning.rejected(told(), mark(), NOW)  # before anything is known
    margin = learning.see(told(), mark(), NOW)[4]
    learning.rejected(told(remaining=9), mark(sent=2), NOW)
    assert learning.see(told(), mark(sent=3), NOW)[4] == margin


@pytest.mark.parametrize("unknown", [None, float("inf"), float("nan")])
def test_what_is_not_known_is_empty(unknown: float | None) -> None:
    assert shown(unknown) == ""
    assert shown(0.0) == 0.0
