"""The rules of a circuit, and the laws that it keeps whatever happens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lc_service import CircuitBreaker
from lc_service.limits.circuit import Circuit
from lc_service.retry.errors import ErrorKind

RULES = CircuitBreaker(failures=3, min_seconds=2, probe_after_seconds=5, max_probe_after_seconds=20)


@pytest.mark.parametrize(
    "rules",
    [
        {"failures": 0},
        {"failures": True},
        {"failures": 2.5},
        {"min_seconds": -1},
        {"probe_after_seconds": float("nan")},
        {"max_probe_after_seconds": float("inf")},
        {"probe_after_seconds": 61},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(rules: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(rules))):
        CircuitBreaker(**rules)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from("aefsgw"), st.integers(0, 9)), max_size=60))
def test_laws_of_a_circuit(steps: list[tuple[str, int]]):
    """At most one probe in its time, never open without a run of failures, always a way out."""
    circuit = Circuit(RULES)
    now, alive_at = 0.0, 0.0
    under_way: list[tuple[int, float]] = []
    for step, number in steps:
        now += number / 3
        was_open = circuit.is_open
        if step == "a" and (probe := circuit.admit(now)) is not None:
            assert (probe > 0) == was_open
            younger = [at for other, at in under_way if other and now - at < RULES.max_probe_after_seconds]
            assert not (probe and younger)
            under_way.append((probe, now))
        elif step in "efsg" and under_way:
            probe, _ = under_way.pop(number % len(under_way))
            if step == "s":
                circuit.succeed()
                under_way = [(0, at) for _, at in under_way]  # nothing they do is a probe's any more
                alive_at = now
                assert not circuit.is_open
            elif step == "g":
                circuit.give_up(probe, now)
                assert circuit.is_open == was_open
            else:
                circuit.fail(probe, ErrorKind.TIMEOUT, now)
        if circuit.is_open and not was_open:
            assert circuit.opened.failures >= RULES.failures
            assert now - alive_at >= RULES.min_seconds
    if circuit.is_open:
        assert circuit.admit(now + circuit.patience_seconds(now))
