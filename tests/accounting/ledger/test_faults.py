"""While the database cannot be written, answers still reach the user, and it is said loudly."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lc_service.accounting.ledger import LedgerError, UsageLedger, fault, postgres, writer
from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.spending import Amount, AttemptRequest, Scope

Open = Callable[..., UsageLedger]
MakeAttempt = Callable[..., AttemptRecord]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or mount is None or unmount is None or _fails(command):
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    assert not _fails([unmount, "--lazy", str(folder)])  # also if a failed test left a file open


def _fails(command: list[str]) -> bool:
    return bool(subprocess.run(command, capture_output=True, check=False, timeout=10).returncode)  # noqa: S603  ours


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let another program hold the file's lock."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


def test_a_disk_that_fills_up_is_reported_once_and_loses_nothing_that_memory_can_keep(
    small_disk: Path, open_ledger: Open, make_attempt: MakeAttempt, caplog: pytest.LogCaptureFixture
) -> None:
    made = []
    ledger = open_ledger(small_disk / "usage.db")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 500_000)
    with caplog.at_level(logging.WARNING):
        while not ledger.unwritten:
            made.append(make_attempt())
            ledger.record(made[-1])
            assert len(made) < 5_000
        for _ in range(100):
            made.append(make_attempt())
            ledger.record(made[-1])
        (error,) = caplog.records
        assert (error.levelname, error.name) == ("ERROR", fault.__name__)
        assert "the disk is full" in error.message
        assert "Calls go on meanwhile" in error.message
        assert ledger.unwritten == 101
        with pytest.raises(LedgerError, match="the disk is full"):
            reserve(ledger, made[0])
        ballast.unlink()
        wait_until(lambda: len(caplog.records) > 1)
        assert ledger.unwritten == 0
        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
        assert "is written again. 0 attempts are lost" in caplog.text
    assert list(ledger.records()) == made


def reserve(ledger: UsageLedger, record: AttemptRecord) -> None:
    request = AttemptRequest(
        call_id=record.run_id, attempt=1, model="m", input_tokens=1, max_input_tokens=1, at=record.started_at
    )
    ledger.try_reserve(request, Amount(tokens=1), None, None, Scope(), 60)


def test_a_file_that_may_not_grow_is_a_full_disk(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = open_ledger(path)
    ledger.record(make_attempt())
    with ledger._writer.connection.transaction("BEGIN") as cursor:
        cursor.execute("PRAGMA max_page_count=1")
    ledger.record_many(make_attempt() for _ in range(200))
    assert ledger.unwritten == 200
    assert "the disk is full" in caplog.text
    ledger.flush()  # the connection that broke was closed, and the next one has no such bound
    assert ledger.unwritten == 0
    assert len(list(ledger.records())) == 201


def test_memory_for_what_waits_is_bounded_and_what_does_not_fit_is_counted(
    path: Path, make_attempt: MakeAttempt, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "MAX_KEPT", 10)
    made = [make_attempt() for _ in range(25)]
    with UsageLedger(path, busy_timeout_seconds=0.01) as ledger:
        with locked(path):
            ledger.record_many(made[:15])
            for each in made[15:]:
                ledger.record(each)
            assert ledger.unwritten == 25
            assert len(ledger._writer._queue) == 10
        ledger.flush()
        assert ledger.unwritten == 15
        assert list(ledger.records()) == made[:10]
    assert "has lost 5 attempts: only 10 are kept" in caplog.text
    assert "is written again. 15 attempts are lost" in caplog.text


def test_a_lock_that_is_held_too_long_is_a_fault_that_ends_by_itself(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = open_ledger(path, busy_timeout_seconds=0.05)
    with locked(path):
        ledger.record(make_attempt())
        assert "has been locked by another program for more than 0.05 s" in caplog.text
        began = time.monotonic()
        for _ in range(20):
            ledger.record(make_attempt())
        assert time.monotonic() - began < 20 * 0.05  # those that follow do not wait in vain
        assert ledger.unwritten == 21
        with pytest.raises(LedgerError, match="locked"):
            reserve(ledger, make_attempt())
    wait_until(lambda: not ledger.unwritten)
    assert len(list(ledger.records())) == 21


def test_a_server_whose_lock_is_held_too_long_is_a_fault_that_ends_by_itself(
    postgres_url: str, open_ledger: Open, make_attempt: MakeAttempt, caplog: pytest.LogCaptureFixture
) -> None:
    import psycopg

    ledger = open_ledger(postgres_url, busy_timeout_seconds=0.05)
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [postgres._LOCK])
        ledger.record(make_attempt())
        assert "has been locked by another program for more than 0.05 s" in caplog.text
        assert "hunter2" not in caplog.text
        assert ledger.unwritten == 1
    wait_until(lambda: not ledger.unwritten)
    assert len(list(ledger.records())) == 1


def test_ctrl_c_during_a_write_loses_nothing(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    class PressesCtrlC:
        presses = 1

        def __str__(self) -> str:
            self.presses -= 1
            if self.presses == 0:
                raise KeyboardInterrupt
            return "done"

    ledger = open_ledger(path)
    interrupted = make_attempt(metadata={"key": PressesCtrlC()})
    with pytest.raises(KeyboardInterrupt):
        ledger.record(interrupted)
    last = make_attempt()
    ledger.record(last)
    assert [row.call_id for row in ledger.records()] == [interrupted.call_id, last.call_id]


def test_a_lock_is_waited_for(path: Path, open_ledger: Open, make_attempt: MakeAttempt) -> None:
    ledger = open_ledger(path)
    release = threading.Event()

    def hold() -> None:
        with locked(path):
            is_held.set()
            release.wait(10)

    is_held = threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait(10)
    recorder = threading.Thread(target=ledger.record, args=(make_attempt(),))
    recorder.start()
    recorder.join(0.05)
    assert recorder.is_alive()
    release.set()
    recorder.join(10)
    holder.join(10)
    assert not recorder.is_alive()
    assert (len(list(ledger.records())), ledger.unwritten) == (1, 0)


def test_a_fault_is_told_again_each_minute(
    path: Path,
    open_ledger: Open,
    make_attempt: MakeAttempt,
    fake_clock: object,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger = open_ledger(path, busy_timeout_seconds=0.01)
    with locked(path):
        for _ in range(5):
            ledger.record(make_attempt())
            ledger.flush()
            fake_clock.advance(20)  # type: ignore[attr-defined]
    assert len(caplog.records) == 2
    assert "4 attempts wait to be written, 0 are lost" in caplog.records[1].message


def test_closing_with_a_fault_says_what_is_lost(
    path: Path, make_attempt: MakeAttempt, caplog: pytest.LogCaptureFixture
) -> None:
    with locked_ledger(path) as ledger:
        ledger.record(make_attempt())
        ledger.close()
        assert ledger.unwritten == 1
    assert "1 attempts wait to be written" in caplog.text
    ledger.flush()
    assert ledger.unwritten == 0
    ledger.close()


@contextlib.contextmanager
def locked_ledger(path: Path) -> Iterator[UsageLedger]:
    ledger = UsageLedger(path, busy_timeout_seconds=0.01)
    with locked(path):
        yield ledger


def test_reading_a_ledger_that_cannot_be_read_is_an_error(path: Path, open_ledger: Open) -> None:
    ledger = open_ledger(path)
    with sqlite3.connect(path) as shell:
        shell.execute("DROP VIEW attempts_readable")
        shell.execute("DROP TABLE attempts")
    shell.close()
    with pytest.raises(LedgerError, match="no such table: attempts"):
        ledger.lines()
    with pytest.raises(LedgerError, match="no such table: attempts"):
        ledger.balance(Scope())


def test_a_server_that_drops_its_connections_is_found_again(
    postgres_url: str, open_ledger: Open, make_attempt: MakeAttempt, caplog: pytest.LogCaptureFixture
) -> None:
    import psycopg

    ledger = open_ledger(postgres_url)
    made = [make_attempt() for _ in range(3)]
    ledger.record(made[0])
    assert list(ledger.records()) == made[:1]
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    ledger.record(made[1])
    ledger.record(made[2])
    wait_until(lambda: not ledger.unwritten)
    with contextlib.suppress(LedgerError):  # the reader's connection was dropped too
        list(ledger.records())
    assert list(ledger.records()) == made
    assert "hunter2" not in caplog.text
