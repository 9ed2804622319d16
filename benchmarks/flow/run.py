"""One run: a server, a peer's driver in processes of its own, and what came of it.

Invariant: answers are judged here, against the items, and rejections are counted by the server. The driver
only says what it got and how long it took.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flow.floor import floor_seconds
from flow.peers import CACHE, DRIVERS, Peer
from flow.redis_server import redis_server
from flow.scenario import CONCURRENCY, Item, Scenario, items_of, total_tokens
from flow.server import Served, Server

LOGS = CACHE / "logs"
_START_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one run.

    Attributes:
        note: Why there was no run; then all figures are zero.
        lost: Items without an answer, those that were not reached in time included.
        is_done: Whether it came to its end within the time limit.
        floor_seconds: 0 where neither limits nor latency set one.
        fault_free_seconds: What the same run without faults took.
    """

    scenario: Scenario
    peer: str
    items: int = 0
    answered: int = 0
    wrong: int = 0
    lost: int = 0
    is_done: bool = True
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    floor_seconds: float = 0.0
    served: Served | None = None
    fault_free_seconds: float | None = None
    errors: tuple[tuple[str, int], ...] = ()
    note: str = ""

    @property
    def floor_ratio(self) -> float:
        """Time over the floor."""
        return self.seconds / self.floor_seconds if self.floor_seconds else 0.0

    @property
    def rejections(self) -> int:
        """429s for the limits' sake."""
        return self.served.rejections if self.served else 0

    @property
    def cpu_milliseconds(self) -> float:
        """CPU time of the client processes, an item."""
        return self.cpu_seconds / self.items * 1e3 if self.items else 0.0


def floor_of(scenario: Scenario, items: Sequence[Item]) -> float:
    """Return the floor of a scenario with these items."""
    return floor_seconds(
        scenario.limits,
        requests=len(items),
        tokens=total_tokens(items),
        latency_seconds=scenario.latency_seconds,
        concurrency=CONCURRENCY,
        changes=scenario.changes,
    )


def run(scenario: Scenario, peer: Peer, time_limit_floors: float) -> Outcome:
    """Run a scenario with a peer, which is installed.

    Args:
        scenario: What is asked.
        peer: Who is asked.
        time_limit_floors: It is stopped after this many floors.
    """
    outcome = _run_once(scenario, peer, time_limit_floors)
    if (
        scenario.faults is not None
        and scenario.bound.fault_free_rate
        and not outcome.note
        and peer.name == "ours"
    ):
        calm = _run_once(replace(scenario, faults=None), peer, time_limit_floors)
        return replace(outcome, fault_free_seconds=calm.seconds)
    return outcome


def _run_once(scenario: Scenario, peer: Peer, time_limit_floors: float) -> Outcome:
    items = items_of(scenario)
    floor = floor_of(scenario, items)
    time_limit = max(20.0, floor * time_limit_floors)
    with contextlib.ExitStack() as stack:
        redis_url = ""
        if scenario.processes > 1:
            found = stack.enter_context(redis_server())
            if found is None:
                return Outcome(
                    scenario=scenario, peer=peer.name, note="skipped: there is no redis-server here"
                )
            redis_url = found
        server = stack.enter_context(Server(scenario, time_limit))
        shares = [items[start :: scenario.processes] for start in range(scenario.processes)]
        where = {"base_url": server.base_url, "redis_url": redis_url, "time_limit_seconds": time_limit}
        jobs = [_job(scenario, peer, share) | where for share in shares]
        logs = [LOGS / f"{scenario.name}-{peer.name}-{number}.log" for number in range(len(jobs))]
        drivers = [stack.enter_context(_driver(peer, log)) for log in logs]
        try:
            reports = _drive(drivers, jobs, server, time_limit)
        except (OSError, ValueError) as error:
            note = f"its driver failed ({type(error).__name__}); see .bench/logs/{logs[0].name}"
            return Outcome(scenario=scenario, peer=peer.name, note=note)
        asked = [item for share in shares for item in share]
        outcome = _judge(scenario, peer, asked, reports, server.served())
        return replace(outcome, floor_seconds=floor)


def _job(scenario: Scenario, peer: Peer, items: Sequence[Item]) -> dict[str, Any]:
    limits, is_ours = scenario.limits, peer.name == "ours"
    told: dict[str, float] = {}
    if limits is not None:
        named = {"requests": limits.requests_per_minute, "tokens": limits.tokens_per_minute}
        told = {f"{name}_per_minute": value for name, value in named.items() if value and name in peer.told}
    return {
        "prompts": [item.prompt for item in items],
        "max_tokens": scenario.max_tokens,
        "concurrency": (scenario.callers if is_ours else CONCURRENCY) // scenario.processes,
        "max_concurrency": CONCURRENCY if is_ours and scenario.callers > CONCURRENCY else None,
        "warm_calls": scenario.warm_calls,
        "told": told,
        "variant": peer.variant,
    }


@contextlib.contextmanager
def _driver(peer: Peer, log_path: Path) -> Iterator[subprocess.Popen[str]]:
    LOGS.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"}
    with log_path.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [peer.python, str(DRIVERS / peer.driver)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def _drive(
    drivers: Sequence[subprocess.Popen[str]],
    jobs: Sequence[dict[str, Any]],
    server: Server,
    time_limit: float,
) -> list[dict[str, Any]]:
    for driver, job in zip(drivers, jobs, strict=True):
        _say(driver, json.dumps(job))
    for driver in drivers:
        if _hear(driver, _START_SECONDS) != "ready":
            raise ValueError("the driver is not ready")
    server.arm()
    for driver in drivers:
        _say(driver, "go")
    deadline = time.monotonic() + time_limit + 30
    return [json.loads(_hear(driver, deadline - time.monotonic())) for driver in drivers]


def _say(driver: subprocess.Popen[str], line: str) -> None:
    assert driver.stdin is not None
    driver.stdin.write(line + "\n")
    driver.stdin.flush()


def _hear(driver: subprocess.Popen[str], seconds: float) -> str:
    """Return the driver's next line; one that hangs is killed, and then says nothing."""
    assert driver.stdout is not None
    end = threading.Timer(max(1.0, seconds), driver.kill)
    end.start()
    try:
        return driver.stdout.readline().strip()
    finally:
        end.cancel()


def _judge(
    scenario: Scenario,
    peer: Peer,
    asked: Sequence[Item],
    reports: Sequence[dict[str, Any]],
    served: Served,
) -> Outcome:
    given = [answer for report in reports for answer in report["answers"]]
    errors: Counter[str] = Counter()
    for report in reports:
        errors.update(report["errors"])
    answered = [(item, answer) for item, answer in zip(asked, given, strict=True) if answer is not None]
    return Outcome(
        scenario=scenario,
        peer=peer.name,
        items=len(asked),
        answered=len(answered),
        wrong=sum(answer.strip() != item.answer for item, answer in answered),
        lost=len(asked) - len(answered),
        is_done="not done" not in errors,
        seconds=max(report["seconds"] for report in reports),
        cpu_seconds=sum(report["cpu_seconds"] for report in reports),
        served=served,
        errors=tuple(errors.most_common(5)),
    )
