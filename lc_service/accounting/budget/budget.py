"""A budget in USD, tokens or requests: room is reserved before an attempt, and settled when it has ended.

Invariant: a strict budget's spent and reserved amounts together never exceed its limit. Sends nothing, and
records nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Self

from lc_service.accounting.budget.allowance import Allowance
from lc_service.accounting.budget.steps import Procedure, arun, run, threads
from lc_service.accounting.budget.waiting_line import Hold
from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.spending import Amount, AttemptRequest, Limit

if TYPE_CHECKING:
    from lc_service.accounting.ledger import UsageLedger

_count = itertools.count()


class Reservation:
    """Room for one attempt, in one budget or several. Thread-safe.

    Attributes:
        amount: What is set aside; over several budgets the greatest. It goes into the attempt's record.
    """

    def __init__(self, holds: Sequence[tuple[Allowance, Hold]]) -> None:
        self._holds = holds
        self.amount = reduce(Amount.or_more, (hold.amount for _, hold in holds), Amount())

    def settle(self, record: AttemptRecord) -> None:
        """Charge the attempt and give back the rest; only the first `settle` or `release` does anything.

        Where a budget has a ledger, `record` must have been recorded there before: that is what charges it.
        Never raises and never blocks.
        """
        for allowance, hold in self._holds:
            if hold.claim():
                allowance.account.settle(hold, record)

    def release(self) -> None:
        """Give all of it back, because nothing was sent. A ledger is told before this returns."""
        for allowance, hold in self._holds:
            allowance.give_back(hold, is_async=False)

    async def arelease(self) -> None:
        """Do as `release`, without blocking the event loop, and even if this task is cancelled meanwhile."""
        if any(allowance.is_shared for allowance, _ in self._holds):
            await asyncio.shield(asyncio.wrap_future(threads().submit(self.release)))
        else:
            self.release()


class Budget:
    """A limit on what calls may spend, asked before each attempt is sent.

    Share one among threads, tasks, event loops and models. A call that does not fit because of what other
    calls have reserved waits for them, in the order of arrival; one that cannot fit any more is refused with
    `BudgetExceeded`.

    Without a ledger it lives in this process, and begins at zero with it. With one it holds for all processes
    that use the ledger, and across restarts; where the ledger cannot be asked, nothing is sent.

    Args:
        usd: The most in USD; None for no limit. A float means what it looks like: 0.1 is a tenth.
        tokens: The most tokens, input and output together; None for no limit. Both limits may be given.
        strict: Set aside the most that each request allows, so that the limit is never exceeded. Else what
            the model's recent answers let expect, so that the last calls may exceed it a little.
        requests: The most HTTP requests, retries counted; None for no limit. In this process only.
        per_day: Begin anew at midnight UTC. An attempt belongs to the day on which it began.
        tag: Only calls with this LangChain tag count, and only they are held to it.
        ledger: Where the sums are kept.
        name: What errors call it.

    Attributes:
        limit: What it allows.
        ledger: As given; a model with this budget records its attempts there.

    Raises:
        ValueError: There is no limit, or one that is none.
    """

    def __init__(
        self,
        usd: Decimal | str | float | None = None,
        tokens: int | None = None,
        strict: bool = False,
        *,
        requests: int | None = None,
        per_day: bool = False,
        tag: str | None = None,
        ledger: UsageLedger | None = None,
        name: str | None = None,
    ) -> None:
        if usd is None and tokens is None and requests is None:
            raise ValueError("A budget needs a limit: give usd=..., tokens=..., requests=... or several.")
        if requests is not None and ledger is not None:
            raise ValueError("A ledger keeps no count of requests under way: give requests=... without one.")
        if tag is not None and not (isinstance(tag, str) and tag):
            raise ValueError(f"tag must be a text that is not empty, not {tag!r}.")
        self._order = next(_count)
        self.limit = Limit(
            usd=_usd(usd),
            tokens=_count_of("tokens", tokens, "1_000_000"),
            requests=_count_of("requests", requests, "20"),
        )
        self.strict = strict
        self.per_day = per_day
        self.tag = tag
        self.name = name
        self.ledger = ledger
        if usd is not None:  # here, rather than in an event loop at the first call: a quarter of a second
            import genai_prices  # noqa: F401, PLC0415
        self._allowance = Allowance(
            name or repr(self), self.limit, is_strict=strict, per_day=per_day, tag=tag, ledger=ledger
        )

    @property
    def spent(self) -> Amount:
        """What ended attempts took, of this day where the budget is daily. Asks the ledger, if there is one.

        Without a ledger, `usd` stays 0 where the limit is in tokens alone: nothing is priced for it.
        """
        return self._allowance.balance().spent

    @property
    def reserved(self) -> Amount:
        """What is set aside for attempts under way. Asks the ledger, if there is one."""
        return self._allowance.balance().reserved

    @property
    def remaining(self) -> Limit:
        """What could be reserved now; None for what has no limit, negative where it was exceeded."""
        balance = self._allowance.balance()
        return self.limit - (balance.spent + balance.reserved)

    def reserve(self, request: AttemptRequest) -> Reservation:
        """Set room aside for an attempt, waiting for others where that helps. Blocks the thread.

        Args:
            request: The attempt, and the most that it can use.

        Raises:
            BudgetExceeded: It does not fit and no wait helps. Nothing must be sent.
            UnpricedModelError: The limit is in USD and the model's price is not known.
            UnboundedRequestError: The budget is strict and nothing bounds the prompt or the answer.
            BudgetUnavailableError: The ledger cannot be asked.
        """
        return reserve_all((self,), request)

    async def areserve(self, request: AttemptRequest) -> Reservation:
        """Do as `reserve`, without blocking the event loop. A cancelled wait leaves nothing reserved."""
        return await areserve_all((self,), request)

    def spend(self, amount: Amount) -> None:
        """Charge what was spent elsewhere, whether there is room for it or not. Thread-safe.

        Args:
            amount: Tokens, USD and requests; what is not given counts 0.

        Raises:
            TypeError: The budget has a ledger, which charges what is recorded there.
        """
        self._allowance.spend(amount)

    def __repr__(self) -> str:
        parts = [] if self.limit.usd is None else [f"usd={str(self.limit.usd)!r}"]
        parts += [] if self.limit.tokens is None else [f"tokens={self.limit.tokens}"]
        parts += [] if self.limit.requests is None else [f"requests={self.limit.requests}"]
        parts += [f"{name}=True" for name in ("strict", "per_day") if getattr(self, name)]
        parts += [f"{name}={getattr(self, name)!r}" for name in ("tag", "name") if getattr(self, name)]
        if self.ledger is not None:
            parts.append(f"ledger={type(self.ledger).__name__}")  # its URL may hold a password
        return f"Budget({', '.join(parts)})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.ledger is None:
            raise TypeError(
                "A budget without a ledger lives in one process: a copy in another one would double the "
                "limit. Give it a ledger=UsageLedger(...), which both share, or make a smaller budget there."
            )
        return partial(
            type(self),
            self.limit.usd,
            self.limit.tokens,
            self.strict,
            per_day=self.per_day,
            tag=self.tag,
            ledger=self.ledger,
            name=self.name,
        ), ()

    def __copy__(self) -> Self:
        return self  # a model that is copied keeps to the same budget

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def reserve_all(budgets: Iterable[Budget], request: AttemptRequest) -> Reservation:
    """Set room aside in each of `budgets` that `request` counts for, in all of them or in none.

    They are asked in the order in which they were made, so that calls never wait for each other in a circle.
    Blocks the thread; raises as `Budget.reserve`.
    """
    return run(_reserving(budgets, request, is_async=False))


async def areserve_all(budgets: Iterable[Budget], request: AttemptRequest) -> Reservation:
    """Do as `reserve_all`, without blocking the event loop."""
    return await arun(_reserving(budgets, request, is_async=True))


def _reserving(
    budgets: Iterable[Budget], request: AttemptRequest, *, is_async: bool
) -> Procedure[Reservation]:
    ordered = sorted(set(budgets), key=lambda budget: budget._order)  # noqa: SLF001  of this module
    allowances = [
        budget._allowance  # noqa: SLF001  of this module
        for budget in ordered
        if budget.tag is None or budget.tag in request.tags
    ]
    wanted = [(allowance, allowance.amount_of(request)) for allowance in allowances]
    if len(wanted) > 1:  # no wait for one, if another has nothing left
        for allowance, amount in wanted:
            allowance.refuse_hopeless(amount)
    holds: list[tuple[Allowance, Hold]] = []
    try:
        for allowance, amount in wanted:
            hold = yield from allowance.taking(request, amount, is_async=is_async)
            holds.append((allowance, hold))
    except BaseException:
        for allowance, hold in holds:
            allowance.give_back(hold, is_async=is_async)
        raise
    return Reservation(holds)


def _usd(value: Decimal | str | float | None) -> Decimal | None:
    if value is None:
        return None
    try:
        usd = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f'usd must be an amount of money such as 0.5, 5 or "0.50", not {value!r}.') from None
    if not usd.is_finite() or usd < 0:
        raise ValueError(f"usd must be finite and at least 0, not {value!r}.")
    return usd


def _count_of(name: str, value: int | None, example: str) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} must be a whole number of at least 0, such as {example}, not {value!r}.")
    return value
