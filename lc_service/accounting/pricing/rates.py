"""Rates: what each kind of token costs in a call of a certain length, in whole units that never round.

A kind of token without a known rate makes the sum None, never 0. Knows no models, dates or service tiers.
"""

from __future__ import annotations

from decimal import Context, Decimal
from typing import NamedTuple

from lc_service.accounting.usage import TokenUsage

_EXACT = Context(prec=60)  # not the caller's, which may round
IMPOSSIBLE = "its usage is impossible (negative, or a part above the whole)"
NO_AUDIO_PRICE = "it used audio tokens, for which there is no price"
UNTOLD_CACHED_AUDIO = "its usage does not tell how much of the cached input was audio"


class KindPrices(NamedTuple):
    """USD for a million tokens of each kind; None where nobody knows. Defaults: as uncached input."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    audio_input: Decimal | None = None
    cached_audio_input: Decimal | None = None
    audio_output: Decimal | None = None


class Rates(NamedTuple):
    """What each token costs in a call with more input tokens than `above`, in units of 10**exponent USD."""

    above: int
    exponent: int
    input: int
    output: int
    cached_input: int
    cache_write: int
    audio_input: int | None
    cached_audio_input: int | None
    audio_output: int | None

    @classmethod
    def of(cls, above: int, usd_per_million: KindPrices) -> Rates:
        """Make them of prices: cached or written input without a price of its own costs as any input."""
        known = [each for each in usd_per_million if each is not None]
        exponent = min(int(each.as_tuple().exponent) for each in known)
        inputs, output, cached, written, audio, cached_audio, audio_output = (
            None if each is None else int(_EXACT.scaleb(each, -exponent)) for each in usd_per_million
        )
        if inputs is None or output is None:
            raise TypeError("Text tokens need prices.")
        return cls(
            above,
            exponent - 6,
            inputs,
            output,
            inputs if cached is None else cached,
            inputs if written is None else written,
            audio,
            audio if cached is None and cached_audio is None else cached_audio,
            audio_output,
        )

    def highest(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Return the most that so many tokens can cost, of whatever kinds they are."""
        dearest_input = max(
            self.input,
            self.cached_input,
            self.cache_write,
            self.audio_input or 0,
            self.cached_audio_input or 0,
        )
        dearest_output = max(self.output, self.audio_output or 0)
        return _usd(input_tokens * dearest_input + output_tokens * dearest_output, self.exponent)


Steps = tuple[Rates, ...]  # the highest first, the last for any call


def charge(steps: Steps, usage: TokenUsage) -> Decimal | str:
    """Return USD for one call's tokens, or say why nobody can tell."""
    inputs, cached, written = usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens
    outputs = usage.output_tokens
    audio_input, audio_output = usage.audio_input_tokens, usage.audio_output_tokens
    uncached = inputs - cached - written
    if (
        uncached < 0 or cached < 0 or written < 0 or outputs < 0
        or not 0 <= audio_input <= inputs or not 0 <= audio_output <= outputs
        or not 0 <= usage.reasoning_tokens <= outputs
        or not 0 <= usage.accepted_prediction_tokens <= outputs
        or not 0 <= usage.rejected_prediction_tokens <= outputs
    ):  # fmt: skip
        return IMPOSSIBLE
    for rates in steps:
        if inputs > rates.above:
            break
    units = uncached * rates.input + cached * rates.cached_input + outputs * rates.output
    if written:
        units += written * rates.cache_write
    if audio_input or audio_output:
        surcharge = _audio_surcharge(rates, usage)
        if isinstance(surcharge, str):
            return surcharge
        units += surcharge
    return _usd(units, rates.exponent)


def highest(steps: Steps, input_tokens: int, output_tokens: int) -> Decimal:
    """Return the most that a call with up to so many tokens can cost, at whatever step it comes to lie."""
    return max(rates.highest(input_tokens, output_tokens) for rates in steps if input_tokens > rates.above)


def _audio_surcharge(rates: Rates, usage: TokenUsage) -> int | str:
    """Return what the audio tokens cost beyond text; usage does not tell how many of them were cached."""
    units = 0
    if usage.audio_output_tokens:
        if rates.audio_output is None:
            return NO_AUDIO_PRICE
        units = usage.audio_output_tokens * (rates.audio_output - rates.output)
    audio, cached = usage.audio_input_tokens, usage.cached_input_tokens
    if not audio:
        return units
    if rates.audio_input is None:
        return NO_AUDIO_PRICE
    if usage.cache_write_tokens and rates.cache_write != rates.input:
        return UNTOLD_CACHED_AUDIO
    fewest, most = max(0, audio + cached - usage.input_tokens), min(audio, cached)
    saved = 0
    if most:
        if rates.cached_audio_input is None:
            return NO_AUDIO_PRICE
        saved = (rates.audio_input - rates.input) - (rates.cached_audio_input - rates.cached_input)
        if saved and fewest != most:
            return UNTOLD_CACHED_AUDIO
    return units + audio * (rates.audio_input - rates.input) - most * saved


def _usd(units: int, exponent: int) -> Decimal:
    return _EXACT.scaleb(Decimal(units), exponent) if units else Decimal(0)
