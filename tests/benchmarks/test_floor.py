from __future__ import annotations

import pytest
from flow.floor import floor_seconds
from flow.run import floor_of
from flow.scenario import SCENARIOS, items_of, total_tokens

from lc_service.simulator import ServerLimits

RPM = ServerLimits(requests_per_minute=3_000)


def floor(limits, requests=1_000, tokens=0, changes=()) -> float:
    return floor_seconds(
        limits, requests=requests, tokens=tokens, latency_seconds=0.1, concurrency=64, changes=changes
    )


def test_what_exceeds_the_burst_comes_at_the_rate_and_then_takes_the_latency():
    assert floor(RPM) == pytest.approx(950 / 50 + 0.1)


def test_the_limit_that_takes_longest_counts():
    both = ServerLimits(requests_per_minute=3_000, tokens_per_minute=6_000)
    assert floor(both, requests=100, tokens=1_100) == pytest.approx(10.1)


def test_a_neighbour_takes_its_share_of_the_rate_only():
    limits = ServerLimits(requests_per_minute=6_000, neighbour_share=0.5)
    assert floor(limits) == pytest.approx(900 / 50 + 0.1)


def test_a_change_counts_from_its_moment():
    halved = ServerLimits(requests_per_minute=1_500)
    # 50 at once, 300 in six seconds, 150 in the next six, 500 in the last ten
    assert floor(RPM, changes=((6.0, halved), (12.0, RPM))) == pytest.approx(22.1)
    assert floor(RPM, requests=300, changes=((6.0, halved),)) == pytest.approx(5.1)


def test_without_limits_the_rounds_count():
    assert floor(None, requests=65) == pytest.approx(0.2)
    assert floor(RPM, requests=50) == pytest.approx(0.1)


def test_mixed_items_are_small_and_large_and_need_about_a_minute():
    scenario = SCENARIOS["tpm"]
    items = items_of(scenario)
    assert total_tokens(items) / len(items) == pytest.approx(120, rel=0.02)
    assert min(item.tokens for item in items) < 50
    assert 800 < max(item.tokens for item in items) < 1_200  # it fits a second's worth
    assert floor_of(scenario, items) == pytest.approx(59, abs=1)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_item_has_an_answer_of_its_own(name):
    items = items_of(SCENARIOS[name])
    assert len({item.answer for item in items}) == len(items) == SCENARIOS[name].items
