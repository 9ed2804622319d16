"""Give out a budget's room: at once where there is some, after a wait where others will give some back.

Invariant: a call is refused only where no wait helps: what is spent leaves no room, all room is held by those
who wait for it, or nothing moved for ten minutes. Keeps no sums and no order itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from lc_service import clock
from lc_service.accounting.budget.account import LedgerAccount, LocalAccount, ReservingLedger
from lc_service.accounting.budget.request_amount import greatest_amount, probable_amount
from lc_service.accounting.budget.steps import InThread, Procedure, T, threads
from lc_service.accounting.budget.waiting_line import Hold, Party, Pause, Turn, WaitingLine
from lc_service.accounting.spending import Amount, AttemptRequest, Balance, Limit

MAX_STILL_SECONDS = 600.0
"""So long a call waits while nothing is given back."""
_FIRST_POLL_SECONDS, _MAX_POLL_SECONDS = 0.01, 0.25
_DAY = timedelta(days=1)


class Allowance:
    """One budget's room. Thread-safe, and safe in any number of event loops."""

    def __init__(
        self,
        name: str,
        limit: Limit,
        *,
        is_strict: bool,
        per_day: bool,
        tag: str | None,
        ledger: ReservingLedger | None,
    ) -> None:
        self.name = name
        self.limit = limit
        self._is_strict = is_strict
        self._per_day = per_day
        self.is_shared = ledger is not None
        self._line = WaitingLine()
        self.account: LocalAccount | LedgerAccount = (
            LocalAccount(limit, self._line)
            if ledger is None
            else LedgerAccount(limit, self._line, ledger, tag)
        )

    def amount_of(self, request: AttemptRequest) -> Amount:
        """Return what has to be set aside for `request`.

        Raises:
            UnpricedModelError: The limit is in USD and no price is known.
            UnboundedRequestError: The budget is strict and nothing bounds the prompt or the answer.
        """
        if self.limit.tokens is None and self.limit.usd is None:
            return Amount(requests=1)
        measure = greatest_amount if self._is_strict else probable_amount
        amount = measure(request, in_usd=self.limit.usd is not None)
        return amount if self.limit.requests is None else replace(amount, requests=1)

    def balance(self) -> Balance:
        """Return what is spent and reserved in this period."""
        return self.account.balance(self._period())

    def refuse_hopeless(self, amount: Amount, balance: Balance | None = None) -> None:
        """Raise where what is spent leaves no room, whatever is given back.

        Without a `balance` a budget with a ledger passes: asking it would block.

        Raises:
            BudgetExceeded: That is so.
        """
        if balance is None:
            if self.is_shared:
                return
            balance = self.balance()
        if not self.limit.has_room_for(balance.spent + amount):
            is_alone_too_much = not self.limit.has_room_for(amount)
            why = "It alone takes more than that." if is_alone_too_much else "What is left is less than that."
            self._refuse(amount, balance, why)

    def taking(self, request: AttemptRequest, amount: Amount, *, is_async: bool) -> Procedure[Hold]:
        """Return the procedure that takes room.

        Raises:
            BudgetExceeded: No wait helps.
            BudgetUnavailableError: The ledger cannot be asked.
        """
        party = Party.current()
        turn = self._line.join(party, is_async=is_async)
        poll_seconds = _FIRST_POLL_SECONDS
        seen: Balance | None = None
        try:
            while True:
                turn.rearm()
                hold = Hold(request, amount, self._period(), party)
                is_first = self._line.is_first(turn)
                if is_first:
                    has_room, balance = yield from self._ask(
                        lambda hold=hold: self.account.try_reserve(hold),  # type: ignore[misc]
                        undo=lambda answer, hold=hold: self._undo(answer, hold),  # type: ignore[misc]
                    )
                    if has_room:
                        return hold
                    turn.is_refused = True
                else:
                    balance = yield from self._ask(self.balance)
                if self.is_shared and balance != seen:
                    seen, self._line.moved_at = balance, clock.now()
                seconds = self._seconds_to_wait(turn, hold, balance)
                if self.is_shared and is_first:
                    seconds = min(seconds, poll_seconds)
                    poll_seconds = min(2 * poll_seconds, _MAX_POLL_SECONDS)
                yield Pause(turn, seconds)
                if turn.is_woken:
                    poll_seconds = _FIRST_POLL_SECONDS
        finally:
            self._line.leave(turn)

    def _seconds_to_wait(self, turn: Turn, hold: Hold, balance: Balance) -> float:
        """Return how long to wait for others, or raise `BudgetExceeded` where that would not help."""
        self.refuse_hopeless(hold.amount, balance)
        if not self.account.is_held_elsewhere(balance, hold.since) and self._line.is_stuck(turn):
            self._refuse(
                hold.amount,
                balance,
                "All that is reserved is held by calls that cannot go on before this one, such as a stream "
                "that the same thread has open: read or close it first.",
            )
        seconds = max(turn.joined_at, self._line.moved_at) + MAX_STILL_SECONDS - clock.now()
        if seconds <= 0:
            self._refuse(
                hold.amount,
                balance,
                f"It waited for calls under way, and none ended in {MAX_STILL_SECONDS:g} s.",
            )
        if hold.since is not None:  # at midnight there is new room
            seconds = min(seconds, max(0.0, (hold.since + _DAY).timestamp() - clock.wall()))
        return seconds

    def _ask(self, question: Callable[[], T], undo: Callable[[T], None] = lambda _: None) -> Procedure[T]:
        if not self.is_shared:
            return question()
        return (yield InThread(question, undo))  # type: ignore[no-any-return]

    def _undo(self, answer: tuple[bool, Balance], hold: Hold) -> None:
        if answer[0]:
            self.account.release(hold)

    def give_back(self, hold: Hold, *, is_async: bool) -> None:
        """End a hold that was not used, without blocking an event loop."""
        if not hold.claim():
            return
        if self.is_shared and is_async:
            threads().submit(self.account.release, hold)
        else:
            self.account.release(hold)

    def spend(self, amount: Amount) -> None:
        """Take `amount` as spent in this period.

        Raises:
            TypeError: The sums are a ledger's.
        """
        if isinstance(self.account, LedgerAccount):
            raise TypeError("A budget in a ledger is charged by what is recorded there, and by nothing else.")
        self.account.spend(amount, self._period())

    def _period(self) -> datetime | None:
        if not self._per_day:
            return None
        now = datetime.fromtimestamp(clock.wall(), UTC)
        return now.replace(hour=0, minute=0, second=0, microsecond=0)

    def _refuse(self, amount: Amount, balance: Balance, why: str) -> NoReturn:
        from lc_service.accounting.budget.exceeded import BudgetExceeded  # noqa: PLC0415  imports langgraph

        def told(some: Amount | Limit) -> str:
            parts = []
            if self.limit.usd is not None:
                parts.append(f"{some.usd:.6f} USD")
            if self.limit.tokens is not None:
                parts.append(f"{some.tokens:,} tokens")
            if self.limit.requests is not None:
                parts.append(f"{some.requests:,} requests")
            return " and ".join(parts)

        raise BudgetExceeded(
            f"The budget {self.name} has no room for this call, so nothing was sent: "
            f"limit {told(self.limit)}, spent {told(balance.spent)}, "
            f"reserved by calls under way {told(balance.reserved)}, needed {told(amount)}. {why} "
            "Raise the limit"
            + (", or ask for less, such as a smaller max_tokens" if amount.tokens else "")
            + (", or wait for the next day, which begins at 00:00 UTC." if self._per_day else "."),
            budget=self.name,
            limit=self.limit,
            spent=balance.spent,
            reserved=balance.reserved,
            requested=amount,
        )
