"""The words in which a budget and a ledger speak: amounts, and which attempts an amount is about. Values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal
from uuid import UUID

from lc_service.accounting.record import AttemptRecord, Certainty

_EXACT = Context(prec=60)  # not the caller's, which may round: sums of money must come out even


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Tokens, input and output together, their price in USD, and HTTP requests. Adds without rounding.

    Requests are counted where a budget limits them, and are 0 elsewhere.
    """

    tokens: int = 0
    usd: Decimal = Decimal()
    requests: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            tokens=self.tokens + other.tokens,
            usd=_EXACT.add(self.usd, other.usd),
            requests=self.requests + other.requests,
        )

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            tokens=self.tokens - other.tokens,
            usd=_EXACT.subtract(self.usd, other.usd),
            requests=self.requests - other.requests,
        )

    def or_more(self, other: Amount) -> Amount:
        """Return the greater of both, tokens, USD and requests each for itself."""
        return Amount(
            tokens=max(self.tokens, other.tokens),
            usd=max(self.usd, other.usd),
            requests=max(self.requests, other.requests),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The most that may be spent; what is None is not limited."""

    tokens: int | None = None
    usd: Decimal | None = None
    requests: int | None = None

    def has_room_for(self, amount: Amount) -> bool:
        """Say whether all of `amount` stays within the limit, which itself may be reached."""
        return (
            (self.tokens is None or amount.tokens <= self.tokens)
            and (self.usd is None or amount.usd <= self.usd)
            and (self.requests is None or amount.requests <= self.requests)
        )

    def __sub__(self, amount: Amount) -> Limit:
        return Limit(
            tokens=None if self.tokens is None else self.tokens - amount.tokens,
            usd=None if self.usd is None else _EXACT.subtract(self.usd, amount.usd),
            requests=None if self.requests is None else self.requests - amount.requests,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which attempts a budget is about.

    Attributes:
        since: Those that began then or later; all where None.
        tag: Those with this tag; all where None.
    """

    since: datetime | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What is gone of a budget.

    Attributes:
        spent: By attempts that ended, and by those of processes that died before they could say.
        reserved: By attempts that are under way.
    """

    spent: Amount = Amount()
    reserved: Amount = Amount()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRequest:
    """An attempt that is about to be sent, as far as a budget has to know it.

    Attributes:
        call_id: As `AttemptRecord.call_id`.
        attempt: As `AttemptRecord.attempt`; together with `call_id` it names the attempt.
        operation: `"chat"` or `"embeddings"`.
        model: The model that is asked.
        service_tier: The tier that is asked for.
        input_tokens: The prompt's tokens as estimated.
        max_input_tokens: A bound that the prompt cannot exceed; None where nobody knows one.
        max_output_tokens: The longest answer that the request allows, all choices together; None where
            neither the request nor the model's profile says.
        choices: How many answers are asked for (`n`).
        tags: The run's tags.
        at: Now, in UTC.
    """

    call_id: UUID
    attempt: int
    operation: str = "chat"
    model: str
    service_tier: str | None = None
    input_tokens: int
    max_input_tokens: int | None
    max_output_tokens: int | None = None
    choices: int = 1
    tags: tuple[str, ...] = ()
    at: datetime


def charge(record: AttemptRecord, *, in_usd: bool = True) -> Amount:
    """Return what an attempt takes from a budget: what is known of it, else what was reserved for it.

    An estimate or an unknown usage may be less than the bill, so it never counts less than the reservation.

    Args:
        record: The attempt.
        in_usd: Whether to ask for its price; else `usd` is 0.
    """
    if in_usd:
        return charge_at(record, record.cost_usd)
    return Amount(tokens=_charged_tokens(record))


def charge_at(record: AttemptRecord, cost_usd: Decimal | None) -> Amount:
    """Return what `charge` does, where the record's cost is known already to be `cost_usd`."""
    reserved_usd = record.reserved_usd or Decimal()
    if record.certainty is Certainty.MEASURED:
        usd = reserved_usd if cost_usd is None else cost_usd
    else:
        usd = max(cost_usd or Decimal(), reserved_usd)
    return Amount(tokens=_charged_tokens(record), usd=usd)


def _charged_tokens(record: AttemptRecord) -> int:
    used = record.usage.total_tokens
    return used if record.certainty is Certainty.MEASURED else max(used, record.reserved_tokens)
