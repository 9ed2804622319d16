from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import socket
import ssl
import threading
import urllib.error
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import aiohttp
import httpx
import httpx2
import langchain_openai.chat_models._client_utils as lc_client_utils
import langchain_openai.chat_models.base as lc_openai
import openai
import openai._exceptions as openai_exceptions
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from langchain_core import exceptions as lc
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from multidict import CIMultiDict, CIMultiDictProxy
from openai.types.chat import ChatCompletion

from lc_service.retry.errors import classify
from lc_service.retry.exceptions import (
    TRANSIENT_KINDS,
    ErrorKind,
    MalformedResponseError,
    RequestExceedsLimitError,
    ResponseFailedError,
    TruncatedResponseError,
)

REQUEST = httpx2.Request("POST", "https://api.test/v1/chat/completions")

# --------------------------------------------------------------------------------------------------------
# Completeness: each class that upstream has, with what it must mean. What upstream adds fails here first.
# --------------------------------------------------------------------------------------------------------


def response(status: int, **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, headers=named, request=REQUEST)


def status_error(
    cls: type[openai.APIStatusError] = openai.APIStatusError,
    status: int = 400,
    body: object = None,
    message: str = "m",
    **headers: str,
) -> openai.APIStatusError:
    return cls(message, response=response(status, **headers), body=body)


def completion() -> ChatCompletion:
    return ChatCompletion.model_construct(id="1", choices=[], usage=None)


OPENAI: dict[str, tuple[Callable[[type], BaseException], ErrorKind]] = {
    "OpenAIError": (lambda cls: cls("no api key"), ErrorKind.CONFIGURATION),
    "SubjectTokenProviderError": (lambda cls: cls("no token"), ErrorKind.CONFIGURATION),
    "APIError": (lambda cls: cls("event", REQUEST, body=None), ErrorKind.SERVER_ERROR),
    "APIResponseValidationError": (lambda cls: cls(response(200), None), ErrorKind.MALFORMED),
    "APIStatusError": (lambda cls: status_error(cls, 418), ErrorKind.INVALID_REQUEST),
    "APIConnectionError": (lambda cls: cls(request=REQUEST), ErrorKind.CONNECTION),
    "APITimeoutError": (lambda cls: cls(REQUEST), ErrorKind.TIMEOUT),
    "BadRequestError": (lambda cls: status_error(cls, 400), ErrorKind.INVALID_REQUEST),
    "AuthenticationError": (lambda cls: status_error(cls, 401), ErrorKind.AUTHENTICATION),
    "OAuthError": (lambda cls: cls(response=response(401), body={}), ErrorKind.AUTHENTICATION),
    "PermissionDeniedError": (lambda cls: status_error(cls, 403), ErrorKind.PERMISSION),
    "NotFoundError": (lambda cls: status_error(cls, 404), ErrorKind.NOT_FOUND),
    "ConflictError": (lambda cls: status_error(cls, 409), ErrorKind.CONFLICT),
    "UnprocessableEntityError": (lambda cls: status_error(cls, 422), ErrorKind.INVALID_REQUEST),
    "RateLimitError": (lambda cls: status_error(cls, 429), ErrorKind.RATE_LIMIT),
    "InternalServerError": (lambda cls: status_error(cls, 500), ErrorKind.SERVER_ERROR),
    "LengthFinishReasonError": (lambda cls: cls(completion=completion()), ErrorKind.REFUSED_ANSWER),
    "ContentFilterFinishReasonError": (lambda cls: cls(), ErrorKind.REFUSED_ANSWER),
    "InvalidWebhookSignatureError": (lambda cls: cls("no"), ErrorKind.UNKNOWN),
    "WebSocketConnectionClosedError": (lambda cls: cls("x", unsent_messages=[]), ErrorKind.CONFIGURATION),
    "WebSocketQueueFullError": (lambda cls: cls("x"), ErrorKind.CONFIGURATION),
    "_AmbiguousModuleClientUsageError": (lambda cls: cls(), ErrorKind.CONFIGURATION),
}

LANGCHAIN_OPENAI: dict[str, tuple[Callable[[type], BaseException], ErrorKind]] = {
    "OpenAIContextOverflowError": (lambda cls: status_error(cls, 400), ErrorKind.CONTEXT_OVERFLOW),
    "OpenAIAPIContextOverflowError": (
        lambda cls: cls("exceeds", REQUEST, body=None),
        ErrorKind.CONTEXT_OVERFLOW,
    ),
    "OpenAIAuthenticationError": (lambda cls: status_error(cls, 401), ErrorKind.AUTHENTICATION),
    "OpenAIPermissionDeniedError": (lambda cls: status_error(cls, 403), ErrorKind.PERMISSION),
    "OpenAIInvalidRequestError": (lambda cls: status_error(cls, 400), ErrorKind.INVALID_REQUEST),
    "OpenAIModelNotFoundError": (lambda cls: status_error(cls, 404), ErrorKind.NOT_FOUND),
    "OpenAIRateLimitError": (lambda cls: status_error(cls, 429), ErrorKind.RATE_LIMIT),
    "OpenAIAPIError": (lambda cls: status_error(cls, 503), ErrorKind.SERVER_ERROR),
    "OpenAIConnectionError": (lambda cls: cls(request=REQUEST), ErrorKind.CONNECTION),
    "OpenAITimeoutError": (lambda cls: cls(REQUEST), ErrorKind.TIMEOUT),
    "OpenAIRefusalError": (lambda cls: cls("no"), ErrorKind.UNKNOWN),
    "StreamChunkTimeoutError": (lambda cls: cls(3.0), ErrorKind.TIMEOUT),
}

LANGCHAIN: dict[str, tuple[Callable[[type], BaseException], ErrorKind]] = {
    "ModelError": (lambda cls: cls("m"), ErrorKind.INVALID_REQUEST),
    "ModelAuthenticationError": (lambda cls: cls("m"), ErrorKind.AUTHENTICATION),
    "ModelPermissionDeniedError": (lambda cls: cls("m"), ErrorKind.PERMISSION),
    "ModelInvalidRequestError": (lambda cls: cls("m"), ErrorKind.INVALID_REQUEST),
    "ModelNotFoundError": (lambda cls: cls("m"), ErrorKind.NOT_FOUND),
    "ModelRateLimitError": (lambda cls: cls("m"), ErrorKind.RATE_LIMIT),
    "ModelAPIError": (lambda cls: cls("m"), ErrorKind.SERVER_ERROR),
    "ModelConnectionError": (lambda cls: cls("m"), ErrorKind.CONNECTION),
    "ModelTimeoutError": (lambda cls: cls("m"), ErrorKind.TIMEOUT),
    "ContextOverflowError": (lambda cls: cls("m"), ErrorKind.CONTEXT_OVERFLOW),
    # not of a model call
    "LangChainException": (lambda cls: cls("m"), ErrorKind.UNKNOWN),
    "TracerException": (lambda cls: cls("m"), ErrorKind.UNKNOWN),
    "OutputParserException": (lambda cls: cls("m"), ErrorKind.UNKNOWN),
}

HTTPX2: dict[str, tuple[Callable[[type], BaseException], ErrorKind]] = {
    name: (lambda cls: cls("m"), kind)
    for kind, group in {
        ErrorKind.CONNECTION: (
            "CloseError ConnectError NetworkError ProtocolError ProxyError ReadError RemoteProtocolError "
            "RequestError SSEError TransportError WriteError"
        ),
        ErrorKind.TIMEOUT: "ConnectTimeout PoolTimeout ReadTimeout TimeoutException WriteTimeout",
        ErrorKind.MALFORMED: "DecodingError",
        ErrorKind.CONFIGURATION: "LocalProtocolError TooManyRedirects UnsupportedProtocol",
        ErrorKind.UNKNOWN: "CookieConflict HTTPError InvalidURL StreamError",
    }.items()
    for name in group.split()
} | {
    "HTTPStatusError": (
        lambda cls: cls("m", request=REQUEST, response=response(503)),
        ErrorKind.SERVER_ERROR,
    ),
    # a program that reads a stream twice, or before it has begun
    "RequestNotRead": (lambda cls: cls(), ErrorKind.UNKNOWN),
    "ResponseNotRead": (lambda cls: cls(), ErrorKind.UNKNOWN),
    "StreamClosed": (lambda cls: cls(), ErrorKind.UNKNOWN),
    "StreamConsumed": (lambda cls: cls(), ErrorKind.UNKNOWN),
}

FAMILIES = {
    "openai": ((openai, openai_exceptions), OPENAI),
    "langchain_openai": ((lc_openai, lc_client_utils), LANGCHAIN_OPENAI),
    "langchain_core": ((lc,), LANGCHAIN),
    "httpx2": ((httpx2,), HTTPX2),
}


def exception_classes(family: str, modules: tuple[ModuleType, ...]) -> dict[str, type[BaseException]]:
    return {
        name: cls
        for module in modules
        for name, cls in list(vars(module).items())
        if inspect.isclass(cls) and issubclass(cls, BaseException) and cls.__module__.split(".")[0] == family
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_exception_class_of_upstream_has_a_stated_kind(family):
    modules, expected = FAMILIES[family]
    assert set(exception_classes(family, modules)) == set(expected)


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, (_, table) in FAMILIES.items() for name in table]
)
def test_the_kind_of_every_exception_class(family, name):
    modules, expected = FAMILIES[family]
    make, kind = expected[name]
    verdict = classify(make(exception_classes(family, modules)[name]))
    assert verdict.kind is kind
    assert verdict.is_transient == (kind in TRANSIENT_KINDS)


def test_a_class_that_upstream_adds_is_noticed(monkeypatch):
    class BrandNewError(openai.APIError):
        __module__ = "openai"

    monkeypatch.setattr(openai, "BrandNewError", BrandNewError, raising=False)
    with pytest.raises(AssertionError, match="BrandNewError"):
        test_every_exception_class_of_upstream_has_a_stated_kind("openai")


def test_what_is_transient_is_said_once():
    kinds = {str(kind) for kind in TRANSIENT_KINDS}
    assert kinds == {
        "rate_limit", "timeout", "connection", "server_error", "conflict", "truncated", "malformed",
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------------
# Status codes, codes in bodies, headers
# --------------------------------------------------------------------------------------------------------

STATUS_KINDS = {
    400: ErrorKind.INVALID_REQUEST,
    401: ErrorKind.AUTHENTICATION,
    402: ErrorKind.QUOTA_EXHAUSTED,
    403: ErrorKind.PERMISSION,
    404: ErrorKind.NOT_FOUND,
    405: ErrorKind.INVALID_REQUEST,
    408: ErrorKind.TIMEOUT,
    409: ErrorKind.CONFLICT,
    413: ErrorKind.REQUEST_TOO_LARGE,
    422: ErrorKind.INVALID_REQUEST,
    429: ErrorKind.RATE_LIMIT,
    499: ErrorKind.INVALID_REQUEST,
    500: ErrorKind.SERVER_ERROR,
    502: ErrorKind.SERVER_ERROR,
    503: ErrorKind.SERVER_ERROR,
    504: ErrorKind.SERVER_ERROR,
    529: ErrorKind.SERVER_ERROR,
    599: ErrorKind.SERVER_ERROR,
}


class AnyStatusError(Exception):
    def __init__(self, **attributes: object) -> None:
        super().__init__("m")
        self.__dict__.update(attributes)


def of_openai(status: int) -> Exception:
    return status_error(status=status)


def of_attribute(status: int) -> Exception:
    return AnyStatusError(status_code=status)


def of_httpx2(status: int) -> Exception:
    return httpx2.HTTPStatusError("m", request=REQUEST, response=response(status))


def of_httpx(status: int) -> Exception:
    request = httpx.Request("POST", "https://api.test")
    return httpx.HTTPStatusError("m", request=request, response=httpx.Response(status, request=request))


def of_requests(status: int) -> Exception:
    answer = requests.Response()
    answer.status_code = status
    return requests.HTTPError("m", response=answer)


def of_aiohttp(status: int, **headers: str) -> Exception:
    named = CIMultiDictProxy(CIMultiDict({k.replace("_", "-"): v for k, v in headers.items()}))
    return aiohttp.ClientResponseError(None, (), status=status, headers=named)  # type: ignore[arg-type]


CARRIERS = [of_openai, of_attribute, of_httpx2, of_httpx, of_requests, of_aiohttp]


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(("status", "kind"), STATUS_KINDS.items())
def test_a_status_means_the_same_whoever_carries_it(carrier, status, kind):
    verdict = classify(carrier(status))
    assert (verdict.kind, verdict.status_code) == (kind, status)
    assert verdict.is_transient == (status in {408, 409, 429} or status >= 500)


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("status", [200, 304])
def test_a_status_that_is_no_error_decides_nothing(carrier, status):
    assert classify(carrier(status)).kind is ErrorKind.UNKNOWN


@pytest.mark.parametrize("value", ["503", 503.0, 0, 1000, -1, None, "x"])
def test_a_status_code_that_is_none_is_not_believed(value):
    verdict = classify(AnyStatusError(status_code=value))
    assert (verdict.kind, verdict.status_code) == (ErrorKind.UNKNOWN, None)


@pytest.mark.parametrize(
    ("status", "code", "type_", "kind"),
    [
        (429, "insufficient_quota", "insufficient_quota", ErrorKind.QUOTA_EXHAUSTED),
        (429, None, "insufficient_quota", ErrorKind.QUOTA_EXHAUSTED),
        (403, "insufficient_quota", None, ErrorKind.QUOTA_EXHAUSTED),
        (400, "billing_hard_limit_reached", "invalid_request_error", ErrorKind.QUOTA_EXHAUSTED),
        (429, "billing_not_active", "billing_not_active", ErrorKind.QUOTA_EXHAUSTED),
        (429, "rate_limit_exceeded", "tokens", ErrorKind.RATE_LIMIT),
        (429, "rate_limit_exceeded", "requests", ErrorKind.RATE_LIMIT),
        (400, "context_length_exceeded", "invalid_request_error", ErrorKind.CONTEXT_OVERFLOW),
        (400, "400", "exceed_context_size_error", ErrorKind.CONTEXT_OVERFLOW),
        (401, "invalid_api_key", "invalid_request_error", ErrorKind.AUTHENTICATION),
        (404, "model_not_found", "invalid_request_error", ErrorKind.NOT_FOUND),
        (403, "model_not_found", "invalid_request_error", ErrorKind.NOT_FOUND),
        (429, None, "invalid_request_error", ErrorKind.RATE_LIMIT),
        (500, None, "server_error", ErrorKind.SERVER_ERROR),
        (503, None, "invalid_request_error", ErrorKind.SERVER_ERROR),
    ],
)
def test_the_bodys_code_tells_apart_what_one_status_mixes(status, code, type_, kind):
    body = {"message": "m", "code": code, "type": type_}
    verdict = classify(status_error(status=status, body=body))
    assert verdict.kind is kind
    assert verdict.is_transient == (kind in TRANSIENT_KINDS)


def test_a_429_for_a_request_above_the_whole_limit_is_hopeless():
    message = "Request too large for gpt-x on tokens per min (TPM): Limit 30000, Requested 40000."
    body = {"code": "rate_limit_exceeded", "type": "tokens"}
    verdict = classify(status_error(status=429, body=body, message=message))
    assert (verdict.kind, verdict.is_transient) == (ErrorKind.REQUEST_TOO_LARGE, False)
    assert classify(status_error(status=503, message=message)).kind is ErrorKind.SERVER_ERROR


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (None, ErrorKind.SERVER_ERROR),
        ("plain", ErrorKind.SERVER_ERROR),
        ({"type": "server_error", "code": None}, ErrorKind.SERVER_ERROR),
        ({"code": "insufficient_quota"}, ErrorKind.QUOTA_EXHAUSTED),
        ({"code": "context_length_exceeded"}, ErrorKind.CONTEXT_OVERFLOW),
        ({"code": "rate_limit_exceeded"}, ErrorKind.RATE_LIMIT),
        ({"type": "invalid_request_error"}, ErrorKind.INVALID_REQUEST),
        ({"code": "invalid_prompt"}, ErrorKind.INVALID_REQUEST),
        # vLLM and OpenRouter: the status they could no longer send
        ({"type": "BadRequestError", "code": 400}, ErrorKind.INVALID_REQUEST),
        ({"type": "NotFoundError", "code": 404}, ErrorKind.NOT_FOUND),
        ({"code": 429}, ErrorKind.RATE_LIMIT),
        ({"code": 402}, ErrorKind.QUOTA_EXHAUSTED),
        ({"code": 502}, ErrorKind.SERVER_ERROR),
        ({"code": 7}, ErrorKind.SERVER_ERROR),
        ({"code": "9" * 5_000}, ErrorKind.SERVER_ERROR),
        # no word at all, and nothing that can be looked up
        ({"type": {"a": 1}, "code": []}, ErrorKind.SERVER_ERROR),
    ],
)
def test_an_error_event_inside_a_stream(body, kind):
    verdict = classify(openai.APIError("An error occurred", REQUEST, body=body))
    assert (verdict.kind, verdict.is_transient) == (kind, kind in TRANSIENT_KINDS)


@pytest.mark.parametrize(
    ("status", "header", "is_transient"),
    [
        (400, "true", True),
        (418, "true", True),
        (300, "true", True),
        (503, "false", False),
        (429, "false", False),
        (408, "false", False),
        (400, "maybe", False),
        (503, "maybe", True),
        # no header makes these succeed
        (401, "true", False),
        (402, "true", False),
        (413, "true", False),
    ],
)
def test_x_should_retry(status, header, is_transient):
    error = status_error(status=status, x_should_retry=header)
    assert classify(error).is_transient is is_transient


@pytest.mark.parametrize("code", ["insufficient_quota", "context_length_exceeded"])
def test_x_should_retry_revives_no_exhausted_quota_and_no_overflow(code):
    for status in (400, 429):
        error = status_error(status=status, body={"code": code}, x_should_retry="true")
        assert not classify(error).is_transient


def test_the_verdict_carries_the_headers_facts():
    verdict = classify(status_error(status=429, retry_after="3", x_request_id="req_1"))
    assert (verdict.retry_after_seconds, verdict.request_id, verdict.status_code) == (3.0, "req_1", 429)


def test_aiohttps_errors_carry_their_headers_themselves():
    verdict = classify(of_aiohttp(429, Retry_After="3", X_Request_Id="req_1", X_Should_Retry="false"))
    assert (verdict.retry_after_seconds, verdict.request_id) == (3.0, "req_1")
    assert not verdict.is_transient


# --------------------------------------------------------------------------------------------------------
# Transport, configuration, cancellation, and what is not ours
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionResetError(), ErrorKind.CONNECTION),
        (BrokenPipeError(), ErrorKind.CONNECTION),
        (ConnectionRefusedError(), ErrorKind.CONNECTION),
        (ssl.SSLEOFError("eof"), ErrorKind.CONNECTION),
        (ssl.SSLCertVerificationError("self-signed"), ErrorKind.CONFIGURATION),
        (TimeoutError(), ErrorKind.TIMEOUT),
        (aiohttp.ServerTimeoutError(), ErrorKind.TIMEOUT),
        (aiohttp.ClientConnectionResetError(), ErrorKind.CONNECTION),
        (FileNotFoundError(), ErrorKind.UNKNOWN),
        (PermissionError(), ErrorKind.UNKNOWN),
        (ValueError("m"), ErrorKind.UNKNOWN),
        (RuntimeError("Event loop is closed"), ErrorKind.UNKNOWN),
        (json.JSONDecodeError("a parser's own", "{", 0), ErrorKind.UNKNOWN),
        (asyncio.CancelledError(), ErrorKind.CANCELLED),
        (KeyboardInterrupt(), ErrorKind.CANCELLED),
        (SystemExit(), ErrorKind.CANCELLED),
        (GeneratorExit(), ErrorKind.CANCELLED),
        (TruncatedResponseError("cut"), ErrorKind.TRUNCATED),
        (MalformedResponseError("html"), ErrorKind.MALFORMED),
    ],
    ids=repr,
)
def test_single_exceptions(error, kind):
    verdict = classify(error)
    assert (verdict.kind, verdict.is_transient) == (kind, kind in TRANSIENT_KINDS)


@pytest.mark.parametrize(
    ("root", "kind"),
    [
        (ssl.SSLCertVerificationError("self-signed certificate"), ErrorKind.CONFIGURATION),
        (httpx2.UnsupportedProtocol("ftp"), ErrorKind.CONFIGURATION),
        (httpx2.InvalidURL("no host"), ErrorKind.CONFIGURATION),
        (httpx2.LocalProtocolError("Illegal header value"), ErrorKind.CONFIGURATION),
        (httpx2.TooManyRedirects("21"), ErrorKind.CONFIGURATION),
        (ssl.SSLError("handshake"), ErrorKind.CONNECTION),
        (ConnectionRefusedError(), ErrorKind.CONNECTION),
    ],
    ids=repr,
)
def test_what_lies_under_a_connection_error_decides(root, kind):
    middle = httpx2.ConnectError("m")
    middle.__cause__ = root
    error = openai.APIConnectionError(request=REQUEST)
    error.__cause__ = middle
    verdict = classify(error)
    assert (verdict.kind, verdict.is_transient) == (kind, kind in TRANSIENT_KINDS)
    assert classify(middle).kind is kind


def test_a_failure_that_was_being_handled_is_not_a_cause():
    """A fallback's time-out stays a time-out although the first server's certificate was bad."""

    def call_two_servers() -> None:
        try:
            raise ssl.SSLCertVerificationError("the first server's")
        except ssl.SSLError:
            raise httpx2.ConnectTimeout("the second server's")  # noqa: B904

    with pytest.raises(httpx2.ConnectTimeout) as caught:
        call_two_servers()
    assert isinstance(caught.value.__context__, ssl.SSLCertVerificationError)
    assert classify(caught.value).kind is ErrorKind.TIMEOUT


def test_a_ring_of_causes_ends():
    first, second = openai.APIConnectionError(request=REQUEST), ConnectionError()
    first.__cause__, second.__cause__ = second, first
    assert classify(first).kind is ErrorKind.CONNECTION


def test_an_own_retryable_model_error_is_transient():
    class Overloaded(lc.ModelError):
        is_retryable = True

    assert classify(Overloaded("m")).is_transient


@pytest.mark.parametrize(
    "error", [TruncatedResponseError("cut", partial=AIMessage("half an ans")), TruncatedResponseError("cut")]
)
def test_a_truncated_response_survives_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is TruncatedResponseError
    assert (copy.args, copy.partial) == (error.args, error.partial)


def test_a_refusal_by_a_limit_survives_pickling():
    error = RequestExceedsLimitError(requested_tokens=90_000, tokens_per_minute=30_000)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is RequestExceedsLimitError
    assert (copy.requested_tokens, copy.tokens_per_minute) == (90_000, 30_000)
    assert classify(copy) == classify(error)


def test_own_errors_are_of_langchains_family():
    assert TruncatedResponseError("m").is_retryable
    assert MalformedResponseError("m").is_retryable
    assert isinstance(MalformedResponseError("m"), ValueError)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (None, ErrorKind.SERVER_ERROR),
        ("server_error", ErrorKind.SERVER_ERROR),
        ("vector_store_timeout", ErrorKind.SERVER_ERROR),
        ("rate_limit_exceeded", ErrorKind.RATE_LIMIT),
        ("insufficient_quota", ErrorKind.QUOTA_EXHAUSTED),
        ("invalid_prompt", ErrorKind.INVALID_REQUEST),
    ],
)
def test_a_failed_response_says_why_and_so_does_langchains_flag(code, kind):
    error = ResponseFailedError("m", code=code)
    for each in (error, pickle.loads(pickle.dumps(error))):
        verdict = classify(each)
        assert (verdict.kind, verdict.is_transient) == (kind, kind in TRANSIENT_KINDS)
        assert each.is_retryable is verdict.is_transient
        assert (each.args, each.code) == (("m",), code)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    body=st.fixed_dictionaries({}, optional={"code": any_json, "type": any_json, "message": any_json}),
    status=st.integers(100, 599),
    is_event=st.booleans(),
)
def test_no_body_a_server_can_send_makes_classify_raise(body, status, is_event):
    error = openai.APIError("m", REQUEST, body=body) if is_event else status_error(status=status, body=body)
    verdict = classify(error)
    assert isinstance(verdict.kind, ErrorKind)
    if not is_event:
        assert verdict.status_code == status


# --------------------------------------------------------------------------------------------------------
# On the wire: what ChatOpenAI really raises
# --------------------------------------------------------------------------------------------------------


def raised_by(handler: Callable[[httpx2.Request], httpx2.Response], *, is_stream: bool = False) -> Exception:
    with httpx2.Client(transport=httpx2.MockTransport(handler)) as client:
        model = ChatOpenAI(
            model="gpt-x", api_key="k", base_url="http://api.test/v1", http_client=client, max_retries=0
        )
        with pytest.raises(Exception) as caught:
            list(model.stream("hi")) if is_stream else model.invoke("hi")
    return caught.value


def sse(*events: str, cut: Exception | None = None) -> Callable[[httpx2.Request], httpx2.Response]:
    def body() -> Iterator[bytes]:
        for event in events:
            yield f"data: {event}\n\n".encode()
        if cut is not None:
            raise cut

    return lambda _: httpx2.Response(200, content=body(), headers={"content-type": "text/event-stream"})


CHUNK = json.dumps(
    {"id": "a", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "x"}}]}
)


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("text/html", "<html>Bad gateway</html>"),
        ("application/json", "{broken"),
        ("application/json", ""),
        ("application/json", "null"),
    ],
)
def test_a_200_that_is_not_an_answer_is_malformed(content_type, text):
    error = raised_by(lambda _: httpx2.Response(200, text=text, headers={"content-type": content_type}))
    verdict = classify(error)
    assert (verdict.kind, verdict.is_transient) == (ErrorKind.MALFORMED, True)


@pytest.mark.parametrize(
    ("cut", "kind"),
    [
        (httpx2.RemoteProtocolError("peer closed connection"), ErrorKind.CONNECTION),
        (httpx2.ReadError("reset"), ErrorKind.CONNECTION),
        (httpx2.ReadTimeout("stalled"), ErrorKind.TIMEOUT),
    ],
)
def test_a_stream_cut_is_transient(cut, kind):
    verdict = classify(raised_by(sse(CHUNK, cut=cut), is_stream=True))
    assert (verdict.kind, verdict.is_transient) == (kind, True)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"message": "The server had an error", "type": "server_error"}, ErrorKind.SERVER_ERROR),
        ({"message": "You exceeded your quota", "code": "insufficient_quota"}, ErrorKind.QUOTA_EXHAUSTED),
        ({"message": "bad", "type": "BadRequestError", "code": 400}, ErrorKind.INVALID_REQUEST),
        ({"message": "input exceeds the context window"}, ErrorKind.CONTEXT_OVERFLOW),
        ("a plain text", ErrorKind.SERVER_ERROR),
    ],
)
def test_an_error_event_on_the_wire(event, kind):
    assert classify(raised_by(sse(CHUNK, json.dumps({"error": event})), is_stream=True)).kind is kind


def test_a_quota_error_on_the_wire_is_never_retried():
    error = {"message": "You exceeded your current quota", "type": "insufficient_quota"}
    headers = {"retry-after": "1", "x-should-retry": "true"}
    raised = raised_by(lambda _: httpx2.Response(429, json={"error": error}, headers=headers))
    assert isinstance(raised, lc.ModelRateLimitError)  # LangChain would retry it
    assert not classify(raised).is_transient


@pytest.fixture
def self_signed_port(certificate: tuple[Path, Path]) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(10)
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize("client", ["sync", "async", "aiohttp"])
def test_a_certificate_that_does_not_verify_is_configuration(self_signed_port, client):
    arguments = {"base_url": f"https://localhost:{self_signed_port}/v1", "api_key": "k", "max_retries": 0}

    async def acall(http_client: httpx2.AsyncClient | None) -> None:
        async with openai.AsyncOpenAI(**arguments, http_client=http_client) as api:
            await api.models.list()

    with pytest.raises(openai.APIConnectionError) as caught:  # noqa: PT012  three clients, one failure
        if client == "sync":
            with openai.OpenAI(**arguments) as api:
                api.models.list()
        else:
            asyncio.run(acall(openai.DefaultAioHttpClient() if client == "aiohttp" else None))
    verdict = classify(caught.value)
    assert (verdict.kind, verdict.is_transient) == (ErrorKind.CONFIGURATION, False)


# Other libraries' errors, by name


def foreign(module: str, name: str, *bases: type) -> Exception:
    cls = type(name, bases or (Exception,), {})
    cls.__module__ = module
    return cls("m")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (foreign("requests.exceptions", "Timeout", OSError), ErrorKind.TIMEOUT),
        (foreign("requests.exceptions", "ConnectionError", OSError), ErrorKind.CONNECTION),
        (foreign("httpx", "TimeoutException"), ErrorKind.TIMEOUT),
        (foreign("httpx", "NetworkError"), ErrorKind.CONNECTION),
        (aiohttp.ServerDisconnectedError(), ErrorKind.CONNECTION),
        (aiohttp.ClientPayloadError("m"), ErrorKind.CONNECTION),
        (socket.gaierror(8, "unknown name"), ErrorKind.CONNECTION),
        (foreign("somewhere.else", "Timeout"), ErrorKind.UNKNOWN),
    ],
)
def test_errors_of_other_http_libraries_are_known_by_name(error, kind):
    assert classify(error).kind is kind


def test_urllibs_status_and_headers_are_read():
    headers = Message()
    headers["Retry-After"] = "7"
    verdict = classify(urllib.error.HTTPError("https://api.test", 429, "slow down", headers, None))
    assert (verdict.kind, verdict.retry_after_seconds) == (ErrorKind.RATE_LIMIT, 7.0)


class AwkwardError(Exception):
    headers: ClassVar = {"retry-after": ["5"]}

    @property
    def response(self) -> object:
        raise RuntimeError("there is none")


def test_nothing_an_exception_does_makes_classify_raise():
    assert classify(AwkwardError()).kind is ErrorKind.UNKNOWN
