"""What a call cost, and the most it can cost: by genai-prices' tables, and the user's own prices.

Invariant: a price is exact, or it is None; an unknown model, service tier or kind of token is never 0 and
never a guess. Tokens only: fees for web searches, containers or storage are not in it. No network.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, TypeAlias

from lc_service.accounting.pricing.rates import KindPrices, Rates, Steps, charge, highest
from lc_service.accounting.pricing.tables import MAX_MEMO, listed_steps
from lc_service.accounting.usage import TokenUsage

logger = logging.getLogger(__name__)

_STANDARD_TIERS = frozenset({"default", "standard", "auto"})
# What a project may be set to, and so what "auto" can be served as. Batch jobs go elsewhere.
_PROJECT_TIERS = ("priority", "fast", "flex", "scale")
Money: TypeAlias = Decimal | int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPrice:
    """A price of the user's own, for a private model or a negotiated rate. `set_price` puts it to use.

    Takes `Decimal`, `int` or `str`, and keeps `Decimal`. All are USD for a million tokens.

    Attributes:
        input_usd_per_million: Input tokens that were neither read from a cache nor written to one.
        output_usd_per_million: Output tokens, reasoning and predictions included.
        cached_input_usd_per_million: Cached input tokens; None means the input price.
        cache_write_usd_per_million: Input tokens written to the cache; None means the input price.
        audio_input_usd_per_million: Input tokens that stand for sound; None means unknown.
        cached_audio_input_usd_per_million: Those of them that were cached; None means unknown, or their
            uncached price where cached input has no price of its own either.
        audio_output_usd_per_million: Output tokens that stand for sound; None means unknown.

    Raises:
        TypeError: A price is a float or anything else that is not exact money.
        ValueError: A price is no number, infinite or negative.
    """

    input_usd_per_million: Decimal
    output_usd_per_million: Decimal
    cached_input_usd_per_million: Decimal | None = None
    cache_write_usd_per_million: Decimal | None = None
    audio_input_usd_per_million: Decimal | None = None
    cached_audio_input_usd_per_million: Decimal | None = None
    audio_output_usd_per_million: Decimal | None = None

    if TYPE_CHECKING:  # what it takes is more than what it keeps

        def __init__(
            self,
            *,
            input_usd_per_million: Money,
            output_usd_per_million: Money,
            cached_input_usd_per_million: Money | None = None,
            cache_write_usd_per_million: Money | None = None,
            audio_input_usd_per_million: Money | None = None,
            cached_audio_input_usd_per_million: Money | None = None,
            audio_output_usd_per_million: Money | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.name in ("input_usd_per_million", "output_usd_per_million"):
                object.__setattr__(self, field.name, _money(field.name, value))


_lock = threading.Lock()
_own: dict[str, dict[str | None, Steps]] = {}
_warned: set[tuple[str, str]] = set()


def price(
    usage: TokenUsage,
    model: str,
    *,
    requested_model: str | None = None,
    at: datetime | None = None,
    operation: str = "chat",
    service_tier: str | None = None,
) -> Decimal | None:
    """Price one call. Thread-safe, never raises for what a server may answer.

    Give it calls, not sums: some models cost more for every token of a call with a long prompt. The first
    call imports genai-prices and its tables, which takes about a quarter of a second.

    The tables are OpenAI's list prices, by model name: a server of your own that answers under one of
    OpenAI's names needs `set_price`.

    Args:
        usage: The call's tokens.
        model: The name that the server answered with.
        requested_model: The name that was asked for. A price of your own under that name holds where there
            is none under the answer's: for deployments, aliases, and servers that answer under other names.
        at: When the call was made; without a time zone it is UTC. None means now.
        operation: `"chat"`, or `"embeddings"`, which have no output to pay for.
        service_tier: The response's, or `"batch"` for the Batch API, whose answers do not say so. None,
            `"default"`, `"standard"` and `"auto"` are the standard tier.

    Returns:
        USD, or None where the model, the tier at that time, or a kind of token it used has no known price,
        or the usage cannot be. Each such reason is logged once for a model, as a warning.
    """
    tier = None if service_tier in _STANDARD_TIERS else service_tier
    steps = _steps(model, requested_model, at, operation, tier)
    usd = steps if isinstance(steps, str) else charge(steps, usage)
    if isinstance(usd, str):
        _warn_once(model, usd)
        return None
    return usd


def max_cost(
    input_tokens: int,
    output_tokens: int,
    model: str,
    *,
    at: datetime | None = None,
    operation: str = "chat",
    service_tier: str | None = None,
) -> Decimal | None:
    """Return the most that one request can come to: nothing cached, all of it written to the cache, audio.

    Where `price` has a price for the answer, it is not above this, as long as the answer has no more tokens,
    is made on the same UTC day, and is priced under the same name. Thread-safe.

    The answer's tier may differ from the one asked for. None and `"auto"` are served as the project is set
    up, which a client cannot see: the dearest tier that has a price counts, often twice the standard.
    `"flex"`, `"priority"` and `"fast"` count as themselves or standard, whichever is dearer, for a request
    may be served as standard. `"default"` is always standard: ask for it to bound the cost closely.

    Args:
        input_tokens: The most that the prompt can come to.
        output_tokens: The most that all answers together can come to.
        model: The name that is asked for.
        at: When it is made; without a time zone it is UTC. None means now.
        operation: `"chat"` or `"embeddings"`.
        service_tier: The one that is asked for, or `"batch"`.

    Returns:
        USD, or None where the model or a tier that was asked for by name has no known price; logged as by
        `price`.
    """
    required, optional = _possible_tiers(service_tier)
    most = Decimal(0)
    for tier in (*required, *optional):
        steps = _steps(model, None, at, operation, tier)
        if not isinstance(steps, str):
            most = max(most, highest(steps, input_tokens, output_tokens))
        elif tier in required:
            _warn_once(model, steps)
            return None
    return most


def set_price(model: str, price: ModelPrice | None, *, service_tier: str | None = None) -> None:
    """Set, replace or remove a price of the user's own, for all of this process. Thread-safe.

    It comes before the tables. A model with an own standard price has own prices only: a tier that was not
    set is unknown, not a mixture of own and list prices.

    Args:
        model: The name as the server answers with it, or as it is asked for.
        price: The price from now on, or None to remove it.
        service_tier: The tier that it is for; the standard one by default.
    """
    tier = None if service_tier in _STANDARD_TIERS else service_tier
    with _lock:
        tiers = dict(_own.get(model, {}))
        if price is None:
            tiers.pop(tier, None)
        else:
            tiers[tier] = (Rates.of(-1, KindPrices(*(getattr(price, each.name) for each in fields(price)))),)
        if tiers:
            _own[model] = tiers  # replaced whole: readers take no lock
        else:
            _own.pop(model, None)


def _steps(
    model: str, requested_model: str | None, at: datetime | None, operation: str, tier: str | None
) -> Steps | str:
    if _own:
        for name in (model, requested_model):
            own = _own.get(name) if name is not None else None
            if own is not None and (tier in own or None in own):
                return own.get(tier) or f"no price was set for the service tier {tier!r}"
    return listed_steps(model, at, operation, tier)


def _possible_tiers(asked: str | None) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    """Return the tiers that an answer may have: those that must have a price, and those that need none."""
    if asked is None or asked == "auto":
        return (None,), _PROJECT_TIERS
    if asked in _STANDARD_TIERS:
        return (None,), ()
    if asked == "batch":
        return (asked,), ()
    if asked == "fast":  # answered as "priority"
        return ("priority", None), ("fast",)
    return (asked, None), ()


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


def _warn_once(model: str, reason: str) -> None:
    with _lock:
        if (model, reason) in _warned or len(_warned) >= MAX_MEMO:
            return
        _warned.add((model, reason))
    logger.warning(
        "The cost of calls to %.200r is unknown: %.200s. If you know its price, set it with "
        "lc_service.accounting.pricing.set_price(model, ModelPrice(...)), for a service tier of its own with "
        "service_tier=....",
        model,
        reason,
    )
