"""Measure decisions a second of limits that are shared through Redis: 8 processes, one server.

Run: python benchmarks/redis_limits.py [--processes 8] [--seconds 3]

In each process 16 tasks ask for one permit after another and settle it at once, with an answer's headers:
two steps of the script for a decision, as in use. Nothing limits them. Beside the rate it prints the CPU that
each takes, Redis's included, which says what the rate is on a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from multiprocessing.synchronize import Barrier

import redis
from flow.redis_server import redis_server

from lc_service.limits.admission import Outcome
from lc_service.limits.rate_limits import RateLimits
from lc_service.limits.registry import limiter_for

LEAST_DECISIONS_A_SECOND = 5_000
_HEADERS = {
    "x-ratelimit-limit-requests": "60000000",
    "x-ratelimit-remaining-requests": "59999000",
    "x-ratelimit-reset-requests": "1ms",
}
_DONE = Outcome(is_admitted=True, used_tokens=10, latency_seconds=0.1)
_TASKS = 16
_WARM_SECONDS = 0.5


async def _decide(url: str, seconds: float) -> int:
    limits = RateLimits(redis_url=url)
    limiter = limiter_for(limits, endpoint="http://bench", credential=("key", None), model="m")
    begin = time.monotonic() + _WARM_SECONDS
    end = begin + seconds
    decided = 0

    async def work() -> None:
        nonlocal decided
        while (now := time.monotonic()) < end:
            permit = await limiter.aacquire(10)
            permit.send()
            permit.see(_HEADERS)
            permit.settle(_DONE)
            decided += now >= begin

    await asyncio.gather(*(work() for _ in range(_TASKS)))
    return decided


def _process(url: str, seconds: float, start: Barrier, results: multiprocessing.Queue) -> None:
    start.wait()
    began_cpu = time.process_time()
    decided = asyncio.run(_decide(url, seconds))
    share = seconds / (seconds + _WARM_SECONDS)
    results.put((decided, (time.process_time() - began_cpu) * share))


def _redis_cpu_seconds(url: str) -> float:
    with redis.Redis.from_url(url) as client:
        used = client.info("cpu")
    return used["used_cpu_user"] + used["used_cpu_sys"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with redis_server() as url:
        if url is None:
            print("there is no redis-server here (Debian: apt-get install redis-server)")
            return
        start, results = context.Barrier(options.processes), context.Queue()
        processes = [
            context.Process(target=_process, args=(url, options.seconds, start, results))
            for _ in range(options.processes)
        ]
        for process in processes:
            process.start()
        found = [results.get() for _ in processes]
        for process in processes:
            process.join()
        redis_seconds = _redis_cpu_seconds(url)
    decided = sum(count for count, _ in found)
    cpu_seconds = sum(seconds for _, seconds in found) + redis_seconds
    rate = decided / options.seconds
    verdict = "PASS" if rate >= LEAST_DECISIONS_A_SECOND else "MISS"
    print(
        f"{rate:,.0f} decisions a second from {options.processes} processes "
        f"(at least {LEAST_DECISIONS_A_SECOND:,}) {verdict}; {cpu_seconds / decided * 1e6:.0f} us CPU each; "
        f"least and most of a process: {min(c for c, _ in found):,}, {max(c for c, _ in found):,}"
    )


if __name__ == "__main__":
    main()
