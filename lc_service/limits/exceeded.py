"""`RequestExceedsLimitError`: a request that no waiting makes fit. Sends nothing and logs nothing."""

from __future__ import annotations

from typing import Any

from langchain_core.exceptions import ModelError


class RequestExceedsLimitError(ModelError):
    """Raise before a request is sent that takes more tokens than the limit of a whole minute.

    Attributes:
        requested_tokens: What the request takes, as estimated.
        tokens_per_minute: The limit, as the server told it or `RateLimits` set it.
    """

    is_retryable = False

    def __init__(self, *, requested_tokens: int, tokens_per_minute: float) -> None:
        super().__init__(
            f"The request takes about {requested_tokens:,} tokens, which can never fit the limit of "
            f"{tokens_per_minute:,.0f} tokens a minute. Nothing was sent. Shorten the prompt, lower "
            "max_tokens, or raise the limit (tokens_per_minute in RateLimits, where it is yours)."
        )
        self.requested_tokens = requested_tokens
        self.tokens_per_minute = tokens_per_minute

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.requested_tokens, self.tokens_per_minute)


def _rebuild(requested_tokens: int, tokens_per_minute: float) -> RequestExceedsLimitError:
    return RequestExceedsLimitError(requested_tokens=requested_tokens, tokens_per_minute=tokens_per_minute)
