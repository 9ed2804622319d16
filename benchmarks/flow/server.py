"""The simulator in a process of its own, driven through a pipe.

Invariant: limits hold and are counted from `arm()` on; what came before, the warm-up, leaves no trace. It
knows no client.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from flow.scenario import Scenario
from lc_service.simulator import ServerLimits, Simulator

_LIFETIME_MARGIN_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """What the server saw of one run.

    Attributes:
        requests: All, rejected and faulty ones included.
        rejections: 429s for the limits' sake, not those that are faults.
        billed: Answers generated, each of which costs.
        changed_at: Seconds after the first request at which the limits changed.
        arrived_at: Seconds after the first request at which requests arrived, rejected ones too.
    """

    requests: int
    rejections: int
    billed: int
    changed_at: tuple[float, ...] = ()
    arrived_at: tuple[float, ...] = ()


class Server:
    """One simulator process; use it as a context manager."""

    def __init__(self, scenario: Scenario, lifetime_seconds: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other_end = context.Pipe()
        arguments = (other_end, scenario, lifetime_seconds + _LIFETIME_MARGIN_SECONDS)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self.base_url: str = self._pipe.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join(5)

    def arm(self) -> None:
        """Forget what was, fill the buckets, let the limits and faults hold."""
        self._pipe.send("arm")
        self._pipe.recv()

    def served(self) -> Served:
        """Return what was seen since `arm()`."""
        self._pipe.send("served")
        served: Served = self._pipe.recv()
        return served


def _serve(pipe: Connection, scenario: Scenario, lifetime_seconds: float) -> None:
    changes = _Changes()
    with Simulator(
        latency_seconds=scenario.latency_seconds, max_lifetime_seconds=lifetime_seconds
    ) as simulator:
        pipe.send(simulator.base_url)
        while (asked := pipe.recv()) in {"arm", "served"}:
            if asked == "served":
                pipe.send(_look(simulator, changes.moments))
                continue
            simulator.set_faults(scenario.faults)
            simulator.set_limits(scenario.limits)
            simulator.reset()
            if scenario.changes:
                changes.start(simulator, scenario.changes)
            pipe.send(None)


class _Changes:
    """Changes the limits in a thread, by the clock of the first request."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def start(self, simulator: Simulator, changes: Sequence[tuple[float, ServerLimits]]) -> None:
        self.moments.clear()
        threading.Thread(target=self._run, args=(simulator, changes), daemon=True).start()

    def _run(self, simulator: Simulator, changes: Sequence[tuple[float, ServerLimits]]) -> None:
        while not simulator.bill.requests and not simulator.requests:
            time.sleep(0.002)
        began = simulator.requests[0].arrived_at_seconds  # the simulator's clock is time.monotonic
        for seconds, limits in changes:
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            simulator.set_limits(limits)
            self.moments.append(time.monotonic() - began)


def _look(simulator: Simulator, moments: Sequence[float]) -> Served:
    simulator.wait_until_idle(2.0)
    seen = simulator.requests
    began = seen[0].arrived_at_seconds if seen else 0.0
    return Served(
        requests=len(seen),
        rejections=sum(one.status == 429 and one.fault is None for one in seen),
        billed=simulator.bill.requests,
        changed_at=tuple(moments),
        arrived_at=tuple(one.arrived_at_seconds - began for one in seen),
    )
