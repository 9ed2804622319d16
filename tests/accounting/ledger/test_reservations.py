"""What budgets set aside in a ledger: between threads, between processes, and when one of them dies."""

from __future__ import annotations

import signal
import subprocess
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lc_service.accounting.ledger import UsageLedger
from lc_service.accounting.record import AttemptRecord, Certainty
from lc_service.accounting.spending import Amount, AttemptRequest, Balance, Scope, charge

MakeAttempt = Callable[..., AttemptRecord]
NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)  # the fake clock's
EVERYTHING = Scope()


def request_for(call_id: uuid.UUID | None = None, **fields: Any) -> AttemptRequest:
    defaults = {"attempt": 1, "model": "m", "input_tokens": 1, "max_input_tokens": 1, "at": NOW}
    return AttemptRequest(**defaults | {"call_id": call_id or uuid.uuid4()} | fields)


def tokens(number: int) -> Amount:
    return Amount(tokens=number)


def usd(text: str) -> Amount:
    return Amount(usd=Decimal(text))


def reserve(
    ledger: UsageLedger, request: AttemptRequest, amount: Amount, limit: Any = None, scope: Scope = EVERYTHING
) -> tuple[bool, Balance]:
    limit_usd = limit if isinstance(limit, Decimal) else None
    return ledger.try_reserve(request, amount, None if limit_usd else limit, limit_usd, scope, 60.0)


def test_limits_are_inclusive_and_reservations_count(ledger: UsageLedger) -> None:
    assert reserve(ledger, request_for(), tokens(60), 100) == (True, Balance())
    assert reserve(ledger, request_for(), tokens(41), 100) == (False, Balance(reserved=tokens(60)))
    assert reserve(ledger, request_for(), tokens(40), 100) == (True, Balance(reserved=tokens(60)))
    assert reserve(ledger, request_for(), tokens(1), 100)[0] is False
    assert ledger.balance(EVERYTHING) == Balance(reserved=tokens(100))


def test_dollars_are_exact(ledger: UsageLedger) -> None:
    limit = Decimal("0.3")
    for each in ("0.1", "0.2"):
        assert reserve(ledger, request_for(), usd(each), limit)[0]
    assert not reserve(ledger, request_for(), usd("0.000000000001"), limit)[0]
    assert ledger.balance(EVERYTHING).reserved.usd == limit


def test_both_limits_hold(ledger: UsageLedger) -> None:
    amount = Amount(tokens=10, usd=Decimal(1))
    request = request_for()
    assert not ledger.try_reserve(request, amount, 9, Decimal(2), EVERYTHING, 60)[0]
    assert not ledger.try_reserve(request, amount, 10, Decimal("0.99"), EVERYTHING, 60)[0]
    assert ledger.try_reserve(request, amount, 10, Decimal(1), EVERYTHING, 60)[0]


def test_a_record_takes_the_place_of_its_reservation(ledger: UsageLedger, make_attempt: MakeAttempt) -> None:
    request = request_for()
    reserve(ledger, request, tokens(500))
    record = make_attempt(run_id=request.call_id, reserved_tokens=500)
    ledger.record(record)
    assert charge(record).tokens == 120
    assert ledger.balance(EVERYTHING) == Balance(spent=charge(record))


def test_an_uncertain_attempt_is_charged_what_was_reserved(
    ledger: UsageLedger, make_attempt: MakeAttempt
) -> None:
    ledger.record(make_attempt(certainty=Certainty.UNKNOWN, reserved_tokens=500, reserved_usd=Decimal("0.7")))
    assert ledger.balance(EVERYTHING) == Balance(spent=Amount(tokens=500, usd=Decimal("0.7")))


def test_a_release_gives_it_back(ledger: UsageLedger) -> None:
    request = request_for()
    reserve(ledger, request, tokens(100), 100)
    ledger.release(request.call_id, 2)
    assert ledger.balance(EVERYTHING).reserved == tokens(100)
    ledger.release(request.call_id, 1)
    assert ledger.balance(EVERYTHING) == Balance()


def test_several_budgets_reserve_once_for_an_attempt_and_the_largest_amount_counts(
    ledger: UsageLedger,
) -> None:
    request = request_for()
    reserve(ledger, request, Amount(tokens=5, usd=Decimal(3)))
    is_reserved, balance = reserve(ledger, request, Amount(tokens=9, usd=Decimal(1)), 9)
    assert (is_reserved, balance) == (True, Balance())
    assert ledger.balance(EVERYTHING).reserved == Amount(tokens=9, usd=Decimal(3))


def test_an_expired_reservation_counts_as_spent_until_its_attempt_is_recorded(
    ledger: UsageLedger, make_attempt: MakeAttempt, fake_clock: Any
) -> None:
    request = request_for()
    reserve(ledger, request, tokens(100))
    fake_clock.advance(59.9)
    assert ledger.balance(EVERYTHING) == Balance(reserved=tokens(100))
    fake_clock.advance(0.2)
    assert ledger.balance(EVERYTHING) == Balance(spent=tokens(100))
    assert not reserve(ledger, request_for(), tokens(1), 100)[0]
    record = make_attempt(run_id=request.call_id)
    ledger.record(record)
    assert ledger.balance(EVERYTHING).spent.tokens == 120


def test_a_scope_takes_what_began_since_then_and_has_its_tag(
    ledger: UsageLedger, make_attempt: MakeAttempt
) -> None:
    since = Scope(since=NOW)
    odd = ('a"b', ",", "é", "?")
    early = NOW - timedelta(microseconds=1)
    ledger.record(make_attempt(started_at=early, tags=odd))
    ledger.record(make_attempt(started_at=NOW, tags=("x,", ",y")))
    reserve(ledger, request_for(tags=odd, at=NOW), tokens(1))
    reserve(ledger, request_for(at=early), tokens(10))
    assert ledger.balance(since).spent.tokens == 120
    assert ledger.balance(since).reserved.tokens == 1
    for tag in odd:
        balance = ledger.balance(Scope(tag=tag))
        assert (balance.spent.tokens, balance.reserved.tokens) == (120, 1)
    assert ledger.balance(Scope(tag="a")) == Balance()
    assert ledger.balance(Scope(tag="?", since=NOW)) == Balance(reserved=tokens(1))


def test_a_window_that_moves_on_with_each_question_is_summed_right(
    ledger: UsageLedger, make_attempt: MakeAttempt
) -> None:
    """More windows than are remembered."""
    moments = [NOW + timedelta(seconds=number) for number in range(300)]
    ledger.record_many([make_attempt(started_at=moment) for moment in moments])
    for _ in range(2):
        spent = [ledger.balance(Scope(since=moment)).spent.tokens for moment in moments]
        assert spent == [120 * left for left in range(300, 0, -1)]


def test_sums_follow_rows_of_others_and_rows_that_somebody_removed(
    path: Path, make_attempt: MakeAttempt
) -> None:
    import sqlite3

    with UsageLedger(path) as ledger, UsageLedger(path) as other:
        for _ in range(3):
            other.record(make_attempt())
            ledger.record(make_attempt())
            assert ledger.balance(EVERYTHING) == other.balance(EVERYTHING)
        assert ledger.balance(EVERYTHING).spent.tokens == 720
        with sqlite3.connect(path) as shell:
            shell.execute("DELETE FROM attempts WHERE id > 2")
        shell.close()
        assert ledger.balance(EVERYTHING).spent.tokens == 240


class Model(RuleBasedStateMachine):
    """Budgets of one file against plain arithmetic, in any order of events."""

    limit = 1_000

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        place = f"{self.folder.name}/usage.db"
        self.ledgers = [UsageLedger(place), UsageLedger(place)]  # as of two processes
        self.open: dict[uuid.UUID, int] = {}
        self.made = self.spent = 0

    def teardown(self) -> None:
        for ledger in self.ledgers:
            ledger.close()
        self.folder.cleanup()

    @rule(which=st.integers(0, 1), amount=st.integers(0, 400))
    def reserve(self, which: int, amount: int) -> None:
        self.made += 1
        request = request_for(uuid.UUID(int=self.made), at=datetime.now(UTC))
        fits = self.spent + sum(self.open.values()) + amount <= self.limit
        assert reserve(self.ledgers[which], request, tokens(amount), self.limit)[0] is fits
        if fits:
            self.open[request.call_id] = amount

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 1), data=st.data(), is_sent=st.booleans())
    def end(self, which: int, data: st.DataObject, is_sent: bool) -> None:
        run_id = data.draw(st.sampled_from(sorted(self.open)))
        amount = self.open.pop(run_id)
        if is_sent:
            used = data.draw(st.integers(0, amount))
            self.spent += used
            usage = {"input_tokens": used}
            from lc_service.accounting.usage import TokenUsage

            record = AttemptRecord(run_id=run_id, model="gpt-4.1-mini", usage=TokenUsage(**usage))
            self.ledgers[which].record(record)
        else:
            self.ledgers[which].release(run_id, 1)

    @invariant()
    def balances_agree(self) -> None:
        for ledger in self.ledgers:
            balance = ledger.balance(EVERYTHING)
            assert balance.spent.tokens == self.spent
            assert balance.reserved.tokens == sum(self.open.values())
            assert self.spent + balance.reserved.tokens <= self.limit


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=15, stateful_step_count=20)

SPEND = """
import sys, uuid
from datetime import UTC, datetime
from conftest import attempt
from lc_service.accounting.ledger import UsageLedger
from lc_service.accounting.spending import Amount, AttemptRequest, Scope
ledger = UsageLedger(sys.argv[1])
spent = 0
print("ready", flush=True)
sys.stdin.readline()
while True:
    request = AttemptRequest(call_id=uuid.uuid4(), attempt=1, model="m", input_tokens=1, max_input_tokens=1,
                             at=datetime.now(UTC))
    fits, balance = ledger.try_reserve(request, Amount(tokens=7), int(sys.argv[2]), None, Scope(), 1e6)
    if not fits:
        break
    used = 3 + spent % 5
    spent += used
    ledger.record(attempt(run_id=request.call_id, input_tokens=used, reserved_tokens=7))
    print(spent, flush=True)
"""


def test_processes_that_hammer_one_ledger_never_exceed_the_limit_even_if_one_is_killed(
    place: str, in_new_process: Callable[..., subprocess.Popen[str]]
) -> None:
    limit = 4_000 if "postgres" in place else 15_000  # a second or two
    processes = [in_new_process(SPEND, place, limit) for _ in range(3)]
    victim, *others = processes
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # the victim first: SQLite lets nobody in while another never pauses
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        if process is victim:
            assert victim.stdout is not None
            assert victim.stdout.readline()
    assert others[0].stdout is not None
    others[0].stdout.readline()
    victim.send_signal(signal.SIGKILL)
    outputs: list[str] = []
    for process in others:
        output, errors = process.communicate(timeout=50)
        assert (process.returncode, errors) == (0, "")
        outputs += output.split()
    assert outputs
    with UsageLedger(place) as ledger:
        balance = ledger.balance(EVERYTHING)
        recorded = sum(record.usage.total_tokens for record in ledger.records())
    assert balance.spent.tokens == recorded <= limit
    assert balance.reserved.tokens in (0, 7)  # what the killed one had set aside
    assert recorded + balance.reserved.tokens > limit - 7  # and no room was left unused
