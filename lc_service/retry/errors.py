"""What went wrong, and whether the same request may succeed if it is sent again.

Reads this package's exceptions, `openai.*Error`, LangChain's `ModelError` family, transport errors, and
whatever else carries an HTTP status. Never looks into prompts or answers, and raises nothing.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

import httpx2
import openai
from langchain_core import exceptions as lc

from lc_service.retry.exceptions import (
    CODE_KINDS,
    TRANSIENT_KINDS,
    CircuitOpenError,
    ErrorKind,
    MalformedResponseError,
    RequestExceedsLimitError,
    ResponseFailedError,
    TruncatedResponseError,
)
from lc_service.retry.retry_after import retry_after_seconds

__all__ = [
    "CircuitOpenError",
    "ErrorKind",
    "MalformedResponseError",
    "RequestExceedsLimitError",
    "ResponseFailedError",
    "TruncatedResponseError",
    "Verdict",
    "classify",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an exception means for the next attempt.

    Attributes:
        kind: Why it failed.
        is_transient: Whether sending the same request again may succeed.
        retry_after_seconds: How long the server asked to wait, or None where it did not say.
        status_code: The HTTP status, or None where no response came.
        request_id: The server's `x-request-id`, or None.
    """

    kind: ErrorKind
    is_transient: bool
    retry_after_seconds: float | None = None
    status_code: int | None = None
    request_id: str | None = None


def classify(exc: BaseException) -> Verdict:
    """Say why `exc` happened and whether to try again.

    Rate limits, timeouts, connection errors, 408, 409, 5xx, truncated and malformed answers are transient.
    An exhausted quota, a request that can never fit, context overflow and the other 4xx are not. A server's
    `x-should-retry: false` is believed, as the OpenAI SDKs do; its `true` only for a 4xx or an error that
    says nothing more precise: a wrong key stays wrong.
    An exception that says nothing of a model call is `UNKNOWN` and not transient. Thread-safe.
    """
    kind = _kind(exc)
    headers = _headers(exc)
    is_transient = kind in TRANSIENT_KINDS
    match headers.get("x-should-retry"):
        case "true" if kind in (ErrorKind.INVALID_REQUEST, ErrorKind.UNKNOWN):
            is_transient = True
        case "false":
            is_transient = False
    return Verdict(
        kind=kind,
        is_transient=is_transient,
        retry_after_seconds=retry_after_seconds(headers) if headers else None,
        status_code=_status_code(exc),
        request_id=request_id(headers),
    )


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return what a response is known by to its server: OpenAI's name for it, or that of Azure's gateway."""
    return headers.get("x-request-id") or headers.get("apim-request-id")


def _headers(exc: BaseException) -> Mapping[str, str]:
    for holder in (_response(exc), exc):  # aiohttp's and urllib's errors carry them themselves
        headers = getattr(holder, "headers", None)
        if isinstance(headers, (Mapping, Message)):
            return _Text(headers)
    return {}


class _Text(Mapping[str, str]):
    """Headers looked up as they look up, with whatever is no text left out."""

    def __init__(self, headers: Mapping[str, Any] | Message) -> None:
        self._headers = headers

    def __getitem__(self, name: str) -> str:
        value = self._headers[name]
        if not isinstance(value, str):  # an email.Message gives None for what it has not
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers.keys())

    def __len__(self) -> int:
        return len(self._headers)


def _response(exc: BaseException) -> object:
    try:
        return getattr(exc, "response", None)
    except Exception:  # noqa: BLE001  a property that has none, and says so in its own way
        return None


def _kind(exc: BaseException) -> ErrorKind:
    for rule in (_own_kind, _openai_kind, _langchain_kind, _transport_kind, _status_kind):
        if (kind := rule(exc)) is not None:
            return kind
    return ErrorKind.UNKNOWN


def _own_kind(exc: BaseException) -> ErrorKind | None:
    if isinstance(exc, (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)):
        return ErrorKind.CANCELLED
    if isinstance(exc, TruncatedResponseError):
        return ErrorKind.TRUNCATED
    if isinstance(exc, CircuitOpenError):
        return ErrorKind.CIRCUIT_OPEN
    if isinstance(exc, RequestExceedsLimitError):
        return ErrorKind.REQUEST_TOO_LARGE
    if isinstance(exc, MalformedResponseError) or _is_unreadable_200(exc):
        return ErrorKind.MALFORMED
    if isinstance(exc, ResponseFailedError):
        return CODE_KINDS.get(exc.code or "", ErrorKind.SERVER_ERROR)
    return None


# How langchain-openai reports a body that is no JSON: a bare ValueError (contract-tested).
_UNREADABLE_PREFIX = "Unexpected response type from OpenAI-compatible endpoint"


def _is_unreadable_200(exc: BaseException) -> bool:
    if isinstance(exc, json.JSONDecodeError):
        return _status_code(exc) is not None
    return isinstance(exc, ValueError) and str(exc).startswith(_UNREADABLE_PREFIX)


def _openai_kind(exc: BaseException) -> ErrorKind | None:
    if isinstance(exc, lc.ContextOverflowError):
        return ErrorKind.CONTEXT_OVERFLOW
    if isinstance(exc, openai.APIResponseValidationError):
        return ErrorKind.MALFORMED
    if isinstance(exc, openai.APIStatusError):
        return _code_kind(exc) or _status_kind(exc)
    if isinstance(exc, openai.APIConnectionError):
        if _is_misconfigured(exc):
            return ErrorKind.CONFIGURATION
        is_timeout = isinstance(exc, openai.APITimeoutError)
        return ErrorKind.TIMEOUT if is_timeout else ErrorKind.CONNECTION
    if isinstance(exc, openai.APIError):  # an error event inside a stream that began with a 200
        return _code_kind(exc) or ErrorKind.SERVER_ERROR
    if isinstance(exc, (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError)):
        return ErrorKind.REFUSED_ANSWER
    if isinstance(exc, openai.OpenAIError):  # a missing key, a broken token provider, a closed socket
        return ErrorKind.CONFIGURATION
    return None


def _code_kind(exc: openai.APIError) -> ErrorKind | None:
    """Read the error body's code, then its type: they tell apart what one status mixes."""
    is_status = isinstance(exc, openai.APIStatusError)
    # A 429 for a request above the whole minute's limit: no wait makes it fit.
    if "Request too large" in str(exc.message) and (not is_status or _status_code(exc) == 429):
        return ErrorKind.REQUEST_TOO_LARGE
    if _status_code(exc) == 429 and (retry_after_seconds(_headers(exc)) or 0) >= _NEVER_SECONDS:
        return ErrorKind.REQUEST_TOO_LARGE
    for word in (exc.code, exc.type):
        kind = CODE_KINDS.get(str(word))  # servers send any JSON here, also what cannot be hashed
        # invalid_request_error is also the type of errors whose status says more
        if kind is not None and not (kind is ErrorKind.INVALID_REQUEST and is_status):
            return kind
    # vLLM and OpenRouter put the HTTP status they could no longer send into a stream's error event
    if not is_status and len(str(exc.code)) == 3 and str(exc.code).isdecimal():
        return _kind_of_status(int(str(exc.code)))
    return None


# What Azure tells whoever asks for more than the whole minute's limit: to come back in a day.
_NEVER_SECONDS = 86_400

_STATUS_KINDS = {
    401: ErrorKind.AUTHENTICATION,
    402: ErrorKind.QUOTA_EXHAUSTED,
    403: ErrorKind.PERMISSION,
    404: ErrorKind.NOT_FOUND,
    408: ErrorKind.TIMEOUT,
    409: ErrorKind.CONFLICT,
    413: ErrorKind.REQUEST_TOO_LARGE,
    429: ErrorKind.RATE_LIMIT,
}


def _status_kind(exc: BaseException) -> ErrorKind | None:
    """Read an HTTP status wherever an exception carries one: openai, httpx, requests, aiohttp."""
    status = _status_code(exc)
    return None if status is None else _kind_of_status(status)


def _kind_of_status(status: int) -> ErrorKind | None:
    if not 400 <= status <= 599:
        return None
    if status >= 500:
        return ErrorKind.SERVER_ERROR
    return _STATUS_KINDS.get(status, ErrorKind.INVALID_REQUEST)


def _status_code(exc: BaseException) -> int | None:
    for holder in (exc, _response(exc)):
        for name in ("status_code", "status", "code"):
            status = getattr(holder, name, None)
            if isinstance(status, int) and 100 <= status <= 599 and not isinstance(holder, SystemExit):
                return status
    return None


_LANGCHAIN_KINDS: tuple[tuple[type[lc.ModelError], ErrorKind], ...] = (
    (lc.ModelRateLimitError, ErrorKind.RATE_LIMIT),
    (lc.ModelTimeoutError, ErrorKind.TIMEOUT),
    (lc.ModelConnectionError, ErrorKind.CONNECTION),
    (lc.ModelAPIError, ErrorKind.SERVER_ERROR),
    (lc.ModelAuthenticationError, ErrorKind.AUTHENTICATION),
    (lc.ModelPermissionDeniedError, ErrorKind.PERMISSION),
    (lc.ModelNotFoundError, ErrorKind.NOT_FOUND),
    (lc.ModelInvalidRequestError, ErrorKind.INVALID_REQUEST),
)


def _langchain_kind(exc: BaseException) -> ErrorKind | None:
    if not isinstance(exc, lc.ModelError):
        return None
    for cls, kind in _LANGCHAIN_KINDS:
        if isinstance(exc, cls):
            return kind
    return ErrorKind.SERVER_ERROR if exc.is_retryable else ErrorKind.INVALID_REQUEST


def _transport_kind(exc: BaseException) -> ErrorKind | None:
    if (kind := _foreign_kind(exc)) is not None:
        return kind
    if not isinstance(exc, (httpx2.RequestError, OSError)):
        return None
    if _is_misconfigured(exc):
        return ErrorKind.CONFIGURATION
    if isinstance(exc, httpx2.DecodingError):  # a compressed body that broke off
        return ErrorKind.MALFORMED
    # TimeoutError is asyncio's too, and langchain-openai's StreamChunkTimeoutError
    if isinstance(exc, (httpx2.TimeoutException, TimeoutError)):
        return ErrorKind.TIMEOUT
    if isinstance(exc, (httpx2.RequestError, ConnectionError, ssl.SSLError)):
        return ErrorKind.CONNECTION
    return None


# Other HTTP libraries, by name: none of them is imported for this.
_FOREIGN_KINDS = {
    ("requests.exceptions", "Timeout"): ErrorKind.TIMEOUT,
    ("requests.exceptions", "ConnectionError"): ErrorKind.CONNECTION,
    ("requests.exceptions", "ChunkedEncodingError"): ErrorKind.CONNECTION,
    ("httpx", "TimeoutException"): ErrorKind.TIMEOUT,
    ("httpx", "NetworkError"): ErrorKind.CONNECTION,
    ("httpx", "RemoteProtocolError"): ErrorKind.CONNECTION,
    ("aiohttp.client_exceptions", "ServerTimeoutError"): ErrorKind.TIMEOUT,
    ("aiohttp.client_exceptions", "ClientConnectionError"): ErrorKind.CONNECTION,
    ("aiohttp.client_exceptions", "ClientPayloadError"): ErrorKind.CONNECTION,
    ("socket", "gaierror"): ErrorKind.CONNECTION,
}


def _foreign_kind(exc: BaseException) -> ErrorKind | None:
    if _is_misconfigured(exc):
        return None
    names = ((cls.__module__, cls.__name__) for cls in type(exc).__mro__)
    return next((_FOREIGN_KINDS[name] for name in names if name in _FOREIGN_KINDS), None)


# Wrong in the program or on the machine: the next attempt meets it again.
_MISCONFIGURED = (
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
    httpx2.InvalidURL,
    httpx2.TooManyRedirects,
    ssl.SSLCertVerificationError,
)


def _is_misconfigured(exc: BaseException) -> bool:
    """Look for one of them in `exc` and in what it was raised from.

    httpcore drops the cause and keeps the error it wraps as its argument. An implicit context counts for
    nothing: it may be an earlier failure that the program was handling, say with a fallback.
    """
    seen: set[int] = set()
    links = [exc]
    while links:
        link = links.pop()
        if isinstance(link, _MISCONFIGURED):
            return True
        if id(link) not in seen:
            seen.add(id(link))
            links += [each for each in (link.__cause__, *link.args) if isinstance(each, BaseException)]
    return False
