"""Recording from event loops: they never wait for the database, and cancellation loses nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lc_service.accounting.ledger import UsageLedger
from lc_service.accounting.record import AttemptRecord

Open = Callable[..., UsageLedger]
MakeAttempt = Callable[..., AttemptRecord]


@pytest.mark.parametrize("durability", ["process", "power", "buffered"])
async def test_attempts_of_many_tasks_are_recorded(
    place: str, durability: str, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = open_ledger(place, durability=durability)
    made = [make_attempt() for _ in range(300)]
    await asyncio.gather(*map(ledger.arecord, made))
    if durability != "buffered":  # it is there before the call returns: another ledger sees it
        assert len(list(open_ledger(place).records())) == 300
    assert sorted(each.run_id for each in ledger.records()) == sorted(each.run_id for each in made)
    assert ledger.unwritten == 0


def test_one_ledger_serves_event_loops_one_after_another_and_at_once(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = open_ledger(path)

    async def record_some() -> None:
        await asyncio.gather(*(ledger.arecord(make_attempt()) for _ in range(20)))

    for _ in range(3):
        asyncio.run(record_some())
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(asyncio.run, record_some()) for _ in range(4)]:
            future.result(timeout=20)
    assert len(list(ledger.records())) == 140


def test_threads_share_a_ledger(ledger: UsageLedger, make_attempt: MakeAttempt) -> None:
    barrier = threading.Barrier(8)

    def record_some(number: int) -> None:
        barrier.wait()
        for _ in range(50):
            ledger.record(make_attempt(tags=(str(number),)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(record_some, range(8)))
    assert {key.tags[0]: line.attempts for key, line in ledger.lines().items()} == {
        str(number): 50 for number in range(8)
    }


async def test_a_busy_database_does_not_block_the_event_loop(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = open_ledger(path)
    await ledger.arecord(make_attempt())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = [asyncio.create_task(ledger.arecord(make_attempt())) for _ in range(5)]
    longest = 0.0
    for _ in range(30):
        began = time.monotonic()
        await asyncio.sleep(0.002)
        longest = max(longest, time.monotonic() - began)
    assert not any(task.done() for task in waiting)
    other.close()
    async with asyncio.timeout(20):
        await asyncio.gather(*waiting)
    assert longest < 1  # it would have been 30 s
    assert len(list(ledger.records())) == 6


async def test_a_fault_does_not_keep_an_answer_from_its_task(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = open_ledger(path, busy_timeout_seconds=0.02)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with asyncio.timeout(20):
        await asyncio.gather(*(ledger.arecord(make_attempt()) for _ in range(5)))
        await ledger.arecord(make_attempt())
        assert ledger.unwritten == 6
        other.close()
        await asyncio.to_thread(ledger.flush)
    assert ledger.unwritten == 0
    assert len(list(ledger.records())) == 6
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_a_cancelled_task_has_its_attempt_recorded(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = open_ledger(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    made = [make_attempt() for _ in range(4)]
    tasks = [asyncio.create_task(ledger.arecord(each)) for each in made]
    await asyncio.sleep(0.01)
    for task in tasks[:2]:
        task.cancel()
    results = await asyncio.gather(*tasks[:2], return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    other.close()
    await asyncio.gather(*tasks[2:])
    assert list(ledger.records()) == made


def test_a_loop_that_was_closed_meanwhile_disturbs_nobody(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = open_ledger(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def give_up() -> None:
        task = asyncio.create_task(ledger.arecord(make_attempt()))
        await asyncio.sleep(0.01)
        assert not task.done()

    asyncio.run(give_up())
    other.close()
    asyncio.run(ledger.arecord(make_attempt()))
    assert len(list(ledger.records())) == 2


FIRST_PRICE = """
import asyncio, sys, threading
from conftest import attempt
from lc_service.accounting.ledger import UsageLedger
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "genai_prices":
            print(threading.current_thread().name)
sys.meta_path.insert(0, Watch())
async def main():
    await UsageLedger(sys.argv[1]).arecord(attempt())
asyncio.run(main())
"""


def test_the_first_price_is_looked_up_off_the_event_loop(
    path: Path, in_new_process: Callable[..., subprocess.Popen[str]]
) -> None:
    assert in_new_process(FIRST_PRICE, path).communicate(timeout=50) == ("lc-service ledger\n", "")
