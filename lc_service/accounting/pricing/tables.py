"""genai-prices' tables: OpenAI's list prices by model, day, service tier and length of the prompt.

Says why where there is no price; never guesses. No network, and no prices of the user's own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from lc_service import clock
from lc_service.accounting.pricing.rates import KindPrices, Rates, Steps

if TYPE_CHECKING:
    from genai_prices import types

_PROVIDER = "openai"  # named, or upstream guesses who serves a model, and finds no embeddings
_KINDS = {  # ours, and upstream's
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "audio_input": "input_audio_mtok",
    "cached_audio_input": "cache_audio_read_mtok",
    "audio_output": "output_audio_mtok",
}
_SECONDS_PER_DAY = 86_400
MAX_MEMO = 4_096

_memo: dict[tuple[str, str | None, str, int], Steps | str] = {}  # or why there is no price


def listed_steps(model: str, at: datetime | None, operation: str, tier: str | None) -> Steps | str:
    """Return the day's prices, or why there are none. Thread-safe, memoised.

    Args:
        model: The name that the server answered with.
        at: When; without a time zone it is UTC, in which the tables' days are too. None means now.
        operation: `"chat"` or `"embeddings"`.
        tier: None for the standard tier, `"batch"` for the Batch API.
    """
    seconds = clock.wall() if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    key = (model, tier, operation, int(seconds // _SECONDS_PER_DAY))
    steps = _memo.get(key)
    if steps is None:
        moment = datetime.fromtimestamp(seconds, UTC)
        steps, holds_all_day = _look_up(model, moment, operation, tier)
        if holds_all_day:
            if len(_memo) >= MAX_MEMO:  # names come from servers: the memory for them is bounded
                _memo.clear()
            _memo[key] = steps
    return steps


def _look_up(model: str, at: datetime, operation: str, tier: str | None) -> tuple[Steps | str, bool]:
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


def _steps(prices: types.ModelPrice, operation: str) -> Steps | str:
    from genai_prices import types  # noqa: PLC0415

    kinds = {kind for kind, value in vars(prices).items() if kind.endswith("_mtok") and value is not None}
    if kinds - set(_KINDS.values()):  # TokenUsage does not tell them apart
        return "it has other prices for other kinds of tokens, such as images"
    each = {ours: getattr(prices, theirs) for ours, theirs in _KINDS.items()}
    if each["output"] is None and operation == "embeddings":
        each["output"] = Decimal(0)
    if each["input"] is None or each["output"] is None:
        return f"the tables have no token prices for {operation}"
    tiered = [price for price in each.values() if isinstance(price, types.TieredPrices)]

    def above(start: int, price: Decimal | types.TieredPrices | None) -> Decimal | None:
        if not isinstance(price, types.TieredPrices):
            return price
        return next((tier.price for tier in reversed(price.tiers) if tier.start <= start), price.base)

    return tuple(
        Rates.of(start, KindPrices._make(above(start, each[kind]) for kind in KindPrices._fields))
        for start in sorted({-1, *(tier.start for price in tiered for tier in price.tiers)}, reverse=True)
    )
