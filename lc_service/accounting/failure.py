"""What a failed attempt cost: told by the error, or unknown, or nothing.

An attempt that the server refused cost nothing. One that broke off, or that nobody waited for, may have been
billed in full, and only the server knows.
"""

from __future__ import annotations

from typing import Any

import httpx2

from lc_service.accounting.usage import TokenUsage
from lc_service.retry.errors import ErrorKind, classify


def paid_usage(error: BaseException) -> TokenUsage | None:
    """Return the usage that came with a failure, or None where none did.

    A truncated answer keeps it on its partial message, a refused or cut structured answer on its completion,
    and an answer that does not fit the caller's schema in the HTTP response that langchain-openai hangs on
    the error.
    """
    partial = getattr(error, "partial", None)
    completion = getattr(error, "completion", None)
    for usage in (
        getattr(partial, "usage_metadata", None),
        getattr(completion, "usage", None),
        _body(getattr(error, "response", None)).get("usage"),
    ):
        if usage:
            try:
                return TokenUsage.read(usage)
            except TypeError:
                continue
    return None


def _body(response: object) -> dict[str, Any]:
    if not isinstance(response, httpx2.Response) or response.status_code != 200:
        return {}
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


# What a server says instead of working on a request, or what is found wrong before it is sent.
_REFUSED = frozenset(
    {
        ErrorKind.RATE_LIMIT,
        ErrorKind.QUOTA_EXHAUSTED,
        ErrorKind.REQUEST_TOO_LARGE,
        ErrorKind.CONTEXT_OVERFLOW,
        ErrorKind.AUTHENTICATION,
        ErrorKind.PERMISSION,
        ErrorKind.NOT_FOUND,
        ErrorKind.INVALID_REQUEST,
        ErrorKind.CONFLICT,
        ErrorKind.CONFIGURATION,
        ErrorKind.CIRCUIT_OPEN,
        ErrorKind.SERVER_ERROR,
    }
)
# What a program's own mistakes raise while a request is built.
_BUILDING_ERRORS = (AttributeError, LookupError, NotImplementedError, TypeError, ValueError)


def may_be_billed(error: BaseException, *, is_sent: bool = True) -> bool:
    """Whether a server may have worked on, and billed, what `error` ended.

    Args:
        error: What ended an attempt or a call.
        is_sent: Whether the request is known to have been sent; else a program's own mistake is taken to
            have come before that.
    """
    if not isinstance(error, Exception):
        return True  # a cancellation, a signal, the end of the process: whoever stopped it did not know
    verdict = classify(error)
    is_refused = verdict.kind in _REFUSED or (verdict.status_code or 0) >= 400
    if is_refused or _was_never_sent(error):
        return False
    is_own_mistake = verdict.kind is ErrorKind.UNKNOWN and isinstance(error, _BUILDING_ERRORS)
    return is_sent or not is_own_mistake


_NEVER_CONNECTED = (httpx2.ConnectError, httpx2.PoolTimeout, ConnectionRefusedError)
_AIOHTTPS_NEVER_CONNECTED = ("ClientConnectorError", "ClientConnectorDNSError", "ConnectionTimeoutError")


def _was_never_sent(error: BaseException) -> bool:
    """Whether no connection came about, so that the server never saw the request."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, _NEVER_CONNECTED) or type(link).__name__ in _AIOHTTPS_NEVER_CONNECTED:
            return True
        # openai's aiohttp transport calls every lost connection a ConnectTimeout (contract-tested)
        if isinstance(link, httpx2.ConnectTimeout) and not type(link.__cause__).__module__.startswith(
            "aiohttp"
        ):
            return True
        link = link.__cause__
    return False
