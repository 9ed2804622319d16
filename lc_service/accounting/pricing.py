"""What a call cost: prices from genai-prices' tables, and the user's own for private models.

Invariant: a price is exact, or it is None; an unknown model or service tier is never 0 and never a guess.
Tokens only: fees for web searches, containers or storage are not in it. No network.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING, NamedTuple

from lc_service import clock
from lc_service.accounting.usage import TokenUsage

if TYPE_CHECKING:
    from genai_prices import types

logger = logging.getLogger(__name__)

_STANDARD_TIERS = frozenset({"default", "standard", "auto"})
_PROVIDER = "openai"  # named, or upstream guesses who serves a model, and finds no embeddings
_KNOWN_KINDS = frozenset({"input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok"})
_EXACT = Context(prec=60)  # not the caller's, which may round
_SECONDS_PER_DAY = 86_400
_MAX_MEMO = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPrice:
    """A price of the user's own, for a private model or a negotiated rate. `set_price` puts it to use.

    Takes `Decimal`, `int` or `str`, and keeps `Decimal`.

    Attributes:
        input_usd_per_million: USD for a million input tokens that were not read from a cache.
        output_usd_per_million: USD for a million output tokens, reasoning included.
        cached_input_usd_per_million: USD for a million cached input tokens; None means the input price.

    Raises:
        TypeError: A price is a float or anything else that is not exact money.
        ValueError: A price is no number, infinite or negative.
    """

    input_usd_per_million: Decimal
    output_usd_per_million: Decimal
    cached_input_usd_per_million: Decimal | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.name != "cached_input_usd_per_million":
                object.__setattr__(self, field.name, _money(field.name, value))


class _Step(NamedTuple):
    """What each token costs in a call with more input tokens than `above`, in units of 10**exponent USD.

    Whole numbers, because they never round, whatever the caller's decimal context.
    """

    above: int
    input_units: int
    cached_input_units: int
    output_units: int
    exponent: int

    @classmethod
    def of(cls, above: int, *usd_per_million: Decimal) -> _Step:
        """Make it of the prices for input, cached input and output."""
        exponent = min(int(each.as_tuple().exponent) for each in usd_per_million)
        inputs, cached, outputs = (int(_EXACT.scaleb(each, -exponent)) for each in usd_per_million)
        return cls(above, inputs, cached, outputs, exponent - 6)


_Steps = tuple[_Step, ...]  # the highest first, the last for any call

_lock = threading.Lock()
_own: dict[str, dict[str | None, _Steps]] = {}
_memo: dict[tuple[str, str | None, str, int], _Steps | str] = {}  # or why there is no price
_warned: set[tuple[str, str]] = set()


def price(
    usage: TokenUsage,
    model: str,
    *,
    at: datetime | None = None,
    operation: str = "chat",
    service_tier: str | None = None,
) -> Decimal | None:
    """Price one call. Thread-safe, never raises for what a server may answer.

    Give it calls, not sums: some models cost more for every token of a call with a long prompt. The first
    call imports genai-prices and its tables, which takes about a quarter of a second.

    The tables are OpenAI's list prices, by model name: a server of your own that answers under one of
    OpenAI's names needs `set_price`. Where a model charges for writing its prompt cache, that surcharge is
    not in the price, because `TokenUsage` does not count written tokens.

    Args:
        usage: The call's tokens.
        model: The name that the server answered with.
        at: When the call was made; without a time zone it is UTC. None means now.
        operation: `"chat"`, or `"embeddings"`, which have no output to pay for.
        service_tier: The response's, or `"batch"` for the Batch API, whose answers do not say so. None,
            `"default"`, `"standard"` and `"auto"` are the standard tier.

    Returns:
        USD, or None where the model, the tier at that time, or the kind of token has no known price, or the
        usage cannot be. Each such reason is logged once for a model, as a warning.
    """
    tier = None if service_tier in _STANDARD_TIERS else service_tier
    own = _own.get(model)
    if own is not None and (tier in own or None in own):
        steps = own.get(tier) or f"no price was set for the service tier {tier!r}"
    else:
        steps = _table_steps(model, at, operation, tier)
    if isinstance(steps, str):
        _warn_once(model, steps)
        return None
    cached = usage.cached_input_tokens
    uncached = usage.input_tokens - cached
    if uncached < 0 or cached < 0 or usage.output_tokens < 0:
        _warn_once(model, "its usage is impossible (negative, or more cached than input tokens)")
        return None
    for step in steps:
        if usage.input_tokens > step.above:
            break
    units = (
        uncached * step.input_units
        + cached * step.cached_input_units
        + usage.output_tokens * step.output_units
    )
    return _EXACT.scaleb(Decimal(units), step.exponent) if units else Decimal(0)


def set_price(model: str, price: ModelPrice | None, *, service_tier: str | None = None) -> None:
    """Set, replace or remove a price of the user's own, for all of this process. Thread-safe.

    It comes before the tables. A model with an own standard price has own prices only: a tier that was not
    set is unknown, not a mixture of own and list prices.

    Args:
        model: The name exactly as the server answers with it.
        price: The price from now on, or None to remove it.
        service_tier: The tier that it is for; the standard one by default.
    """
    tier = None if service_tier in _STANDARD_TIERS else service_tier
    with _lock:
        tiers = dict(_own.get(model, {}))
        if price is None:
            tiers.pop(tier, None)
        else:
            inputs, cached = price.input_usd_per_million, price.cached_input_usd_per_million
            cached = inputs if cached is None else cached
            tiers[tier] = (_Step.of(-1, inputs, cached, price.output_usd_per_million),)
        if tiers:
            _own[model] = tiers  # replaced whole: readers take no lock
        else:
            _own.pop(model, None)


def _money(name: str, value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise TypeError(
            f'{name} takes Decimal, int or str, not {value!r}: write "0.15" rather than 0.15, to be exact.'
        )
    try:
        usd = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"{name} is no number: {value!r}.") from None
    if not usd.is_finite() or usd < 0:
        raise ValueError(f"{name} must be finite and at least 0, not {value!r}.")
    return usd


def _table_steps(model: str, at: datetime | None, operation: str, tier: str | None) -> _Steps | str:
    """Return the day's prices, or why there are none: in the tables a price begins with a day, in UTC."""
    seconds = clock.wall() if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    key = (model, tier, operation, int(seconds // _SECONDS_PER_DAY))
    steps = _memo.get(key)
    if steps is None:
        moment = datetime.fromtimestamp(seconds, UTC)
        steps, holds_all_day = _look_up(model, moment, operation, tier)
        if holds_all_day:
            if len(_memo) >= _MAX_MEMO:  # names come from servers: the memory for them is bounded
                _memo.clear()
            _memo[key] = steps
    return steps


def _look_up(model: str, at: datetime, operation: str, tier: str | None) -> tuple[_Steps | str, bool]:
    """Ask genai-prices, and say whether its answer holds all day."""
    import genai_prices  # noqa: PLC0415  a quarter of a second, for those who price
    from genai_prices import types  # noqa: PLC0415

    context = {"processing": "batch"} if tier == "batch" else {"service_tier": tier} if tier else None
    try:
        found = genai_prices.calc_price(
            genai_prices.Usage(input_tokens=0, output_tokens=0),
            model,
            provider_id=_PROVIDER,
            genai_request_timestamp=at,
            price_context=context,
        )
    except LookupError:
        return "the model is not in the tables", True
    variants = found.model.price_variants or []
    constraints = [variant.constraint for variant in variants]
    if isinstance(found.model.prices, list):
        constraints += [condition.constraint for condition in found.model.prices]
    holds_all_day = not any(isinstance(each, types.TimeOfDateConstraint) for each in constraints)
    if context is not None and not any(  # upstream prices a tier it does not know as standard
        variant.when == context and (variant.constraint is None or variant.constraint.active(at))
        for variant in variants
    ):
        return f"the tables have no price for the service tier {tier!r} at that time", holds_all_day
    return _steps(found.model_price, operation), holds_all_day


def _steps(prices: types.ModelPrice, operation: str) -> _Steps | str:
    from genai_prices import types  # noqa: PLC0415

    kinds = {kind for kind, value in vars(prices).items() if kind.endswith("_mtok") and value is not None}
    if kinds - _KNOWN_KINDS:  # TokenUsage does not tell them apart
        return "it has other prices for other kinds of tokens, such as audio or images"
    inputs, cached, outputs = prices.input_mtok, prices.cache_read_mtok, prices.output_mtok
    if outputs is None and operation == "embeddings":
        outputs = Decimal(0)
    if inputs is None or outputs is None:
        return f"the tables have no token prices for {operation}"
    three = (inputs, inputs if cached is None else cached, outputs)
    starts = {tier.start for each in three if isinstance(each, types.TieredPrices) for tier in each.tiers}

    def above(start: int, each: Decimal | types.TieredPrices) -> Decimal:
        if not isinstance(each, types.TieredPrices):
            return each
        return next((tier.price for tier in reversed(each.tiers) if tier.start <= start), each.base)

    return tuple(
        _Step.of(start, *(above(start, each) for each in three))
        for start in sorted({-1, *starts}, reverse=True)
    )


def _warn_once(model: str, reason: str) -> None:
    with _lock:
        if (model, reason) in _warned or len(_warned) >= _MAX_MEMO:
            return
        _warned.add((model, reason))
    logger.warning(
        "The cost of calls to %.200r is unknown: %.200s. If you know its price, set it with "
        "lc_service.accounting.pricing.set_price(model, ModelPrice(...)), for a service tier of its own with "
        "service_tier=....",
        model,
        reason,
    )
