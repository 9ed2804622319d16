"""Measure decisions a second of limits that are shared through Redis: 8 processes, one server.

Run: python benchmarks/redis_limits.py [--processes 8] [--seconds 3]

Each process asks for one permit after another, from several threads' worth of tasks, and settles it at once,
with the headers of an answer: two steps of the script for a decision, as in use. Nothing limits them.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time

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


async def _decide(url: str, begin: float, end: float) -> tuple[int, float]:
    limits = RateLimits(redis_url=url)
    limiter = limiter_for(limits, endpoint="http://bench", credential=("key", None), model="m")
    decided = 0

    async def work() -> None:
        nonlocal decided
        while True:
            permit = await limiter.aacquire(10)
            permit.send()
            permit.see(_HEADERS)
            permit.settle(_DONE)
            now = time.monotonic()
            decided += begin <= now < end
            if now >= end:
                return

    began_cpu = time.process_time()
    await asyncio.gather(*(work() for _ in range(_TASKS)))
    return decided, time.process_time() - began_cpu


def _process(url: str, begin: float, end: float, results: multiprocessing.Queue) -> None:
    results.put(asyncio.run(_decide(url, begin, end)))


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
        results = context.Queue()
        begin = time.monotonic() + 4.0  # all have started by then, and have met
        end = begin + options.seconds
        processes = [
            context.Process(target=_process, args=(url, begin, end, results))
            for _ in range(options.processes)
        ]
        for process in processes:
            process.start()
        found = [results.get() for _ in processes]
        for process in processes:
            process.join()
    decided = sum(count for count, _ in found)
    rate = decided / options.seconds
    verdict = "PASS" if rate >= LEAST_DECISIONS_A_SECOND else "MISS"
    print(
        f"{rate:,.0f} decisions a second from {options.processes} processes "
        f"(at least {LEAST_DECISIONS_A_SECOND:,}) {verdict}; "
        f"least and most of a process: {min(c for c, _ in found)}, {max(c for c, _ in found)}"
    )


if __name__ == "__main__":
    main()
