"""Whatever happens, in any order: nothing is overspent, lost or counted twice, and nobody waits in vain."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lc_service import clock
from lc_service.accounting.budget import Budget, Reservation
from lc_service.accounting.budget.account import LEASE_SECONDS
from lc_service.accounting.budget.exceeded import BudgetExceeded
from lc_service.accounting.budget.steps import InThread
from lc_service.accounting.ledger import UsageLedger
from lc_service.accounting.record import AttemptRecord, AttemptStatus, Certainty
from lc_service.accounting.spending import AttemptRequest
from lc_service.accounting.usage import TokenUsage

LIMIT = 100
NOON = 1_800_014_400.0
DAY = 86_400.0
places = st.integers(0, 100)


@dataclass(eq=False)
class Call:
    budget: Budget
    request: AttemptRequest
    task: asyncio.Task[Reservation]
    at: float = 0.0
    ends: list[AttemptRecord | None] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return self.request.max_output_tokens or 0

    @property
    def day(self) -> float:
        return self.at // DAY


class LocalLaws(RuleBasedStateMachine):
    """Tasks that ask, wait, settle, release, are cancelled and live through midnight, in one process."""

    def __init__(self) -> None:
        super().__init__()
        self.wall = NOON
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(clock, "wall", lambda: self.wall)
        self.patch.setattr(clock, "now", lambda: 1_000.0)
        self.loop = asyncio.new_event_loop()
        self.waiting: list[Call] = []
        self.open: list[Call] = []
        self.crashed: list[Call] = []
        self.ended: list[Call] = []
        self.settled: dict[float, int] = {}
        self.budgets: list[Budget] = []

    @initialize(per_day=st.booleans())
    def make(self, per_day: bool) -> None:
        self.per_day = per_day
        self.budgets = [Budget(tokens=LIMIT, strict=True, per_day=per_day)]

    def teardown(self) -> None:
        for call in self.waiting:
            call.task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        self.patch.undo()

    # --- what the sums have to be ---

    def is_counted(self, day: float) -> bool:
        return not self.per_day or day == self.wall // DAY

    def is_expired(self, call: Call) -> bool:
        return False

    @property
    def spent(self) -> int:
        settled = sum(tokens for day, tokens in self.settled.items() if self.is_counted(day))
        held = (*self.open, *self.crashed)
        return settled + sum(
            call.tokens for call in held if self.is_counted(call.day) and self.is_expired(call)
        )

    @property
    def reserved(self) -> int:
        held = (*self.open, *self.crashed)
        return sum(call.tokens for call in held if self.is_counted(call.day) and not self.is_expired(call))

    # --- what happens ---

    @rule(tokens=st.integers(0, LIMIT + 10), place=places)
    def ask(self, tokens: int, place: int) -> None:
        request = AttemptRequest(
            call_id=uuid4(),
            attempt=1,
            model="m",
            input_tokens=0,
            max_input_tokens=0,
            max_output_tokens=tokens,
            at=datetime.fromtimestamp(self.wall, UTC),
        )
        budget = self.budgets[place % len(self.budgets)]
        self.waiting.append(Call(budget, request, self.loop.create_task(budget.areserve(request))))
        self.turn()

    @precondition(lambda self: self.open)
    @rule(place=places, percent=st.integers(0, 100), kind=st.sampled_from(["ok", "unknown", "failed"]))
    def settle(self, place: int, percent: int, kind: str) -> None:
        call = self.open.pop(place % len(self.open))
        used = call.tokens * percent // 100
        facts: dict[str, Any] = {"usage": TokenUsage(output_tokens=used)}
        if kind == "unknown":
            facts, used = {"certainty": Certainty.UNKNOWN}, call.tokens
        elif kind == "failed":
            facts, used = {"status": AttemptStatus.FAILED}, 0
        record = AttemptRecord(
            run_id=call.request.call_id,
            model="m",
            started_at=datetime.fromtimestamp(call.at, UTC),
            reserved_tokens=call.tokens,
            **facts,
        )
        self.record(record)
        call.task.result().settle(record)
        self.settled[call.day] = self.settled.get(call.day, 0) + used
        call.ends.append(record)
        self.ended.append(call)
        self.turn()

    def record(self, record: AttemptRecord) -> None:
        """Without a ledger nobody does."""

    @precondition(lambda self: self.open)
    @rule(place=places)
    def release(self, place: int) -> None:
        call = self.open.pop(place % len(self.open))
        call.task.result().release()
        call.ends.append(None)
        self.ended.append(call)
        self.turn()

    @precondition(lambda self: self.ended)
    @rule(place=places)
    def end_again(self, place: int) -> None:
        call = self.ended[place % len(self.ended)]
        reservation = call.task.result()
        reservation.release()
        if (record := call.ends[0]) is not None:
            reservation.settle(record)
        self.turn()

    @precondition(lambda self: self.waiting)
    @rule(place=places)
    def cancel(self, place: int) -> None:
        call = self.waiting.pop(place % len(self.waiting))
        call.task.cancel()
        self.turn()
        assert call.task.cancelled()

    @precondition(lambda self: self.open and self.waiting)
    @rule(place=places)
    def release_and_cancel_whoever_that_wakes(self, place: int) -> None:
        call = self.open.pop(place % len(self.open))
        call.task.result().release()
        call.ends.append(None)
        self.ended.append(call)
        self.cancel(0)

    @rule()
    def midnight_comes(self) -> None:
        self.wall = (self.wall // DAY + 1) * DAY
        self.wake()

    def wake(self) -> None:
        """End the waits that a timer ends."""
        for budget in self.budgets:
            budget._allowance._line.wake_first()
        self.turn()

    def turn(self) -> None:
        """Let the tasks run until all of them wait, and see who got what."""
        for _ in range(4 + 4 * len(self.waiting)):
            self.loop.run_until_complete(asyncio.sleep(0))
        still: list[Call] = []
        for call in self.waiting:
            if not call.task.done():
                still.append(call)
            elif (error := call.task.exception()) is not None:
                assert isinstance(error, BudgetExceeded)
                assert self.spent + call.tokens > LIMIT, "refused although waiting would have helped"
                assert error.spent.tokens == self.spent
            else:
                assert all(other.budget is not call.budget for other in still), "it passed others by"
                assert call.task.result().amount.tokens == call.tokens
                call.at = self.wall
                self.open.append(call)
        self.waiting = still

    # --- what always holds ---

    @invariant()
    def the_sums_are_right_and_the_limit_holds(self) -> None:
        assert self.spent + self.reserved <= LIMIT
        for budget in self.budgets:
            assert budget.spent.tokens == self.spent
            assert budget.reserved.tokens == self.reserved
            assert budget.remaining.tokens == LIMIT - self.spent - self.reserved

    @invariant()
    def nobody_waits_where_there_is_room_or_no_hope(self) -> None:
        for budget in self.budgets:
            first = next((call for call in self.waiting if call.budget is budget), None)
            if first is not None:
                assert self.spent + first.tokens <= LIMIT < self.spent + self.reserved + first.tokens


class LedgerLaws(LocalLaws):
    """The same with two budgets on one SQLite ledger, as two processes have them, of which some die."""

    @initialize(per_day=st.booleans())
    def make(self, per_day: bool) -> None:
        self.per_day = per_day
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = UsageLedger(Path(self.folder.name) / "usage.sqlite")
        self.budgets = [
            Budget(tokens=LIMIT, strict=True, per_day=per_day, ledger=self.ledger) for _ in range(2)
        ]

        async def here(step: InThread) -> Any:
            return step.run()

        self.patch.setattr(InThread, "arun", here)

    def teardown(self) -> None:
        super().teardown()
        if self.budgets:
            self.ledger.close()
            self.folder.cleanup()

    def is_expired(self, call: Call) -> bool:
        return self.wall >= call.at + LEASE_SECONDS

    def record(self, record: AttemptRecord) -> None:
        self.ledger.record(record)

    @precondition(lambda self: self.open)
    @rule(place=places)
    def crash(self, place: int) -> None:
        self.crashed.append(self.open.pop(place % len(self.open)))

    @rule(seconds=st.sampled_from([1.0, LEASE_SECONDS / 2, LEASE_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.wall += seconds
        self.wake()

    def turn(self) -> None:
        for budget in self.budgets:  # each asks again after a while, for what the other has done
            budget._allowance._line.wake_first()
        super().turn()


TestLocalLaws = LocalLaws.TestCase
TestLocalLaws.settings = settings(max_examples=150, stateful_step_count=40)
TestLedgerLaws = LedgerLaws.TestCase
TestLedgerLaws.settings = settings(max_examples=25, stateful_step_count=30)
