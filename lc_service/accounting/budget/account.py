"""Where a budget keeps its sums: in this process, or in a ledger that many processes share.

Invariant: room is given only where what is spent, what is reserved and the new amount stay within the limit
together. Does not wait, and decides nothing about who comes first.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Protocol, TypeVar
from uuid import UUID

from langchain_core.exceptions import ModelError

from lc_service.accounting.budget.waiting_line import Hold, WaitingLine
from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.spending import Amount, AttemptRequest, Balance, Limit, Scope, charge

logger = logging.getLogger(__name__)

LEASE_SECONDS = 600.0
"""After that long a ledger counts a reservation as spent, unless its attempt was recorded or given back."""
T = TypeVar("T")


class BudgetUnavailableError(ModelError):
    """Raise when a budget's ledger cannot be asked: nobody knows what is left, so nothing is sent."""


class ReservingLedger(Protocol):
    """What a budget needs of a ledger. All of it blocks and may raise.

    An attempt has one reservation in a ledger. A second `try_reserve` for it, by another budget, does not
    count the first one against it, and leaves the greater amount of both.
    """

    def try_reserve(  # noqa: PLR0917  the ledger's own signature
        self,
        request: AttemptRequest,
        amount: Amount,
        limit_tokens: int | None,
        limit_usd: Decimal | None,
        scope: Scope,
        lease_seconds: float,
    ) -> tuple[bool, Balance]:
        """Reserve `amount` where the scope's balance leaves room; say whether, and the balance before."""

    def release(self, call_id: UUID, attempt: int) -> None:
        """Give back what was reserved for an attempt that was not sent."""

    def balance(self, scope: Scope) -> Balance:
        """Return what is spent and reserved."""


class LocalAccount:
    """A budget's sums in this process. Thread-safe; a hold is closed without waiting for anybody."""

    def __init__(self, limit: Limit, line: WaitingLine) -> None:
        self._limit = limit
        self._line = line
        self._lock = threading.Lock()
        self._since: datetime | None = None
        self._balance = Balance()
        # Whoever has the lock posts what others closed meanwhile: a stream that the garbage collector closes
        # may find its own thread in here.
        self._closed: deque[tuple[Hold, Amount]] = deque()

    def try_reserve(self, hold: Hold) -> tuple[bool, Balance]:
        """Reserve, if there is room; say whether, and the balance before."""
        with self._lock:
            self._post()
            self._turn_to(hold.since)
            hold.since = self._since
            balance = self._balance
            reserved = balance.reserved + hold.amount
            has_room = self._limit.has_room_for(balance.spent + reserved)
            if has_room:
                self._balance = Balance(spent=balance.spent, reserved=reserved)
                self._line.opened(hold)
        self._post_all()
        return has_room, balance

    def balance(self, since: datetime | None) -> Balance:
        """Return what is spent and reserved in the period."""
        with self._lock:
            self._post()
            self._turn_to(since)
            balance = self._balance
        self._post_all()
        return balance

    def settle(self, hold: Hold, record: AttemptRecord) -> None:
        """End a reservation: what `record` says is spent, nothing stays reserved. Never raises or waits."""
        try:
            charged = charge(record, in_usd=self._limit.usd is not None)
        except Exception as error:  # noqa: BLE001  an answer must not be lost because nobody can price it
            logger.warning(
                "An attempt could not be priced (%s); it is charged as reserved.", type(error).__name__
            )
            charged = hold.amount
        if hold.amount.requests:
            charged = replace(charged, requests=hold.amount.requests)
        self._close(hold, charged)

    def release(self, hold: Hold) -> None:
        """End a reservation that was not used. Never raises or waits."""
        self._close(hold, Amount())

    def spend(self, amount: Amount, since: datetime | None) -> None:
        """Take `amount` as spent, room or not."""
        with self._lock:
            self._post()
            self._turn_to(since)
            self._balance = replace(self._balance, spent=self._balance.spent + amount)
        self._post_all()

    def is_held_elsewhere(self, balance: Balance, since: datetime | None) -> bool:  # noqa: ARG002  as a ledger's
        """Say whether another process holds room: never."""
        return False

    def _close(self, hold: Hold, charged: Amount) -> None:
        self._closed.append((hold, charged))
        self._post_all()

    def _post_all(self) -> None:
        while self._closed and self._lock.acquire(blocking=False):
            try:
                self._post()
            finally:
                self._lock.release()

    def _post(self) -> None:
        while self._closed:
            hold, charged = self._closed.popleft()
            if hold.since == self._since:  # else it belongs to a day that is over
                spent, reserved = self._balance.spent + charged, self._balance.reserved - hold.amount
                self._balance = Balance(spent=spent, reserved=reserved)
            self._line.closed(hold)

    def _turn_to(self, since: datetime | None) -> None:
        """Begin a new period; never an old one again, even if the machine's clock is set back."""
        if since is not None and (self._since is None or since > self._since):
            self._since, self._balance = since, Balance()


class LedgerAccount:
    """A budget's sums in a ledger. Thread-safe; everything but `settle` blocks."""

    def __init__(self, limit: Limit, line: WaitingLine, ledger: ReservingLedger, tag: str | None) -> None:
        self._limit = limit
        self._line = line
        self._ledger = ledger
        self._tag = tag

    def try_reserve(self, hold: Hold) -> tuple[bool, Balance]:
        """Reserve, if there is room; say whether, and the balance before.

        Raises:
            BudgetUnavailableError: The ledger cannot be asked.
        """
        request = hold.request
        if hold.since is not None and request.at < hold.since:  # it waited past midnight
            request = replace(request, at=hold.since)
        has_room, balance = _asked(
            lambda: self._ledger.try_reserve(
                request,
                hold.amount,
                self._limit.tokens,
                self._limit.usd,
                Scope(since=hold.since, tag=self._tag),
                LEASE_SECONDS,
            )
        )
        if has_room:
            self._line.opened(hold)
        return has_room, balance

    def balance(self, since: datetime | None) -> Balance:
        """Return what is spent and reserved in the period.

        Raises:
            BudgetUnavailableError: The ledger cannot be asked.
        """
        return _asked(lambda: self._ledger.balance(Scope(since=since, tag=self._tag)))

    def settle(self, hold: Hold, record: AttemptRecord) -> None:  # noqa: ARG002  the ledger has it already
        """Note that the ledger recorded the attempt, which ended its reservation. Never raises or waits."""
        self._line.closed(hold)

    def release(self, hold: Hold) -> None:
        """End a reservation that was not used. Never raises: at worst it counts as spent, later."""
        try:
            self._ledger.release(hold.request.call_id, hold.request.attempt)
        except Exception as error:  # noqa: BLE001  whatever a database raises must not hide why it was released
            logger.warning(
                "A budget's reservation could not be given back (%s): it counts as spent from %d s after it "
                "was made.",
                type(error).__name__,
                LEASE_SECONDS,
            )
        self._line.closed(hold)

    def is_held_elsewhere(self, balance: Balance, since: datetime | None) -> bool:
        """Say whether more is reserved than this budget's own holds."""
        here = sum((hold.amount for hold in self._line.open_holds() if hold.since == since), start=Amount())
        return not replace(
            self._limit,
            tokens=None if self._limit.tokens is None else here.tokens,
            usd=None if self._limit.usd is None else here.usd,
        ).has_room_for(balance.reserved)


def _asked(question: Callable[[], T]) -> T:
    try:
        return question()
    except Exception as error:
        raise BudgetUnavailableError(
            f"The ledger that keeps this budget could not be asked ({type(error).__name__}), so nothing was "
            "sent: a budget that is not known may be used up."
        ) from error
