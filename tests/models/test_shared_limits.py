"""Models in several processes share limits through Redis, and answer every call whatever crashes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from flow.redis_server import RedisServer, is_installed

from lc_service import RateLimits
from lc_service.models.chat import ReliableChatOpenAI
from lc_service.simulator import ServerLimits, Simulator

PROCESSES = 2
PROGRAM = """
import asyncio, json, logging, sys, time
from lc_service import RateLimits, ReliableChatOpenAI

async def run(job):
    model = ReliableChatOpenAI(
        base_url=job["base_url"], api_key="sk-test", model="gpt-4.1-mini", max_tokens=16,
        rate_limits=RateLimits(**job["limits"]),
    )
    began = time.monotonic()
    answers = await asyncio.gather(*(model.ainvoke(f"Item {number}") for number in range(job["count"])))
    return sum(bool(answer.text) for answer in answers), began, time.monotonic()

logged = []
handler = logging.Handler()
handler.emit = lambda record: logged.append([record.name, record.levelname])
logging.getLogger("lc_service").addHandler(handler)
print("ready", flush=True)
for line in sys.stdin:
    logged.clear()
    answered, began, ended = asyncio.run(run(json.loads(line)))
    print(json.dumps([answered, began, ended, logged]), flush=True)
"""


@dataclass
class Ran:
    """What came of a job that all processes did at once."""

    answered: list[int]
    seconds: float
    warnings: list[str]


class Fleet:
    """Processes that wait for jobs."""

    def __init__(self) -> None:
        pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
        self.processes = [
            subprocess.Popen(command, text=True, **pipes)  # noqa: S603  ourselves
            for _ in range(PROCESSES)
        ]
        for process in self.processes:
            assert process.stdout.readline() == "ready\n"

    def run(
        self, simulator: Simulator, *, count: int, during: Callable[[], None] = lambda: None, **limits: Any
    ) -> Ran:
        job = json.dumps({"base_url": simulator.base_url, "count": count, "limits": limits})
        for process in self.processes:
            process.stdin.write(job + "\n")
            process.stdin.flush()
        during()
        said = [json.loads(process.stdout.readline()) for process in self.processes]
        answered, began, ended, logged = zip(*said, strict=True)
        warnings = [name for each in logged for name, level in each if level == "WARNING"]
        return Ran(list(answered), max(ended) - min(began), warnings)

    def close(self) -> None:
        for process in self.processes:
            process.stdin.close()
            process.wait(10)
            process.stdout.close()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    yield fleet
    fleet.close()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    if not is_installed():
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    server = RedisServer()
    try:
        yield server.start()
    finally:
        server.stop()


def statuses(simulator: Simulator) -> list[int | None]:
    return [request.status for request in simulator.requests]


def test_processes_find_the_servers_limit_and_keep_to_it_together(
    simulate: Callable[..., Simulator], redis_server: RedisServer, fleet: Fleet
) -> None:
    simulator = simulate(limits=ServerLimits(requests_per_minute=2_400))
    ran = fleet.run(simulator, count=50, redis_url=redis_server.url)
    assert ran.answered == [50] * PROCESSES
    assert statuses(simulator).count(429) <= 5, "without sharing it is 30 and more"
    assert ran.seconds < 2 * 60 / 40


def test_processes_keep_to_a_cap_together(
    simulate: Callable[..., Simulator], redis_server: RedisServer, fleet: Fleet
) -> None:
    simulator = simulate()
    ran = fleet.run(simulator, count=30, redis_url=redis_server.url, requests_per_minute=1_800)
    assert ran.answered == [30] * PROCESSES
    assert ran.seconds >= 30 / 30 - 0.1, "30 at once, and 30 a second"
    assert not ran.warnings


def test_every_call_is_answered_when_redis_dies_in_the_midst(
    simulate: Callable[..., Simulator], redis_server: RedisServer, fleet: Fleet
) -> None:
    def outage() -> None:
        deadline = time.monotonic() + 10
        while len(simulator.requests) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        redis_server.kill()

    simulator = simulate(limits=ServerLimits(requests_per_minute=2_400))
    ran = fleet.run(simulator, count=40, during=outage, redis_url=redis_server.url)
    assert ran.answered == [40] * PROCESSES
    assert sum("courier" in name for name in ran.warnings) == PROCESSES, "one for each"


def test_threads_go_through_redis_too(
    simulate: Callable[..., Simulator],
    make_model: Callable[..., ReliableChatOpenAI],
    redis_server: RedisServer,
) -> None:
    simulator = simulate()
    model = make_model(rate_limits=RateLimits(redis_url=redis_server.url, max_concurrency=2))
    answers = model.batch([f"Item {number}" for number in range(6)])
    assert [bool(answer.text) for answer in answers] == [True] * 6
    assert statuses(simulator) == [200] * 6
    assert redis_server.url not in repr(model)
