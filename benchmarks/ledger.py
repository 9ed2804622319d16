"""Measure what a ledger adds to a call, how many rows a second it takes, and how long its sums take.

Run: python benchmarks/ledger.py [--calls 2000] [--url postgresql://...]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from langchain_core.utils.uuid import uuid7

from lc_service.accounting.ledger import UsageLedger
from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.spending import Amount, AttemptRequest, Scope
from lc_service.accounting.usage import TokenUsage

RUNS = 5
ROWS = 100_000
TARGETS = {"process": 80.0, "buffered": 10.0}


def attempts(number: int) -> list[AttemptRecord]:
    usage = TokenUsage(input_tokens=1_200, cached_input_tokens=1_024, output_tokens=300)
    return [
        AttemptRecord(
            run_id=uuid7(),  # as LangChain makes them: in order, which an index likes
            model="gpt-4.1-mini",
            response_model="gpt-4.1-mini-2025-04-14",
            usage=usage,
            latency_seconds=0.5,
            status_code=200,
            request_id="req_0123456789abcdef",
            tags=("nightly", "summaries"),
            metadata={"user": "anna", "shard": each % 4},
        )
        for each in range(number)
    ]


def measure(name: str, calls: int, run: Callable[[list[AttemptRecord]], object], note: str = "") -> float:
    """Print the medians for a call: time on the wall, and of all threads on the CPU."""
    wall, cpu = [], []
    for _ in range(RUNS):
        records = attempts(calls)
        began, began_cpu = time.perf_counter(), time.process_time()
        run(records)
        wall.append((time.perf_counter() - began) / calls * 1e6)
        cpu.append((time.process_time() - began_cpu) / calls * 1e6)
    median = statistics.median(wall)
    print(f"  {name:40}{median:8.1f} µs ({min(wall):.1f})   CPU {statistics.median(cpu):6.1f} µs{note}")
    return median


def in_flight(number: int, ledger: UsageLedger | None) -> Callable[[list[AttemptRecord]], None]:
    async def nothing(_: AttemptRecord) -> None:
        await asyncio.sleep(0)

    async def work(records: list[AttemptRecord]) -> None:
        queue = iter(records)
        record_one = nothing if ledger is None else ledger.arecord

        async def worker() -> None:
            for record in queue:
                await record_one(record)

        await asyncio.gather(*(worker() for _ in range(number)))

    return lambda records: asyncio.run(work(records))


def record_each(ledger: UsageLedger) -> Callable[[list[AttemptRecord]], None]:
    def run(records: list[AttemptRecord]) -> None:
        for record in records:
            ledger.record(record)

    return run


def measure_calls(place: Callable[[], str], calls: int) -> bool:
    is_met = True
    print(f"added to a call: median of {RUNS} runs of {calls:,} calls, best in brackets")
    for number in (1, 64):
        measure(f"nothing, {number} in flight", calls, in_flight(number, None))
    for durability in ("process", "power", "buffered"):
        with UsageLedger(place(), durability=durability) as ledger:
            ledger.record_many(attempts(1))  # loads the prices
            median = measure(f"{durability}: record", calls, record_each(ledger))
            is_met &= median <= TARGETS.get(durability, median)
            ledger.flush()
            for number in (1, 64):
                measure(f"{durability}: arecord, {number} in flight", calls, in_flight(number, ledger))
                ledger.flush()
    with UsageLedger(place(), durability="buffered") as ledger:

        def record_and_flush(records: list[AttemptRecord]) -> None:
            record_each(ledger)(records)
            ledger.flush()

        measure("buffered: record, its thread's work too", calls, record_and_flush)
    return is_met


def measure_budget(place: str, calls: int) -> None:
    with UsageLedger(place) as ledger:

        def reserve(records: list[AttemptRecord]) -> None:
            for record in records:
                request = AttemptRequest(
                    call_id=record.run_id, attempt=1, model="m", input_tokens=1, max_input_tokens=1,
                    tags=record.tags, at=datetime.now(UTC),
                )  # fmt: skip
                amount = Amount(tokens=10, usd=Decimal("0.001"))
                ledger.try_reserve(request, amount, None, Decimal(10**6), Scope(tag="nightly"), 600.0)
                ledger.record(record)

        measure("try_reserve, then record", calls, reserve)


def measure_bulk(place: Callable[[], str]) -> bool:
    rates, sums, reads = [], [], []
    for _ in range(3):
        with UsageLedger(place()) as ledger:
            records = attempts(ROWS)
            began = time.perf_counter()
            ledger.record_many(records)
            rates.append(ROWS / (time.perf_counter() - began))
            began = time.perf_counter()
            assert sum(line.attempts for line in ledger.lines().values()) == ROWS
            sums.append(time.perf_counter() - began)
            began = time.perf_counter()
            assert sum(1 for _ in ledger.records()) == ROWS
            reads.append(time.perf_counter() - began)
    print(f"{ROWS:,} rows, median of 3")
    print(f"  record_many {statistics.median(rates):12,.0f} rows a second")
    print(f"  lines       {statistics.median(sums) * 1e3:12.0f} ms")
    print(f"  records     {statistics.median(reads) * 1e3:12.0f} ms")
    return statistics.median(rates) >= 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2_000, help="calls of each run")
    parser.add_argument("--folder", type=Path, help="where the files are made; a temporary one by default")
    parser.add_argument("--url", help="an empty PostgreSQL database, to measure instead of SQLite")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        numbers = itertools.count()

        def place() -> str:
            return options.url or f"{folder}/usage-{next(numbers)}.db"

        is_met = measure_calls(place, options.calls)
        measure_budget(place(), options.calls)
        if not options.url:
            is_met &= measure_bulk(place)
            verdict = "met" if is_met else "NOT MET"
            print(f"targets 80 µs (process) and 10 µs (buffered) for record, 20,000 rows a second: {verdict}")


if __name__ == "__main__":
    main()
