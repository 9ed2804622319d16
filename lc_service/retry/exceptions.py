"""The exceptions of this package, and the words for why an attempt failed.

langchain_core ModelError
├── CircuitOpenError            the endpoint is taken for dead: nothing was sent
├── RequestExceedsLimitError    no waiting makes it fit the limit of tokens: nothing was sent
├── TruncatedResponseError      the end of the answer never came; what did come is in `.partial`
└── ModelAPIError
    ├── MalformedResponseError  a 200 that is not an answer (also a ValueError, as LangChain raises)
    └── ResponseFailedError     the Responses API's "failed" (also a ValueError, as LangChain raises)
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from langchain_core import exceptions as lc

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage


class CircuitOpenError(lc.ModelError):
    """Raise where an endpoint has failed so often that it is left alone. Nothing was sent or billed.

    Not retried: a probe finds out when the endpoint is back. Where a retry of a call met this, its
    `__cause__` is the failure that was to be retried.

    Attributes:
        endpoint: Scheme, host and port.
        failures: Attempts that failed in a row.
        since: When the first of them failed, in UTC.
        retry_after_seconds: Until a probe may go; 0 while one is under way.
        last_error_kind: Why the last of them failed.
    """

    is_retryable = False

    def __init__(
        self,
        *,
        endpoint: str,
        failures: int,
        since: datetime,
        retry_after_seconds: float,
        last_error_kind: ErrorKind,
    ) -> None:
        when = f"may go in {retry_after_seconds:.1f} s" if retry_after_seconds else "is under way"
        super().__init__(
            f"{endpoint} is taken for dead: {failures} attempts in a row have failed since "
            f"{since:%Y-%m-%d %H:%M:%S} UTC, the last one by {last_error_kind}. Nothing was sent. A probe "
            f"{when}; its success lets calls through again. Check the endpoint and the network. "
            "with_fallbacks gives the model a stand-in, CircuitBreaker(is_patient=True) waits, and "
            "circuit_breaker=None switches this off."
        )
        self.endpoint = endpoint
        self.failures = failures
        self.since = since
        self.retry_after_seconds = retry_after_seconds
        self.last_error_kind = last_error_kind

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), (), dict(self.__dict__))


class RequestExceedsLimitError(lc.ModelError):
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
        return _rebuild, (type(self), (), dict(self.__dict__))


class TruncatedResponseError(lc.ModelError):
    """Raise when a stream or an answer stopped before its end was announced.

    A partial answer is never passed off as whole: what had arrived is kept here, and was probably billed.
    `finish_reason="length"` is not this error: that end was announced, and is the caller's own limit.

    Attributes:
        partial: The message as far as it arrived, or None where nothing readable did.
        usage: What the attempt used, a `TokenUsage`: as told, else estimated; None where neither is possible.
    """

    is_retryable = True

    def __init__(self, message: str, *, partial: AIMessage | None = None, usage: Any = None) -> None:
        super().__init__(message)
        self.partial = partial
        self.usage = usage

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, {"partial": self.partial, "usage": self.usage})


class MalformedResponseError(lc.ModelAPIError, ValueError):
    """Raise when a server answered with success and the body is not an API answer.

    Typically a proxy's HTML page or a broken JSON body. The body is not repeated in the message.
    """


class ResponseFailedError(lc.ModelAPIError, ValueError):
    """Raise when the Responses API reports that it could not finish an answer.

    Attributes:
        code: The API's error code, such as `server_error` or `rate_limit_exceeded`, or None.
    """

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.is_retryable = CODE_KINDS.get(code or "", ErrorKind.SERVER_ERROR) in TRANSIENT_KINDS

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, {"code": self.code})


def _rebuild(cls: type[Exception], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exception:
    return cls(*args, **kwargs)


class ErrorKind(StrEnum):
    """Why an attempt failed, one word for each reason that logs, metrics and tables show."""

    RATE_LIMIT = "rate_limit"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    SERVER_ERROR = "server_error"
    CONFLICT = "conflict"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    QUOTA_EXHAUSTED = "quota_exhausted"
    REQUEST_TOO_LARGE = "request_too_large"
    CONTEXT_OVERFLOW = "context_overflow"
    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    NOT_FOUND = "not_found"
    INVALID_REQUEST = "invalid_request"
    REFUSED_ANSWER = "refused_answer"
    CONFIGURATION = "configuration"
    CIRCUIT_OPEN = "circuit_open"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


TRANSIENT_KINDS = frozenset(
    {
        ErrorKind.RATE_LIMIT,
        ErrorKind.TIMEOUT,
        ErrorKind.CONNECTION,
        ErrorKind.SERVER_ERROR,
        ErrorKind.CONFLICT,
        ErrorKind.TRUNCATED,
        ErrorKind.MALFORMED,
    }
)


CODE_KINDS = {
    "insufficient_quota": ErrorKind.QUOTA_EXHAUSTED,
    "billing_hard_limit_reached": ErrorKind.QUOTA_EXHAUSTED,
    "billing_not_active": ErrorKind.QUOTA_EXHAUSTED,
    "context_length_exceeded": ErrorKind.CONTEXT_OVERFLOW,
    "exceed_context_size_error": ErrorKind.CONTEXT_OVERFLOW,  # llama.cpp's, as a type
    "invalid_api_key": ErrorKind.AUTHENTICATION,
    "model_not_found": ErrorKind.NOT_FOUND,
    "rate_limit_exceeded": ErrorKind.RATE_LIMIT,
    "invalid_request_error": ErrorKind.INVALID_REQUEST,
    "invalid_prompt": ErrorKind.INVALID_REQUEST,
    "cancelled": ErrorKind.CANCELLED,
}
