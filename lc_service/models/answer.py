"""One attempt: what came back is judged here, before anybody sees it.

Whatever ends an attempt leaves as an answer that is whole or as an exception of a known class.
Does not retry and does not wait: that is the policy's. Streams are in `whole_stream`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

import httpx2
import openai
from langchain_core.exceptions import ContextOverflowError, ModelError
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatResult
from langchain_openai import StreamChunkTimeoutError
from langchain_openai.chat_models.base import (
    OpenAIConnectionError,
    OpenAIContextOverflowError,
    OpenAITimeoutError,
)

from lc_service.retry.errors import (
    ErrorKind,
    MalformedResponseError,
    ResponseFailedError,
    TruncatedResponseError,
    classify,
)

# What LangChain raises when it reads a body that is no API answer, before it looks at any content.
READING_ERRORS = (AttributeError, KeyError, TypeError, ValueError)
# What reading a body as JSON raises; the second where it broke off inside a character.
_BODY_ERRORS = (json.JSONDecodeError, UnicodeDecodeError)
_MALFORMED_MARK = "_lc_service_malformed"


def mark_malformed(error: Exception) -> None:
    """Note on `error` that it came of reading a response body, not of building a request."""
    setattr(error, _MALFORMED_MARK, True)


def known(error: Exception) -> Exception:
    """Return `error` as an exception of a known class: itself, or one that names it as its cause."""
    if isinstance(error, openai.APIConnectionError) and _is_refused_header(error):
        # The client quotes the header, and the key may be in it: its words are not passed on.
        message = "The request cannot be sent: a header has a character that HTTP does not allow."
        hidden = httpx2.LocalProtocolError("illegal header")
        return caused(OpenAIConnectionError(message=message, request=_UNKNOWN_REQUEST), hidden)
    if (named := _rightly_named(error)) is not None:
        return caused(named, error.__cause__ or error)
    if isinstance(error, ModelError) and error.is_retryable and not classify(error).is_transient:
        # Believed by LangChain's own retries around this: an empty quota comes as a rate limit.
        error.is_retryable = False
    if isinstance(error, (openai.OpenAIError, ModelError, StreamChunkTimeoutError)):
        return error
    if isinstance(error, httpx2.TransportError):
        return caused(_transport_error(error), error)
    if (told := _told_in_body(error)) is not None:
        return caused(told, None)
    if _is_malformed(error):
        # No cause: the reader's own words quote the body.
        return caused(MalformedResponseError(f"A 200 that is no API answer ({type(error).__name__})."), None)
    return error


def _rightly_named(error: Exception) -> Exception | None:
    """Return what `error` should have been where a library below is known to name it wrongly, or None."""
    if not isinstance(error, openai.APIError) or isinstance(error, ContextOverflowError):
        return None
    # langchain-openai looks for the error code in a message that openai 3 no longer puts it in, and its
    # summarization recovers from ContextOverflowError only (both contract-tested).
    if isinstance(error, openai.APIStatusError) and classify(error).kind is ErrorKind.CONTEXT_OVERFLOW:
        return OpenAIContextOverflowError(error.message, response=error.response, body=error.body)
    if isinstance(error, openai.APITimeoutError) and _is_lost_connection(error):
        return _connection_error(error.request, error.__cause__ or error)
    return None


def _is_refused_header(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, httpx2.LocalProtocolError):
        error = error.__cause__
    return error is not None


def _is_lost_connection(error: BaseException | None) -> bool:
    """Whether a timeout is none: openai's aiohttp transport calls every lost or refused connection one."""
    while error is not None and not isinstance(error, httpx2.ConnectTimeout):
        error = error.__cause__
    cause = error and error.__cause__
    return type(cause).__module__.startswith("aiohttp.") and not isinstance(cause, TimeoutError)


def caused(error: Exception, cause: BaseException | None) -> Exception:
    """Return `error` with its cause set; None hides what was being handled."""
    error.__cause__ = cause
    return error


def _is_malformed(error: Exception) -> bool:
    if getattr(error, _MALFORMED_MARK, False) or isinstance(error, _BODY_ERRORS):
        return True
    # langchain-openai hangs the HTTP response on what it could not read (contract-tested). A pydantic
    # ValidationError is a ValueError too, but is about the answer's content: the caller's schema.
    has_response = isinstance(getattr(error, "response", None), httpx2.Response)
    return has_response and type(error) in READING_ERRORS


def _transport_error(error: httpx2.TransportError) -> openai.APIConnectionError:
    try:
        request = error.request
    except RuntimeError:  # nobody said which
        request = _UNKNOWN_REQUEST
    if isinstance(error, httpx2.TimeoutException) and not _is_lost_connection(error):
        return OpenAITimeoutError(request)
    return _connection_error(request, error)


def _connection_error(request: httpx2.Request, cause: BaseException) -> openai.APIConnectionError:
    return OpenAIConnectionError(message=f"Connection error ({type(cause).__name__}).", request=request)


def _told_in_body(error: Exception) -> Exception | None:
    """Read the error that a 200's body told: LangChain raises it as a ValueError around the error itself."""
    told = error.args[0] if type(error) is ValueError and error.args else None
    if isinstance(told, Mapping):  # gateways answer so, with OpenAI's error object
        message = str(told.get("message") or "The server answered with an error.")
        return openai.APIError(message, request=_UNKNOWN_REQUEST, body=dict(told))
    if isinstance(code := getattr(told, "code", None), str):  # the Responses API's failed answer
        return ResponseFailedError(str(told), code=code)
    return None


_UNKNOWN_REQUEST = httpx2.Request("POST", "https://unknown.invalid")


def require_end(result: ChatResult, *, is_background: bool = False) -> ChatResult:
    """Return `result`; raise where it has no choice, and `TruncatedResponseError` where one is unfinished.

    A Chat Completions choice ends with a finish_reason. A Responses answer is unfinished while `queued` or
    `in_progress`, unless it was asked for in the background, and none where it `failed` or was `cancelled`.
    """
    if not result.generations:
        raise MalformedResponseError("The answer has no choices.")
    for generation in result.generations:
        info, message = generation.generation_info or {}, generation.message
        status = message.response_metadata.get("status")
        if status in ("failed", "cancelled"):
            code = "cancelled" if status == "cancelled" else None
            raise ResponseFailedError(
                f"The server ended its answer as {status}, without an error.", code=code
            )
        is_open = status in ("queued", "in_progress") and not is_background
        if info["finish_reason"] is None if "finish_reason" in info else is_open:
            # LangChain names the model on the message only after this; whoever counts wants it.
            message.response_metadata.setdefault("model_name", (result.llm_output or {}).get("model_name"))
            raise TruncatedResponseError(
                "The answer has no finish_reason: its end never came.", partial=cast("AIMessage", message)
            )
    return result
