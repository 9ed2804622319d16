"""Token usage as a value: what a call used.

`input_tokens` includes cached ones, `output_tokens` includes reasoning, as every provider counts them.
No I/O and no prices here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """Tokens of one call, or a sum of several.

    Attributes:
        input_tokens: Tokens of the prompt, cached ones included.
        cached_input_tokens: Those of `input_tokens` that the provider read from its prompt cache.
        cache_write_tokens: Those of `input_tokens` that the provider wrote to its prompt cache.
        audio_input_tokens: Those of `input_tokens` that stand for sound.
        output_tokens: Tokens of the answer, all choices and reasoning included.
        reasoning_tokens: Those of `output_tokens` that were spent on reasoning.
        audio_output_tokens: Those of `output_tokens` that stand for sound.
        accepted_prediction_tokens: Those of `output_tokens` that a predicted output had foreseen.
        rejected_prediction_tokens: Those of `output_tokens` that were predicted, paid for and not used.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    audio_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_output_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: TokenUsage) -> TokenUsage:
        sums = map(operator.add, _values(self), _values(other))
        return TokenUsage(**dict(zip(USAGE_FIELDS, sums, strict=True)))

    @classmethod
    def read(cls, usage: object) -> Self:
        """Read usage in any of its forms: a mapping or an object, as sent by the API or made by LangChain.

        Knows Chat Completions (`prompt_tokens`), the Responses API and LangChain's `UsageMetadata`
        (`input_tokens`), and embeddings; details that are missing count 0.

        Args:
            usage: The mapping or the object.

        Raises:
            TypeError: `usage` has neither an input nor an output count.
        """
        get = _getter(usage)
        inputs, outputs = (
            _first(get, "prompt_tokens", "input_tokens"),
            _first(get, "completion_tokens", "output_tokens"),
        )
        if inputs is None and outputs is None:
            raise TypeError(
                "Token usage needs prompt_tokens and completion_tokens, or input_tokens and output_tokens; "
                f"this {type(usage).__name__} has none of them."
            )
        of_input = _details(get, "prompt_tokens_details", "input_tokens_details", "input_token_details")
        of_output = _details(
            get, "completion_tokens_details", "output_tokens_details", "output_token_details"
        )
        return cls(
            input_tokens=inputs or 0,
            cached_input_tokens=_tiered(of_input, "cached_tokens", "cache_read"),
            cache_write_tokens=_tiered(of_input, "cache_write_tokens", "cache_creation"),
            audio_input_tokens=_first(of_input, "audio_tokens", "audio") or 0,
            output_tokens=outputs or 0,
            reasoning_tokens=_tiered(of_output, "reasoning_tokens", "reasoning"),
            audio_output_tokens=_first(of_output, "audio_tokens", "audio") or 0,
            accepted_prediction_tokens=_first(of_output, "accepted_prediction_tokens") or 0,
            rejected_prediction_tokens=_first(of_output, "rejected_prediction_tokens") or 0,
        )


USAGE_FIELDS = tuple(field.name for field in fields(TokenUsage))
"""The kinds of tokens that `TokenUsage` tells apart, in its order."""
_values = operator.attrgetter(*USAGE_FIELDS)


_Getter = Callable[[str], Any]


def _nothing(_: str) -> None:
    return None


def _getter(holder: object) -> _Getter:
    if holder is None:
        return _nothing
    return holder.get if isinstance(holder, Mapping) else lambda name: getattr(holder, name, None)


def _first(get: _Getter, *names: str) -> int | None:
    for name in names:
        value = get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _tiered(get: _Getter, wire_name: str, name: str) -> int:
    """Read a detail under the API's name or LangChain's, which has the service tier before it.

    A sum of several calls' metadata can have more than one tier.
    """
    number = _first(get, wire_name)
    if number is not None or get is _nothing:
        return number or 0
    return sum(_first(get, tier + name) or 0 for tier in ("", "priority_", "flex_"))


def _details(get: _Getter, *names: str) -> _Getter:
    for name in names:
        if (details := get(name)) is not None:
            return _getter(details)
    return _nothing
