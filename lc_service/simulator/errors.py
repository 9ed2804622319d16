"""Error answers in OpenAI's words: status, body, headers.

Invariant: every JSON error body is `{"error": {"message", "type", "param", "code"}}`.
It decides nothing; who raises or answers with these does.
"""

from __future__ import annotations

import math
import time
from email.utils import formatdate
from typing import Any

import orjson

from lc_service.simulator.faults import Fault
from lc_service.simulator.limits import Decision, format_duration, retry_after_headers

Headers = list[tuple[bytes, bytes]]

_ORGANIZATION = "org-simulator"


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: What the error says.
        kind: The body's `type`.
        param: The parameter at fault.
        code: The body's `code`.
        headers: Headers beyond the usual.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers: Headers = headers or []

    @property
    def error(self) -> dict[str, Any]:
        """The object under `"error"`."""
        return {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }  # fmt: skip

    @property
    def body(self) -> bytes:
        """The JSON body."""
        return orjson.dumps({"error": self.error})


def rate_limited(model: str, decision: Decision) -> ApiError:
    """Return the 429 of a request that the limits rejected."""
    per_minute = "requests per min (RPM)" if decision.exceeded == "requests" else (
        "tokens per min (TPM)"
    )  # fmt: skip
    where = f"for {model} in organization {_ORGANIZATION} on {per_minute}"
    if decision.retry_after_seconds is None:
        message = (
            f"Request too large {where}: Limit {decision.limit:.0f}, Requested "
            f"{decision.requested:.0f}. The input or output tokens must be reduced in order to run "
            "successfully."
        )
    else:
        message = (
            f"Rate limit reached {where}: Limit {decision.limit:.0f}, Used {decision.used:.0f}, "
            f"Requested {decision.requested:.0f}. Please try again in "
            f"{format_duration(decision.retry_after_seconds)}."
        )
    return ApiError(429, message, decision.exceeded, code="rate_limit_exceeded", headers=decision.headers)


def missing_key() -> ApiError:
    """Return the 401 of a request without an Authorization header."""
    message = (
        "You didn't provide an API key. You need to provide your API key in an Authorization "
        "header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
    )
    return ApiError(401, message)


def wrong_key(key: str) -> ApiError:
    """Return the 401 of a request with another key than the simulator's."""
    return ApiError(
        401, f"Incorrect API key provided: {mask_key(key)}.", code="invalid_api_key"
    )  # fmt: skip


def mask_key(key: str) -> str:
    """Return `key` with all but its ends starred out, as OpenAI's messages show it."""
    if len(key) <= 10:
        return key[:2] + "*" * max(0, len(key) - 2)
    return f"{key[:6]}{'*' * (len(key) - 10)}{key[-4:]}"


def context_length_exceeded(limit: int, tokens: int, param: str = "messages") -> ApiError:
    """Return the 400 of a prompt that does not fit the context window."""
    message = (
        f"This model's maximum context length is {limit} tokens. However, your messages resulted "
        f"in {tokens} tokens. Please reduce the length of the messages."
    )
    return ApiError(400, message, param=param, code="context_length_exceeded")


_SERVER_TEXT = "The server had an error while processing your request. Sorry about that! (simulated)"

# kind of fault -> status, type, code, message
_ANSWERS: dict[str, tuple[int, str, str | None, str]] = {
    "rate_limit": (429, "requests", "rate_limit_exceeded", "Rate limit reached (simulated)."),
    "insufficient_quota": (
        429, "insufficient_quota", "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "server_error": (500, "server_error", None, _SERVER_TEXT),
    "error_event": (500, "server_error", None, _SERVER_TEXT),
    "unavailable": (
        503, "service_unavailable_error", None, "The engine is currently overloaded (simulated)."
    ),
    "gateway_timeout": (504, "server_error", None, "The upstream server timed out (simulated)."),
    "bad_request": (400, "invalid_request_error", None, "Invalid request (simulated)."),
    "unauthorized": (
        401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided (simulated)."
    ),
    "forbidden": (
        403, "invalid_request_error", "unsupported_country_region_territory",
        "Country, region, or territory not supported (simulated).",
    ),
    "not_found": (
        404, "invalid_request_error", "model_not_found",
        "The model does not exist or you do not have access to it (simulated).",
    ),
    "timeout": (408, "server_error", None, "The request took too long to arrive (simulated)."),
    "conflict": (409, "invalid_request_error", None, "The resource was being changed (simulated)."),
    "unprocessable": (
        422, "invalid_request_error", None, "The request could not be processed (simulated)."
    ),
}  # fmt: skip

BAD_GATEWAY_PAGE = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n"
)
"""The HTML body of the `bad_gateway` fault."""


def fault_error(fault: Fault, model: str, context_window_tokens: int, tokens: int) -> ApiError:
    """Return the error answer of a fault that has a JSON error body.

    Args:
        fault: The fault.
        model: The model asked for, for messages that name it.
        context_window_tokens: The simulator's context window, for `context_length`.
        tokens: Tokens of the prompt, for messages that name them.
    """
    if fault.kind == "context_length":
        error = context_length_exceeded(context_window_tokens, max(tokens, context_window_tokens + 1))
    elif fault.kind == "request_too_large":
        decision = Decision(
            is_admitted=False, headers=[], exceeded="tokens", limit=max(1, tokens - 1),
            requested=max(2, tokens), retry_after_seconds=None,
        )  # fmt: skip
        error = rate_limited(model, decision)
    else:
        kind = "rate_limit" if fault.kind.startswith("rate_limit") else fault.kind
        status, type_, code, message = _ANSWERS[kind]
        error = ApiError(status, message, type_, code=code, headers=_hints(fault))
    if fault.message is not None:
        error.message = fault.message
    return error


def _hints(fault: Fault) -> Headers:
    seconds = fault.retry_after_seconds
    if fault.kind == "rate_limit":
        return retry_after_headers(seconds)
    if fault.kind == "rate_limit_seconds":
        return [(b"retry-after", f"{seconds:g}".encode())]
    if fault.kind == "rate_limit_date":
        # HTTP dates have whole seconds: rounded up, so that nobody is told to come too early
        now = math.floor(time.time())
        return [
            (b"date", formatdate(now, usegmt=True).encode()),
            (b"retry-after", formatdate(now + math.ceil(seconds), usegmt=True).encode()),
        ]
    if fault.kind == "rate_limit_reset":
        return [
            (b"x-ratelimit-remaining-requests", b"0"),
            (b"x-ratelimit-reset-requests", format_duration(seconds).encode()),
        ]
    return []
