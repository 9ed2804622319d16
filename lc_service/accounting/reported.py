"""What an answer tells about itself: its usage, the model that gave it, the service tier it was served on.

Reads LangChain's results of any provider, whole or streamed. Estimates nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from lc_service.accounting.usage import TokenUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What an answer told; None where it did not.

    Attributes:
        usage: Its tokens.
        model: The model that answered.
        service_tier: The tier that it was served on, which sets the price.
        is_cached: Whether LangChain's cache answered, and nothing was used.
        finish_reasons: Why each choice ended, in the provider's word; none where it has no such word.
    """

    usage: TokenUsage | None = None
    model: str | None = None
    service_tier: str | None = None
    is_cached: bool = False
    finish_reasons: tuple[str, ...] = ()


def read_result(output: Mapping[str, Any] | None, generations: Sequence[Generation]) -> Reported:
    """Read a result: its `llm_output` and the generations of one prompt.

    `llm_output` comes first: with several choices each message repeats the whole call's usage.
    """
    output = output or {}
    message = first_message(generations)
    metadata: Mapping[str, Any] = message.response_metadata if message is not None else {}
    told = message.usage_metadata if message is not None else None
    # LangChain's cache marks a hit by zeroing its cost
    is_cached = not output and told is not None and "total_cost" in told
    return Reported(
        usage=TokenUsage() if is_cached else read_usage(output.get("token_usage") or told),
        model=output.get("model_name") or model_name(metadata),
        service_tier=output.get("service_tier") or metadata.get("service_tier"),
        is_cached=is_cached,
        finish_reasons=finish_reasons(generations),
    )


def finish_reasons(generations: Iterable[Generation]) -> tuple[str, ...]:
    """Return why each choice ended, of those that tell."""
    told = ((generation.generation_info or {}).get("finish_reason") for generation in generations)
    return tuple(str(reason) for reason in told if reason)


def read_usage(usage: object) -> TokenUsage | None:
    """Return `usage` as `TokenUsage.read` does, or None where it is none."""
    try:
        return TokenUsage.read(usage)
    except TypeError:
        return None


def model_name(metadata: Mapping[str, Any]) -> str | None:
    """Return the model's name in a message's response metadata."""
    return metadata.get("model_name") or metadata.get("model")


def first_message(generations: Iterable[Generation]) -> AIMessage | None:
    """Return the first answer among `generations`."""
    for generation in generations:
        if isinstance(generation, ChatGeneration) and isinstance(generation.message, AIMessage):
            return generation.message
    return None
