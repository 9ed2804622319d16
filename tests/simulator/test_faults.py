from __future__ import annotations

import pytest

from lc_service.simulator import Fault, FaultPlan
from lc_service.simulator.faults import as_fault

DIGESTS = [bytes([number]) * 16 for number in range(200)]


def test_every_kind_is_in_the_docstrings_table():
    missing = [kind for kind in Fault.KINDS if f"| `{kind}` |" not in (Fault.__doc__ or "")]
    assert missing == []


@pytest.mark.parametrize("entry", [None, "ok"])
def test_nothing_and_ok_mean_serve(entry):
    assert as_fault(entry) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fault("explosion"),
        lambda: Fault("cut", after_chunks=-1),
        lambda: Fault("slow", delay_seconds=-0.1),
        lambda: Fault("rate_limit", retry_after_seconds=-1),
        lambda: FaultPlan(rate=1.5),
        lambda: FaultPlan(kinds=()),
        lambda: FaultPlan(kinds="reset"),
        lambda: FaultPlan(kinds=("explosion",)),
        lambda: FaultPlan(max_attempts=-1),
    ],
)
def test_nonsense_is_refused_at_construction(make):
    with pytest.raises(ValueError):
        make()


def test_a_plan_draws_the_same_for_the_same_request_and_attempt():
    plan, again = FaultPlan(seed=7, rate=0.5), FaultPlan(seed=7, rate=0.5)
    drawn = [plan.draw(digest, 1) for digest in DIGESTS]
    assert drawn == [again.draw(digest, 1) for digest in DIGESTS]
    assert drawn != [FaultPlan(seed=8, rate=0.5).draw(digest, 1) for digest in DIGESTS]
    assert drawn != [plan.draw(digest, 2) for digest in DIGESTS]


@pytest.mark.parametrize(("rate", "least", "most"), [(0, 0, 0), (0.2, 20, 60), (1, 200, 200)])
def test_a_plan_keeps_its_rate(rate, least, most):
    plan = FaultPlan(rate=rate)
    assert least <= sum(plan.draw(digest, 1) is not None for digest in DIGESTS) <= most


def test_a_plan_uses_all_its_kinds():
    plan = FaultPlan(rate=1, kinds=("reset", Fault("cut", after_chunks=1)))
    assert {plan.draw(digest, 1) for digest in DIGESTS} == {
        Fault("reset"),
        Fault("cut", after_chunks=1),
    }


def test_a_plan_serves_after_its_last_attempt():
    plan = FaultPlan(rate=1, max_attempts=2)
    assert [plan.draw(DIGESTS[0], attempt) is None for attempt in (1, 2, 3)] == [False, False, True]


def test_first_fails_the_first_attempt_only():
    plan = FaultPlan.first("unavailable")
    assert plan.draw(DIGESTS[0], 1) == Fault("unavailable")
    assert plan.draw(DIGESTS[0], 2) is None
