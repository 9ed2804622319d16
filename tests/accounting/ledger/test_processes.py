"""What survives when processes are killed, forked, pickled or ended; and what many of them write at once."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from lc_service.accounting.ledger import UsageLedger
from lc_service.accounting.record import AttemptRecord

Open = Callable[..., UsageLedger]
MakeAttempt = Callable[..., AttemptRecord]
NewProcess = Callable[..., "subprocess.Popen[str]"]

RECORD_FOR_EVER = """
import sys
from conftest import attempt
from lc_service.accounting.ledger import UsageLedger
ledger = UsageLedger(sys.argv[1], durability=sys.argv[2])
while True:
    record = attempt()
    ledger.record(record)
    print(record.run_id, flush=True)
"""


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_killed_process_loses_no_attempt_whose_record_returned(
    place: str, durability: str, in_new_process: NewProcess, open_ledger: Open
) -> None:
    process = in_new_process(RECORD_FOR_EVER, place, durability)
    assert process.stdout is not None
    returned = [process.stdout.readline().strip() for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    returned += process.stdout.read().split()
    stored = {str(record.run_id) for record in open_ledger(place).records()}
    assert set(returned) - {""} <= stored
    assert len(stored) - len(returned) in (0, 1)  # one may have been written and not yet printed


RECORD_TOGETHER = """
import asyncio, multiprocessing, sys
from conftest import attempt
from lc_service.accounting.ledger import UsageLedger, courier, place, reading, reservation, writer

def record(number):
    barrier.wait()
    ledger = UsageLedger(sys.argv[1], durability=sys.argv[2])
    attempts = [attempt(tags=(str(number),)) for _ in range(100)]
    async def record_all():
        await asyncio.gather(*map(ledger.arecord, attempts))
    if sys.argv[3] == "async":
        asyncio.run(record_all())
    else:
        for each in attempts:
            ledger.record(each)
    sys.exit(ledger.unwritten)

fork = multiprocessing.get_context("fork")
barrier = fork.Barrier(8)
processes = [fork.Process(target=record, args=(number,)) for number in range(8)]
for process in processes:
    process.start()
for process in processes:
    process.join()
print([process.exitcode for process in processes])
"""


@pytest.mark.parametrize(
    ("durability", "way"), [("process", "sync"), ("process", "async"), ("buffered", "sync")]
)
def test_eight_processes_write_at_once_and_lose_nothing(
    place: str, durability: str, way: str, in_new_process: NewProcess, open_ledger: Open
) -> None:
    output = in_new_process(RECORD_TOGETHER, place, durability, way).communicate(timeout=50)
    assert output == (f"{[0] * 8}\n", "")
    lines = open_ledger(place).lines()
    assert {key.tags: line.attempts for key, line in lines.items()} == {(str(n),): 100 for n in range(8)}


BUFFER_AND_EXIT = """
import os, sys
from conftest import attempt
from lc_service.accounting.ledger import UsageLedger
ledger = UsageLedger(sys.argv[1], durability="buffered")
for _ in range(50):
    ledger.record(attempt())
if sys.argv[2] == "raise":
    raise SystemExit(3)
if sys.argv[2] == "thread":
    import threading
    threading.Thread(target=lambda: [ledger.record(attempt()) for _ in range(50)]).start()
if sys.argv[2] == "late":
    import atexit, lc_service
    atexit.register(lambda: ledger.record(attempt()))
if sys.argv[2] == "dropped":
    del ledger
"""


@pytest.mark.parametrize(
    ("end", "attempts"), [("return", 50), ("raise", 50), ("thread", 100), ("late", 51), ("dropped", 50)]
)
def test_what_is_buffered_is_written_when_the_interpreter_exits(
    path: Path, end: str, attempts: int, in_new_process: NewProcess, open_ledger: Open
) -> None:
    _, errors = in_new_process(BUFFER_AND_EXIT, path, end).communicate(timeout=30)
    assert not errors
    assert len(list(open_ledger(path).records())) == attempts


EXIT_BEFORE_THE_LEDGERS = """
import atexit, sys
from conftest import attempt
recorded = []
atexit.register(lambda: recorded[0].record(attempt()))  # runs after the ledger was closed
from lc_service.accounting.ledger import UsageLedger
recorded.append(UsageLedger(sys.argv[1], durability="buffered"))
"""


def test_what_is_recorded_after_the_ledgers_own_exit_is_written(
    path: Path, in_new_process: NewProcess, open_ledger: Open
) -> None:
    _, errors = in_new_process(EXIT_BEFORE_THE_LEDGERS, path).communicate(timeout=30)
    assert not errors
    assert len(list(open_ledger(path).records())) == 1


def test_what_is_buffered_is_in_the_database_within_100_ms(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger, other = open_ledger(path, durability="buffered"), open_ledger(path)
    ledger.record(make_attempt())
    began = time.monotonic()
    while not list(other.records()):
        assert time.monotonic() - began < 5
        time.sleep(0.005)


def test_close_writes_what_is_buffered_and_use_opens_again(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    for durability in ("process", "buffered"):
        with open_ledger(path, durability=durability) as ledger:
            ledger.record(make_attempt())
        ledger.record(make_attempt())
        ledger.close()
        ledger.close()
    assert len(list(open_ledger(path).records())) == 4


def test_no_thread_and_no_file_stays_open(path: Path, make_attempt: MakeAttempt) -> None:
    def open_files() -> int:
        return sum("usage.db" in os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")
                   if os.path.islink(f"/proc/self/fd/{each}"))  # fmt: skip

    ledger = UsageLedger(path, durability="buffered")
    ledger.record(make_attempt())
    assert list(ledger.records())
    assert open_files() > 0
    ledger.close()
    assert open_files() == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "lc-service ledger"]


def test_a_ledger_that_is_dropped_writes_its_buffer_and_ends_its_thread(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = UsageLedger(path, durability="buffered")
    ledger.record(make_attempt())
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "lc-service ledger")
    del ledger
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert len(list(open_ledger(path).records())) == 1


@pytest.mark.parametrize("durability", ["process", "buffered"])
def test_a_fork_goes_on_with_connections_of_its_own(
    place: str, durability: str, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = open_ledger(place, durability=durability)
    ledger.record_many([make_attempt(tags=("before",)) for _ in range(3)])
    assert durability == "buffered" or len(list(ledger.records())) == 3
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            for _ in range(5):
                ledger.record(make_attempt(tags=("child",)))
            ledger.close()
            failed = ledger.unwritten
        finally:
            os._exit(failed)
    for _ in range(5):
        ledger.record(make_attempt(tags=("parent",)))
    ledger.close()  # while the child may still write: its file must not be taken from under it
    assert os.waitpid(child, 0)[1] == 0
    lines = open_ledger(place).lines()
    assert {key.tags[0]: line.attempts for key, line in lines.items()} == {
        "before": 3,
        "child": 5,
        "parent": 5,
    }


def test_a_parent_that_closes_does_not_take_the_file_from_its_child(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = open_ledger(path)
    ledger.record(make_attempt())
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            ledger.record(make_attempt())
            os.write(to_parent, b".")
            os.read(from_parent, 1)
            ledger.record(make_attempt())
            failed = ledger.unwritten
        finally:
            os._exit(failed)
    os.read(from_child, 1)
    ledger.close()  # the last to close a file removes its log: it must know that it is not
    os.write(to_child, b".")
    assert os.waitpid(child, 0)[1] == 0
    for end in (from_child, to_parent, from_parent, to_child):
        os.close(end)
    assert len(list(ledger.records())) == 3


def test_forks_in_the_midst_of_writing_lose_nothing(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = open_ledger(path)
    is_over = threading.Event()
    written = [0, 0]

    def write(number: int) -> None:
        while not is_over.is_set():
            ledger.record(make_attempt(tags=("parent",)))
            written[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    children = []
    for _ in range(10):
        child = os.fork()
        if child == 0:
            failed = 1
            try:
                ledger.record(make_attempt(tags=("child",)))
                failed = ledger.unwritten
            finally:
                os._exit(failed)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    is_over.set()
    for thread in threads:
        thread.join()
    assert codes == [0] * 10
    lines = ledger.lines()
    assert {key.tags[0]: line.attempts for key, line in lines.items()} == {
        "child": 10,
        "parent": sum(written),
    }


def _record_in_a_worker(ledger: UsageLedger, record: AttemptRecord) -> int:
    ledger.record(record)
    return os.getpid()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_multiprocessing_write_their_buffer_when_they_end(
    path: Path, method: str, open_ledger: Open, in_new_process: NewProcess
) -> None:
    script = Path(__file__).with_name("pool_of_workers.py").read_text(encoding="utf-8")
    file = path.with_name("pool.py")
    file.write_text(script)
    result = subprocess.run(  # noqa: S603  the script is ours
        [sys.executable, str(file), str(path), method],
        capture_output=True, text=True, timeout=50, check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    assert not result.stderr
    assert len(list(open_ledger(path).records())) == 20


@pytest.mark.parametrize("how", ["pickle", "copy", "deepcopy"])
def test_a_pickled_ledger_opens_its_database_again(
    place: str, how: str, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = open_ledger(place, durability="power", busy_timeout_seconds=3)
    ledger.record(make_attempt())
    ways = {"pickle": lambda it: pickle.loads(pickle.dumps(it)), "copy": copy.copy, "deepcopy": copy.deepcopy}
    twin = ways[how](ledger)
    with twin:
        twin.record(make_attempt())
        assert twin.__reduce__() == ledger.__reduce__()
        assert twin is not ledger
    assert len(list(ledger.records())) == 2


def test_a_pickled_path_is_found_from_another_folder(
    path: Path, monkeypatch: pytest.MonkeyPatch, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    monkeypatch.chdir(path.parent)
    stored = pickle.dumps(open_ledger("usage.db"))
    monkeypatch.chdir("/")
    with pickle.loads(stored) as twin:
        twin.record(make_attempt())
    assert path.exists()
    assert not Path("/usage.db").exists()


def test_a_pool_of_processes_takes_a_ledger_as_an_argument(
    path: Path, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    ledger = open_ledger(path)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        pids = set(pool.map(_record_in_a_worker, [ledger] * 8, [make_attempt() for _ in range(8)]))
    assert os.getpid() not in pids
    assert len(list(ledger.records())) == 8
