"""Simulators for LangChain's own suites: clean, and rejecting every request once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lc_service.simulator import Fault, FaultPlan, Simulator


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "simulator" in metafunc.fixturenames:
        metafunc.parametrize("simulator", ["clean", "rejected_once"], indirect=True, scope="class")


@pytest.fixture(scope="class")
def simulator(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    """Serve a suite's tests; `rejected_once`: every request is answered by a 429 first."""
    plan = None
    if request.param == "rejected_once":
        plan = FaultPlan.first(Fault("rate_limit", retry_after_seconds=0.001))
    with Simulator(faults=plan, max_lifetime_seconds=300) as sim:
        request.cls.base_url = sim.base_url
        yield sim
        statuses = [each.status for each in sim.requests]
    # sent once where it was served, once more where it was rejected, and never for nothing
    assert statuses.count(429) == (statuses.count(200) if plan else 0)
    assert set(statuses) <= {200, 429}
