"""What a failed attempt cost: told by the error, or unknown, or nothing.

An attempt that the server refused cost nothing. One that broke off, or that nobody waited for, may have been
billed in full, and only the server knows.
"""

from __future__ import annotations

import asyncio
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


_MAY_BE_BILLED = frozenset(
    {
        ErrorKind.TRUNCATED,
        ErrorKind.TIMEOUT,
        ErrorKind.CANCELLED,
        ErrorKind.CONNECTION,
        ErrorKind.REFUSED_ANSWER,
    }
)


def may_be_billed(error: BaseException) -> bool:
    """Whether a server may have worked on, and billed, what `error` ended."""
    if isinstance(error, (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)):
        return True
    verdict = classify(error)
    return verdict.kind in _MAY_BE_BILLED and verdict.status_code is None and not _was_never_sent(error)


def _was_never_sent(error: BaseException) -> bool:
    """Whether no connection came about, so that the server never saw the request."""
    link: BaseException | None = error
    while link is not None:
        is_aiohttps = type(link).__name__ in ("ClientConnectorError", "ClientConnectorDNSError")
        if is_aiohttps or isinstance(link, (httpx2.ConnectError, ConnectionRefusedError)):
            return True
        link = link.__cause__
    return False
