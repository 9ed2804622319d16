"""What every peer's driver does: read a job, warm up, wait for the word, call each item once, report.

Invariant: only the standard library is imported here, so it runs in any environment, and the items are timed
without interpreter start, imports and first call. It judges no answer.

The protocol, one line each: the job as JSON comes in, `ready` goes out, `go` comes in, the report goes out.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

Job = dict[str, Any]
Call = Callable[[str], Awaitable[str]]
Make = Callable[[Job, str], Awaitable[Call]]

MODEL = "gpt-4.1-mini"
WARM_UP_MODEL = "gpt-4.1-nano"  # limits are kept for each model by itself: nothing is learned here
API_KEY = "sk-benchmark"


def main(make: Make) -> None:
    """Run one job.

    Args:
        make: Makes the peer's call for a job and a model.
    """
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no part of the report
    job = json.loads(sys.stdin.readline())

    def say(line: str) -> None:
        report.write(line + "\n")
        report.flush()

    say(json.dumps(asyncio.run(_run(make, job, lambda: say("ready")))))
    os._exit(0)  # some libraries leave threads behind that would be waited for


async def _run(make: Make, job: Job, say_ready: Callable[[], None]) -> dict[str, Any]:
    warm = await make(job, WARM_UP_MODEL)
    await _call_each(
        warm, [f"Warm up {number}." for number in range(job["warm_calls"])], job["concurrency"], 60
    )
    call = await make(job, MODEL)
    say_ready()
    await asyncio.to_thread(sys.stdin.readline)
    began, began_cpu = time.perf_counter(), time.process_time()
    answers, errors = await _call_each(call, job["prompts"], job["concurrency"], job["time_limit_seconds"])
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - began_cpu,
        "answers": answers,
        "errors": errors,
    }


async def _call_each(
    call: Call, prompts: list[str], concurrency: int, time_limit_seconds: float
) -> tuple[list[str | None], dict[str, int]]:
    answers: list[str | None] = [None] * len(prompts)
    errors: Counter[str] = Counter()
    queue = iter(range(len(prompts)))

    async def worker() -> None:
        for number in queue:
            try:
                answers[number] = await call(prompts[number])
            except Exception as error:  # noqa: BLE001  a lost item is a result
                errors[type(error).__name__] += 1

    try:
        async with asyncio.timeout(time_limit_seconds):
            await asyncio.gather(*(worker() for _ in range(concurrency)))
    except TimeoutError:
        errors["not done"] += 1
    return answers, dict(errors)
