from __future__ import annotations

from dataclasses import replace

import pytest
from flow.peers import PEERS
from flow.plot import draw
from flow.run import Outcome
from flow.scenario import SCENARIOS
from flow.server import Served
from flow.table import cell, markdown
from flow.verdict import followed, misses

RPM = SCENARIOS["rpm"]


def served(rejections=0, billed=1_000, **seen) -> Served:
    return Served(requests=billed + rejections, rejections=rejections, billed=billed, **seen)


def outcome(scenario=RPM, rejections=0, **figures) -> Outcome:
    given = {"items": 1_000, "answered": 1_000, "seconds": 19.2, "floor_seconds": 19.1} | figures
    return Outcome(scenario=scenario, peer="ours", **{"served": served(rejections)} | given)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, "–"),  # noqa: RUF001  the sign that stands in the table
        (outcome(), "1.005 ×"),  # noqa: RUF001  as above
        (outcome(rejections=1_200, seconds=38.2), "2.000 ×, 1,200 rejections"),  # noqa: RUF001  as above
        (outcome(answered=540, lost=460), "**46.0% lost**"),
        (outcome(answered=100, lost=900, is_done=False, wrong=2), "**not done** (10%), **2 wrong**"),
        (outcome(note="cannot be installed"), "cannot be installed"),
    ],
)
def test_a_cell_says_in_few_words_what_came_of_a_run(given, shown):
    assert cell(given) == shown


@pytest.mark.parametrize(
    ("given", "missed"),
    [
        (outcome(), None),
        (outcome(seconds=19.5), "x floor"),
        (outcome(rejections=6), "rejected"),
        (outcome(lost=1), "1 lost"),
        (outcome(wrong=1), "1 wrong"),
        (outcome(SCENARIOS["faults"], served=served(billed=1_001)), "1001 paid for 1000"),
        (outcome(SCENARIOS["faults"], fault_free_seconds=16.0, seconds=20.0), "0.80 < 0.85"),
        (outcome(SCENARIOS["faults"], fault_free_seconds=18.0, seconds=20.0), None),
    ],
)
def test_a_bound_is_missed_or_met(given, missed):
    found = misses(given)
    assert (len(found), missed is None or missed in found[0]) == (0 if missed is None else 1, True)


def test_a_change_is_followed_by_what_arrives_in_the_third_second():
    arrivals = tuple(2 + number / 26 for number in range(26)) + tuple(8 + number / 40 for number in range(40))
    seen = served(changed_at=(0.0, 6.0), arrived_at=arrivals)
    given = outcome(SCENARIOS["change"], served=seen)
    assert followed(given.scenario, seen) == [(26.0, 25.0), (40.0, 50.0)]
    assert misses(given) == ["40 a second where 50 are allowed"]


def test_table_and_plot_show_every_run(tmp_path):
    peers = [PEERS["ours"], PEERS["openai"]]
    outcomes = {
        ("rpm", "ours"): outcome(),
        ("rpm", "openai"): replace(outcome(answered=1, lost=999), peer="openai"),
        ("cpu", "ours"): outcome(SCENARIOS["cpu"], cpu_seconds=2.0),
        ("cpu", "openai"): outcome(SCENARIOS["cpu"], cpu_seconds=1.5),
    }
    scenarios = [RPM, SCENARIOS["cpu"]]
    text = markdown(scenarios, peers, outcomes)
    assert "| **99.9% lost** |" in text
    assert "| CPU a call, no limits | 2.00 ms | 1.50 ms |" in text
    assert text.count("PASS") == 1
    assert text.count("MISS") == 1  # of CPU time: more than the SDK takes
    draw(tmp_path / "flow.svg", scenarios, peers, outcomes)
    assert "OpenAI SDK" in (tmp_path / "flow.svg").read_text(encoding="utf-8")
