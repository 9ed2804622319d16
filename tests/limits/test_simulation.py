"""Laws of the limiter in a simulated world: real code, no wall time, one outcome for one seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulation.cells import MIXED, RPM, TPM
from simulation.clock import SkewedClock
from simulation.events import Events
from simulation.result import run
from simulation.scenario import Bound, Scenario
from simulation.world import NETWORK_SECONDS, World

from lc_service.limits.rate_limits import RateLimits
from lc_service.simulator import ServerLimits

SEEDS = (1, 2)
HONEST = Bound(floor_ratio=1.02, rejected_share=0.005)
CELLS = (
    Scenario(name="rpm", limits=RPM, items=800, bound=HONEST),
    Scenario(name="tpm", limits=TPM, items=400, tokens=MIXED, bound=HONEST),
    Scenario(name="rejected count", limits=replace(RPM, charge_rejected=True), items=800, bound=HONEST),
    Scenario(name="no retry-after", limits=replace(RPM, sends_retry_after=False), items=800, bound=HONEST),
    Scenario(
        name="minute", limits=replace(RPM, headers="minute"), items=800,
        bound=Bound(floor_ratio=1.08, rejected_share=0.05),
    ),
    Scenario(
        name="neighbour", limits=ServerLimits(requests_per_minute=6_000, neighbour_share=0.5), items=800,
        bound=Bound(floor_ratio=1.10, rejected_share=0.05),
    ),
    Scenario(
        name="no headers", limits=replace(RPM, headers="none"), items=800,
        bound=Bound(floor_ratio=1.15, rejected_share=0.10),
    ),
    Scenario(
        name="halved and doubled", limits=RPM, items=800,
        changes=((5.0, replace(RPM, requests_per_minute=1_500)), (11.0, RPM)),
        bound=Bound(rejected_share=0.02, followed_seconds=3.0),
    ),
    Scenario(name="clock off", limits=RPM, items=800, drift=0.01, bound=HONEST),
    Scenario(name="reckoned too large", limits=TPM, items=400, tokens=MIXED, reckoned=1.5, bound=HONEST),
    Scenario(
        name="reckoned too small", limits=TPM, items=400, tokens=MIXED, reckoned=0.7,
        bound=Bound(floor_ratio=1.02, rejected_share=0.025),
    ),
    Scenario(
        name="slow answers", limits=RPM, items=1_500, workers=1_000, latency_seconds=10.0,
        bound=Bound(floor_ratio=1.25, rejected_share=0.01),
    ),
    Scenario(
        name="slow answers, a number of the user's", limits=RPM, items=1_500, workers=1_000,
        latency_seconds=10.0, told=RateLimits(max_concurrency=4_096),
        bound=Bound(floor_ratio=1.05, rejected_share=0.02),
    ),
    Scenario(
        name="slow answers, no headers", limits=replace(RPM, headers="none"), items=600, workers=600,
        latency_seconds=10.0, bound=Bound(floor_ratio=2.6, rejected_share=0.05),
    ),
)  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scenario", CELLS, ids=lambda scenario: scenario.name)
def test_each_server_is_met_within_its_bound(scenario, seed):
    assert run(scenario, seed).misses == []


def test_the_same_seed_gives_the_same_run():
    scenario = replace(CELLS[6], items=200, processes=3, workers=8, drift=0.01)
    assert World(scenario, 5).run() == World(scenario, 5).run()
    assert World(scenario, 5).run() != World(scenario, 6).run()


def test_the_least_wait_does_not_let_anything_small_pass_a_large_one():
    limits = ServerLimits(tokens_per_minute=600_000)
    scenario = Scenario(name="fair", limits=limits, items=200, tokens=(10, 10_000))
    log = World(scenario, 1).run()
    assert log.first_sent == sorted(log.first_sent)
    assert len(log.answered) == 200


@pytest.mark.parametrize("processes", [1, 5])
@pytest.mark.parametrize("headers", ["true", "none"])
def test_no_more_is_let_in_than_the_burst_and_the_rate_allow(processes, headers):
    limits = replace(RPM, headers=headers)
    scenario = Scenario(name="law", limits=limits, items=200, processes=processes, workers=64)
    times = [time for time, _ in World(scenario, 1).run().admitted]
    over, before = 0.0, times[0]
    for time in times:
        over = max(0.0, over - 50 * (time - before)) + 1
        before = time
        assert over <= 50 + 0.001


def test_waiting_costs_about_a_look_for_each_item():
    assert run(replace(CELLS[0], items=400), 1).looks_share < 2


def test_processes_that_share_nothing_come_through_all_the_same():
    """Each is the others' neighbour; with many more of them retries run out, and a Redis is what helps."""
    scenario = Scenario(name="four", limits=RPM, items=400, processes=4, workers=16)
    results = [run(scenario, seed) for seed in range(1, 6)]
    assert max(result.floor_ratio for result in results) <= 1.10
    assert max(result.rejected_share for result in results) <= 0.12
    assert sum(result.lost for result in results) <= 1


def test_a_clocks_error_makes_no_difference_as_long_as_it_runs_true():
    true = Scenario(name="true", limits=RPM, items=300)
    world, ahead = World(true, 3), World(true, 3)
    for process in ahead.processes:
        process.clock = SkewedClock(offset_seconds=4_096.0)
        process.admission = ahead.make_admission(true.told, process.now)
    assert ahead.run().answered == pytest.approx(world.run().answered, abs=NETWORK_SECONDS)


def test_a_skewed_clock_goes_there_and_back():
    clock = SkewedClock(offset_seconds=86_400.0, drift=0.01)
    assert clock.shows(100.0) == 86_501.0
    assert clock.time_when(clock.shows(1_234.5)) == pytest.approx(1_234.5)


def test_events_happen_in_the_order_of_their_time_and_then_of_their_asking():
    events, seen = Events(), []
    events.after(2.0, seen.append, "late")
    events.after(1.0, seen.append, "first")
    events.after(1.0, seen.append, "second")
    events.at(0.0, seen.append, "past")
    events.after(9.0, seen.append, "never")
    events.run(until=events.now + 5.0)
    assert seen == ["past", "first", "second", "late"]
