"""A budget on a ledger holds for all processes that use it, for those that died too, and across restarts."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from lc_service.accounting.budget import Budget, Reservation, areserve_all, reserve_all, steps
from lc_service.accounting.budget.account import LEASE_SECONDS, BudgetUnavailableError
from lc_service.accounting.budget.exceeded import BudgetExceeded
from lc_service.accounting.budget.waiting_line import Turn
from lc_service.accounting.ledger import UsageLedger
from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.spending import Amount, AttemptRequest, Balance, Scope
from lc_service.accounting.usage import TokenUsage
from lc_service.retry.errors import classify

NOON = 1_800_014_400.0


def request(tokens: int, **facts: Any) -> AttemptRequest:
    usual = {
        "call_id": uuid4(),
        "attempt": 1,
        "model": "gpt-4o-mini",
        "service_tier": "default",
        "input_tokens": 0,
        "max_input_tokens": 0,
        "max_output_tokens": tokens,
        "at": datetime.now(UTC),
    }
    return AttemptRequest(**(usual | facts))


def settle(ledger: UsageLedger, asked: AttemptRequest, reservation: Reservation, tokens: int) -> None:
    """End an attempt as the pipeline does: record it, then settle."""
    record = AttemptRecord(
        run_id=asked.call_id,
        attempt=asked.attempt,
        model=asked.model,
        usage=TokenUsage(output_tokens=tokens),
        service_tier=asked.service_tier,
        started_at=asked.at,
        tags=asked.tags,
        reserved_tokens=reservation.amount.tokens,
        reserved_usd=reservation.amount.usd,
    )
    ledger.record(record)
    reservation.settle(record)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.sqlite"


@pytest.fixture
def ledger(path: Path) -> Any:
    ledger = UsageLedger(path)
    yield ledger
    ledger.close()


def strict(tokens: int, ledger: Any, **options: Any) -> Budget:
    return Budget(tokens=tokens, strict=True, ledger=ledger, **options)


# --- one process ---


def test_it_counts_what_the_ledger_says(ledger: UsageLedger) -> None:
    budget = Budget(usd=1, tokens=100, strict=True, ledger=ledger)
    asked = request(80)
    reservation = budget.reserve(asked)
    assert budget.reserved == reservation.amount == Amount(tokens=80, usd=Decimal("0.000048"))
    settle(ledger, asked, reservation, 60)
    assert (budget.spent, budget.reserved) == (Amount(tokens=60, usd=Decimal("0.000036")), Amount())
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve(request(41))
    assert caught.value.spent.tokens == 60
    released = budget.reserve(request(40))
    released.release()
    released.release()
    assert budget.reserved == Amount()


def test_a_restart_goes_on_with_what_was_spent(path: Path, ledger: UsageLedger) -> None:
    asked = request(80)
    settle(ledger, asked, strict(100, ledger).reserve(asked), 80)
    again = pickle.loads(pickle.dumps(strict(100, UsageLedger(path))))
    assert again.spent.tokens == 80
    with pytest.raises(BudgetExceeded):
        again.reserve(request(21))
    again.ledger.close()


async def test_a_total_and_a_daily_budget_share_a_ledger(ledger: UsageLedger) -> None:
    total, daily = strict(1_000, ledger), strict(100, ledger, per_day=True)
    tagged = strict(50, ledger, tag="eval")
    asked = request(30, tags=("eval",))
    reservation = await areserve_all([total, daily, tagged], asked)
    assert [budget.reserved.tokens for budget in (total, daily, tagged)] == [30, 30, 30]
    settle(ledger, asked, reservation, 25)
    assert [budget.spent.tokens for budget in (total, daily, tagged)] == [25, 25, 25]
    for refused in (request(26, tags=("eval",)), request(76)):
        with pytest.raises(BudgetExceeded):
            await areserve_all([total, daily, tagged], refused)
        await until(lambda: total.reserved == Amount())
    with pytest.raises(BudgetExceeded):
        reserve_all([total, daily], request(76))
    assert total.reserved == Amount()


async def until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happens"
        await asyncio.sleep(0.002)


def test_a_daily_budget_on_a_ledger_begins_anew_at_midnight(ledger: UsageLedger, fake_clock: Any) -> None:
    fake_clock.wall_time = NOON
    budget = strict(100, ledger, per_day=True)
    asked = request(80, at=datetime.fromtimestamp(NOON, UTC))
    settle(ledger, asked, budget.reserve(asked), 80)
    with pytest.raises(BudgetExceeded):
        budget.reserve(request(80))
    fake_clock.advance(12 * 3_600)
    late = budget.reserve(request(80, at=datetime.fromtimestamp(NOON, UTC)))
    assert budget.reserved == Amount(tokens=80), "what waited over midnight counts for the new day"
    late.release()


def test_a_thread_does_not_wait_for_its_own_open_stream(ledger: UsageLedger) -> None:
    budget = strict(100, ledger)
    stream = budget.reserve(request(60))
    with pytest.raises(BudgetExceeded, match="stream"):
        budget.reserve(request(50))
    stream.release()


# --- an event loop is never blocked ---


class FakeLedger:
    """A ledger in memory that notes in which thread it is asked, and can be slow or broken."""

    def __init__(self) -> None:
        self.reserved: dict[UUID, Amount] = {}
        self.spent = Amount()
        self.foreign = Amount()
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()
        self.granted = 0
        self.error: Exception | None = None

    def try_reserve(
        self, request: AttemptRequest, amount: Amount, limit_tokens: int, *_: object
    ) -> tuple[bool, Balance]:
        self.asked.set()
        balance = self.balance()
        has_room = balance.spent.tokens + balance.reserved.tokens + amount.tokens <= limit_tokens
        if has_room:
            self.reserved[request.call_id] = amount
            self.granted += 1
        return has_room, balance

    def release(self, call_id: UUID, attempt: int) -> None:
        self._take_part()
        self.reserved.pop(call_id, None)

    def balance(self, scope: Scope | None = None) -> Balance:
        self._take_part()
        return Balance(spent=self.spent, reserved=sum(self.reserved.values(), start=self.foreign))

    def _take_part(self) -> None:
        self.threads.add(threading.get_ident())
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error


async def test_a_task_asks_the_ledger_in_a_thread() -> None:
    ledger = FakeLedger()
    budget = strict(100, ledger)
    ledger.gate.clear()
    task = asyncio.create_task(budget.areserve(request(60)))
    for _ in range(5):
        await asyncio.sleep(0.001)  # the loop runs on meanwhile
    assert not task.done()
    ledger.gate.set()
    reservation = await task
    await reservation.arelease()
    assert ledger.reserved == {}
    with pytest.raises(BudgetExceeded):
        await areserve_all([budget, strict(10, ledger)], request(20))
    await until(lambda: ledger.reserved == {})
    assert threading.get_ident() not in ledger.threads


async def test_a_task_cancelled_while_the_ledger_answers_gives_back_what_it_was_given() -> None:
    ledger = FakeLedger()
    budget = strict(100, ledger)
    ledger.gate.clear()
    task = asyncio.create_task(budget.areserve(request(60)))
    await asyncio.to_thread(ledger.asked.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ledger.gate.set()
    await until(lambda: ledger.granted == 1 and ledger.reserved == {})
    assert budget._allowance._line.open_holds() == []
    assert (await budget.areserve(request(100))).amount == Amount(tokens=100)


async def test_a_cancelled_release_is_done_all_the_same() -> None:
    ledger = FakeLedger()
    reservation = await strict(100, ledger).areserve(request(60))
    ledger.gate.clear()
    others = [steps.threads().submit(ledger.gate.wait, 10) for _ in range(4)]  # it has to wait for a thread
    task = asyncio.create_task(reservation.arelease())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ledger.gate.set()
    await until(lambda: ledger.reserved == {})
    assert all(other.result(5) for other in others)


def test_settling_asks_the_ledger_nothing_and_wakes_who_waits() -> None:
    ledger = FakeLedger()
    budget = strict(100, ledger)
    asked = request(60)
    reservation = budget.reserve(asked)
    ledger.threads.clear()
    del ledger.reserved[asked.call_id]
    reservation.settle(AttemptRecord(run_id=asked.call_id, model="m"))
    assert ledger.threads == set()
    assert budget._allowance._line.open_holds() == []


def test_a_forked_process_has_threads_of_its_own() -> None:
    steps.threads().submit(int).result(5)
    child = os.fork()
    if child == 0:
        try:
            ok = steps.threads().submit(lambda: 7).result(5) == 7
        finally:
            os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- a ledger that cannot be asked ---


async def test_where_the_ledger_cannot_be_asked_nothing_is_sent() -> None:
    ledger = FakeLedger()
    ledger.error = OSError("disk of secret.example.com is gone")
    budget = strict(100, ledger)
    for attempt in (lambda: budget.reserve(request(1)), lambda: asyncio.run(budget.areserve(request(1)))):
        with pytest.raises(BudgetUnavailableError, match="OSError") as caught:
            await asyncio.to_thread(attempt)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is ledger.error
        assert not classify(caught.value).is_transient
    with pytest.raises(BudgetUnavailableError):
        _ = budget.spent
    ledger.error = None
    budget.reserve(request(100))


def test_a_failing_release_is_told_in_the_log_and_lets_the_next_one_try(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger = FakeLedger()
    budget = strict(100, ledger)
    reservation = budget.reserve(request(60))
    ledger.error = OSError("secret")
    reservation.release()
    assert "OSError" in caplog.text
    assert "secret" not in caplog.text
    assert budget._allowance._line.open_holds() == []


# --- other processes ---


def test_it_asks_again_and_again_while_others_hold_something(
    fake_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = FakeLedger()
    ledger.foreign = Amount(tokens=80)
    waits: list[float] = []

    def wait(_: Turn, seconds: float) -> None:
        waits.append(seconds)
        fake_clock.advance(seconds)
        if len(waits) == 8:
            ledger.foreign, ledger.spent = Amount(), Amount(tokens=30)

    monkeypatch.setattr(Turn, "wait", wait)
    budget = strict(100, ledger)
    budget.reserve(request(60))
    assert waits == [0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25, 0.25]
    ledger.foreign = Amount(tokens=10)
    with pytest.raises(BudgetExceeded, match="What is left") as caught:
        budget.reserve(request(71))
    assert caught.value.spent == Amount(tokens=30)


def test_it_does_not_ask_for_ever(fake_clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = FakeLedger()
    ledger.foreign = Amount(tokens=80)
    monkeypatch.setattr(Turn, "wait", lambda _, seconds: fake_clock.sleep(seconds))
    with pytest.raises(BudgetExceeded, match="600 s"):
        strict(100, ledger).reserve(request(60))
    assert sum(fake_clock.waits) == pytest.approx(600)


def test_it_goes_on_asking_while_others_get_on(fake_clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(_: Turn, seconds: float) -> None:
        fake_clock.advance(seconds)
        if fake_clock.time >= 1_500:
            ledger.spent = Amount(tokens=1)
        if fake_clock.time >= 2_000:
            ledger.foreign = Amount()

    ledger = FakeLedger()
    ledger.foreign = Amount(tokens=80)
    monkeypatch.setattr(Turn, "wait", wait)
    strict(100, ledger).reserve(request(60))
    assert fake_clock.time == pytest.approx(2_000, abs=0.5)


HAMMER = """
import asyncio, sys, time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4
from lc_service.accounting.budget import Budget
from lc_service.accounting.budget.exceeded import BudgetExceeded
from lc_service.accounting.ledger import UsageLedger
from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.spending import AttemptRequest
from lc_service.accounting.usage import TokenUsage

path, limit, *used = sys.argv[1], *map(int, sys.argv[2:])
ledger = UsageLedger(path)
budget = Budget(tokens=limit, strict=True, ledger=ledger)
print("ready", flush=True)
sys.stdin.readline()

def asked():
    return AttemptRequest(call_id=uuid4(), attempt=1, model="m", input_tokens=0, max_input_tokens=0,
                          max_output_tokens=100, at=datetime.now(UTC))

def check():
    balance = budget._allowance.balance()
    assert balance.spent.tokens + balance.reserved.tokens <= limit, balance

def record(request, reservation, tokens):
    return AttemptRecord(run_id=request.call_id, model="m", usage=TokenUsage(output_tokens=tokens),
                         started_at=request.at, reserved_tokens=reservation.amount.tokens)

def call(tokens):
    request = asked()
    try:
        reservation = budget.reserve(request)
    except BudgetExceeded:
        return False
    check()
    ended = record(request, reservation, tokens)
    ledger.record(ended)
    reservation.settle(ended)
    return True

async def acall(tokens):
    request = asked()
    try:
        reservation = await budget.areserve(request)
    except BudgetExceeded:
        return False
    await asyncio.sleep(0)
    ended = record(request, reservation, tokens)
    await ledger.arecord(ended)
    reservation.settle(ended)
    return True

async def loop(part):
    return await asyncio.gather(*map(acall, part))

half = len(used) // 2
with ThreadPoolExecutor(5) as pool:
    tasks = pool.submit(asyncio.run, loop(used[half:]))
    answers = [*pool.map(call, used[:half]), *tasks.result()]
print(sum(answers), answers.count(False), flush=True)
ledger.close()
"""


def hammer(path: Path, limit: int, *parts: list[int]) -> list[tuple[int, int]]:
    """Run a process for each part, all at once; return how many calls of each were made and refused."""
    children = [
        subprocess.Popen(  # noqa: S603  our own script
            [sys.executable, "-c", HAMMER, str(path), str(limit), *map(str, part)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for part in parts
    ]
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        answers = []
        for child in children:
            out, _ = child.communicate(timeout=50)
            assert child.returncode == 0
            answers.append(tuple(map(int, out.split())))
        return answers
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_two_processes_never_overspend_and_use_all_there_is(path: Path, ledger: UsageLedger) -> None:
    """Of 200 calls that take 100 tokens each there is room for 130, and 99 tokens."""
    answers = hammer(path, 130 * 100 + 99, [100] * 100, [100] * 100)
    assert sum(made for made, _ in answers) == 130
    assert sum(refused for _, refused in answers) == 70
    assert ledger.balance(Scope()) == Balance(spent=Amount(tokens=13_000))


def test_two_processes_refuse_nothing_that_fits_once_the_other_has_settled(
    path: Path, ledger: UsageLedger
) -> None:
    chance = random.Random(11)
    parts = [[chance.randrange(100) for _ in range(60)] for _ in range(2)]
    limit = sum(map(sum, parts)) + 100
    assert hammer(path, limit, *parts) == [(60, 0), (60, 0)]
    assert ledger.balance(Scope()).spent == Amount(tokens=limit - 100)


VICTIM = """
import sys, time
from datetime import UTC, datetime
from uuid import uuid4
from lc_service.accounting.budget import Budget
from lc_service.accounting.ledger import UsageLedger
from lc_service.accounting.spending import AttemptRequest

budget = Budget(tokens=100, strict=True, ledger=UsageLedger(sys.argv[1]))
budget.reserve(AttemptRequest(call_id=uuid4(), attempt=1, model="m", input_tokens=0, max_input_tokens=0,
                              max_output_tokens=60, at=datetime.now(UTC)))
print("reserved", flush=True)
time.sleep(60)
"""


def test_what_a_killed_process_had_reserved_counts_as_spent_in_the_end(
    path: Path, ledger: UsageLedger, fake_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = subprocess.Popen([sys.executable, "-c", VICTIM, str(path)], stdout=subprocess.PIPE, text=True)  # noqa: S603  our own script
    try:
        assert child.stdout.readline() == "reserved\n"
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    fake_clock.wall_time = time.time()
    monkeypatch.setattr(Turn, "wait", lambda _, seconds: fake_clock.sleep(seconds))
    budget = strict(100, ledger)
    assert (budget.spent, budget.reserved) == (Amount(), Amount(tokens=60))
    budget.reserve(request(40)).release()
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve(request(41))
    assert caught.value.spent == Amount(tokens=60), "it may have been sent: nobody knows"
    assert sum(fake_clock.waits) <= LEASE_SECONDS + 1
    budget.reserve(request(40))
