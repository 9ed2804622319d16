"""What a budget sets aside for a request before it is sent: what it will probably take, or the most it can.

Invariant: a request whose price nobody knows is refused, never counted as free. Reserves nothing itself.
"""

from __future__ import annotations

from decimal import Decimal

from langchain_core.exceptions import ModelError

from lc_service.accounting.expected_output import expected
from lc_service.accounting.pricing import max_cost, price
from lc_service.accounting.spending import Amount, AttemptRequest
from lc_service.accounting.usage import TokenUsage

DEFAULT_OUTPUT_TOKENS = 1_000
"""Output tokens of one choice that are expected of a model that has not answered yet."""


class UnpricedModelError(ModelError, ValueError):
    """Raise when a budget in USD is asked for a model, or a service tier, whose price nobody knows."""


class UnboundedRequestError(ModelError, ValueError):
    """Raise when a strict budget is asked for a request whose prompt or answer may be of any length."""


def probable_amount(request: AttemptRequest, *, in_usd: bool) -> Amount:
    """Return what `request` will probably take: as long an answer as 95 % of the model's recent ones.

    Args:
        request: What is about to be sent.
        in_usd: Whether it has to have a price; else `usd` stays 0.

    Raises:
        UnpricedModelError: It has to have a price and none is known.
    """
    output_tokens = 0
    if request.operation != "embeddings":
        learned = expected(request.model, request.choices)
        output_tokens = DEFAULT_OUTPUT_TOKENS * request.choices if learned is None else learned
        if request.max_output_tokens is not None:
            output_tokens = min(output_tokens, request.max_output_tokens)
    usd: Decimal | None = Decimal()
    if in_usd:
        usd = price(
            TokenUsage(input_tokens=request.input_tokens, output_tokens=output_tokens),
            request.model,
            at=request.at,
            operation=request.operation,
            service_tier=request.service_tier,
        )
    return _amount(request, request.input_tokens + output_tokens, usd)


def greatest_amount(request: AttemptRequest, *, in_usd: bool) -> Amount:
    """Return the most that `request` can take, whatever the answer, the cache and the tier it is served by.

    Args:
        request: What is about to be sent.
        in_usd: Whether it has to have a price; else `usd` stays 0.

    Raises:
        UnboundedRequestError: Nothing bounds the prompt or the answer.
        UnpricedModelError: It has to have a price and none is known.
    """
    input_tokens = request.max_input_tokens
    output_tokens = 0 if request.operation == "embeddings" else request.max_output_tokens
    if output_tokens is None:
        raise UnboundedRequestError(
            f"A strict budget sets aside the longest answer that a request allows, and this one to "
            f"{request.model!r} names no bound: give max_tokens, or use a budget with strict=False."
        )
    if input_tokens is None:
        raise UnboundedRequestError(
            f"A strict budget sets aside the most tokens that a prompt can come to, and nobody can say it of "
            f"this one to {request.model!r}, which holds pictures, sounds or files: use a budget with "
            "strict=False."
        )
    usd: Decimal | None = Decimal()
    if in_usd:
        usd = max_cost(
            input_tokens,
            output_tokens,
            request.model,
            at=request.at,
            operation=request.operation,
            service_tier=request.service_tier,
        )
    return _amount(request, input_tokens + output_tokens, usd)


def _amount(request: AttemptRequest, tokens: int, usd: Decimal | None) -> Amount:
    if usd is None:
        tier = f" in the service tier {request.service_tier!r}" if request.service_tier else ""
        raise UnpricedModelError(
            f"A budget in USD cannot hold calls to {request.model!r}{tier}, whose price is not known. Set it "
            "with lc_service.accounting.pricing.set_price(model, ModelPrice(...)), or limit the budget by "
            "tokens=... instead."
        )
    return Amount(tokens=tokens, usd=usd)
