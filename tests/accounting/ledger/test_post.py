"""Attempts posted where nothing can be awaited: finalizers, closed event loops, the interpreter's end."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lc_service.accounting.ledger import UsageLedger, courier
from lc_service.accounting.record import AttemptRecord

Open = Callable[..., UsageLedger]
MakeAttempt = Callable[..., AttemptRecord]


def wait_for_rows(path: Path, number: int) -> None:
    """Wait until another connection sees so many rows: reading through the ledger would write them."""
    deadline = time.monotonic() + 20
    while (count := rows_in(path)) != number:
        assert count < number
        assert time.monotonic() < deadline
        time.sleep(0.005)


def rows_in(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM attempts").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.parametrize("durability", ["process", "power", "buffered"])
def test_what_is_posted_is_written_by_the_thread_at_once(
    path: Path, durability: str, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = open_ledger(path, durability=durability)
    for number in range(1, 4):
        ledger.post(make_attempt())
        wait_for_rows(path, number)


def test_it_waits_for_no_database(path: Path, open_ledger: Open, make_attempt: MakeAttempt) -> None:
    ledger = open_ledger(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    for _ in range(20):
        ledger.post(make_attempt())
    assert time.monotonic() - began < 5  # it would have been 30 s
    assert rows_in(path) == 0
    other.close()
    wait_for_rows(path, 20)


def test_it_waits_for_nobody_who_starts_or_ends_the_thread(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = open_ledger(path)
    with ledger._courier._starting:  # as a finalizer finds it that runs inside of `close`
        ledger.post(make_attempt())
    ledger.close()
    assert rows_in(path) == 1


def test_without_a_thread_it_stays_queued_and_raises_nothing(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ledger = open_ledger(path)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        ledger.post(make_attempt())
        assert rows_in(path) == 0
    ledger.post(make_attempt())
    wait_for_rows(path, 2)


def test_while_it_cannot_be_written_what_is_too_much_is_counted_as_lost(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lc_service.accounting.ledger.writer.MAX_KEPT", 5)
    ledger = open_ledger(path, busy_timeout_seconds=0.01)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(9):
        ledger.post(make_attempt())
    ledger.flush()
    other.close()
    ledger.flush()
    wait_for_rows(path, 5)
    assert ledger.unwritten == 4


def test_a_coroutine_that_outlives_its_loop_has_its_attempt_recorded(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = open_ledger(path)

    async def call() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await ledger.arecord(make_attempt())

    coroutine = call()
    loop = asyncio.new_event_loop()
    loop.call_soon(coroutine.send, None)
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    coroutine.close()
    wait_for_rows(path, 1)


def test_a_ledger_that_is_collected_together_with_a_stream_writes_its_attempt(
    path: Path, make_attempt: MakeAttempt
) -> None:
    before = set(threading.enumerate())

    def stream(ledger: UsageLedger) -> object:
        cycle: list[object] = []

        def generate() -> object:
            try:
                yield
            finally:
                assert threads_end()  # the ledger's finalizer comes first, and its thread may be faster
                ledger.post(made)
                del cycle[:]

        generator = generate()
        next(generator)  # type: ignore[call-overload]
        cycle.extend((ledger, generator))
        return None

    def threads_end() -> bool:
        deadline = time.monotonic() + 20
        while set(threading.enumerate()) - before:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    made = make_attempt()
    ledger = UsageLedger(path)
    ledger.post(make_attempt())
    wait_for_rows(path, 1)
    stream(ledger)
    del ledger
    gc.collect()
    wait_for_rows(path, 2)
    assert threads_end()


AT_EXIT = """
import atexit, sys, time
def late():
    ledger.post(attempt())
atexit.register(late)  # after the ledger's own
from conftest import attempt
from lc_service.accounting.ledger import UsageLedger
ledger = UsageLedger(sys.argv[1], durability=sys.argv[2])
for _ in range(100):
    ledger.post(attempt())
"""


@pytest.mark.parametrize("durability", ["process", "buffered"])
def test_at_exit_everything_is_written(
    path: Path, durability: str, in_new_process: Callable[..., subprocess.Popen[str]]
) -> None:
    assert in_new_process(AT_EXIT, path, durability).communicate(timeout=50) == ("", "")
    assert rows_in(path) == 101


def test_at_exit_no_thread_is_started(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(path)
    monkeypatch.setattr(courier, "_is_exiting", True)
    ledger.post(make_attempt())
    assert rows_in(path) == 1
