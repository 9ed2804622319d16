from __future__ import annotations

import pytest

from lc_service.simulator import Fault, FaultPlan
from lc_service.simulator.script import FaultScript

A, B = FaultScript.digest("/v1/x", b"a"), FaultScript.digest("/v1/x", b"b")


def test_a_list_is_used_up_in_order_then_everything_is_served():
    script = FaultScript(["reset", None, "ok", Fault("cut")])
    met = [script.arrive(A)[1] for _ in range(6)]
    assert met == [Fault("reset"), None, None, Fault("cut"), None, None]


def test_reset_begins_again():
    script = FaultScript(["reset"])
    script.arrive(A)
    script.failed(A)
    script.reset()
    assert script.arrive(A) == (1, Fault("reset"))


def test_attempts_count_failures_in_a_row_of_the_same_body():
    script = FaultScript()
    assert script.arrive(A)[0] == 1
    script.failed(A)
    script.failed(A)
    assert script.arrive(A)[0] == 3
    assert script.arrive(B)[0] == 1
    script.served(A)
    assert script.arrive(A)[0] == 1


def test_the_same_body_on_another_path_is_another_request():
    assert FaultScript.digest("/v1/y", b"a") != A


def test_a_plan_sees_the_attempt():
    script = FaultScript(FaultPlan.first("reset"))
    assert script.arrive(A) == (1, Fault("reset"))
    script.failed(A)
    assert script.arrive(A) == (2, None)


def test_a_bare_string_is_refused():
    with pytest.raises(TypeError, match="list"):
        FaultScript("reset")


def test_an_unknown_kind_in_a_list_is_refused():
    with pytest.raises(ValueError, match="explosion"):
        FaultScript(["explosion"])
