"""What failures look like by the time they leave stock ChatOpenAI: the classes and words that ours reads."""

from __future__ import annotations

import inspect
import json
import ssl
import traceback
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest
from langchain_core import exceptions as lc
from langchain_core.messages import HumanMessage
from langchain_openai.chat_models import base as lc_openai
from langchain_openai.chat_models._client_utils import StreamChunkTimeoutError

from lc_service.simulator import Fault

HELLO = "Hello there"


def failure_of(call: Any) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


async def async_failure_of(call: Any) -> Exception:
    with pytest.raises(Exception) as caught:
        await call
    return caught.value


async def drain(stream: Any) -> None:
    async for _ in stream:
        pass


STATUS_ERRORS = [
    # fault, status, class as it leaves ChatOpenAI, is_retryable (None: no ModelError at all)
    ("bad_request", 400, lc_openai.OpenAIInvalidRequestError, False),
    ("unauthorized", 401, lc_openai.OpenAIAuthenticationError, False),
    ("forbidden", 403, lc_openai.OpenAIPermissionDeniedError, False),
    ("not_found", 404, lc_openai.OpenAIModelNotFoundError, False),
    ("timeout", 408, openai.APIStatusError, None),
    ("conflict", 409, openai.ConflictError, None),
    ("unprocessable", 422, openai.UnprocessableEntityError, None),
    ("rate_limit", 429, lc_openai.OpenAIRateLimitError, True),
    ("insufficient_quota", 429, lc_openai.OpenAIRateLimitError, True),
    ("request_too_large", 429, lc_openai.OpenAIRateLimitError, True),
    ("server_error", 500, lc_openai.OpenAIAPIError, True),
    ("bad_gateway", 502, lc_openai.OpenAIAPIError, True),
    ("unavailable", 503, lc_openai.OpenAIAPIError, True),
    ("gateway_timeout", 504, lc_openai.OpenAIAPIError, True),
]


@pytest.mark.parametrize("call", ["invoke", "stream", "ainvoke", "astream"])
@pytest.mark.parametrize("expected", STATUS_ERRORS, ids=[row[0] for row in STATUS_ERRORS])
async def test_each_status_leaves_as_its_class(simulate, chat, call, expected):
    """Each HTTP status leaves ChatOpenAI as one class, with its response; 408, 409 and 422 raw.

    A quota that is used up and a request that can never fit say `is_retryable = True`.

    Ours: `classify` in `retry/errors.py` reads `code` and status, never `is_retryable`, of these; README and
    FACTS name the holes.
    """
    fault, status, cls, is_retryable = expected
    model = chat(simulate(faults=[fault]))
    error: Any
    if call == "invoke":
        error = failure_of(lambda: model.invoke(HELLO))
    elif call == "stream":
        error = failure_of(lambda: list(model.stream(HELLO)))
    elif call == "ainvoke":
        error = await async_failure_of(model.ainvoke(HELLO))
    else:
        error = await async_failure_of(drain(model.astream(HELLO)))
    assert type(error) is cls
    assert error.status_code == error.response.status_code == status
    assert error.request_id == error.response.headers["x-request-id"] == "req_000001"
    assert (error.is_retryable if isinstance(error, lc.ModelError) else None) is is_retryable


def test_code_type_and_message_of_the_error_body_are_attributes(simulate, chat):
    """`code` and `type` of an error body are read into the exception, its message into `message`.

    Ours: `_code_kind` in `retry/errors.py` tells a used up quota and "Request too large" by them.
    """
    error: Any = failure_of(lambda: chat(simulate(faults=["insufficient_quota"])).invoke(HELLO))
    assert (error.code, error.type) == ("insufficient_quota", "insufficient_quota")
    error = failure_of(lambda: chat(simulate(faults=["request_too_large"])).invoke(HELLO))
    assert "Request too large" in error.message
    assert error.code == "rate_limit_exceeded"


def test_codes_that_are_no_strings_are_made_strings(canned, chat):
    """The SDK makes a string of a numeric `code`, and keeps `type` as it was sent.

    Ours: `_code_kind` in `retry/errors.py` takes `str()` of both, for gateways that send any JSON there.
    """
    body = {"error": {"message": "m", "code": 503, "type": ["odd"]}}
    error: Any = failure_of(lambda: chat(canned((400, {}, json.dumps(body).encode()))).invoke(HELLO))
    assert error.code == "503"
    assert str(error.type) == "['odd']"


def test_a_context_overflow_leaves_as_an_ordinary_bad_request(simulate, chat):
    """On openai 3 langchain-openai no longer sees `context_length_exceeded`: its class is not raised.

    It looks for the code in `str(error)`, and openai 3 puts only the message there. So what relies on
    `ContextOverflowError` (langchain's summarization middleware) is not told.

    Ours: `CODE_KINDS` in `retry/exceptions.py` reads the code and says CONTEXT_OVERFLOW, and `known` in
    `models/answer.py` raises LangChain's own class for it. Were this to fail, LangChain raises the right
    class again: nothing to do.
    """
    error: Any = failure_of(lambda: chat(simulate(faults=["context_length"])).invoke(HELLO))
    assert error.code == "context_length_exceeded"
    assert "context_length_exceeded" not in str(error)
    assert type(error) is lc_openai.OpenAIInvalidRequestError
    assert not isinstance(error, lc.ContextOverflowError)


def test_an_errors_text_does_not_hold_the_whole_body(simulate, chat):
    """openai 3 puts status and message into an error's text, and nothing else of the body.

    Ours: the log in `retry/policy.py` shows only the kind, whatever the text may hold.
    """
    error = failure_of(lambda: chat(simulate(faults=["bad_request"])).invoke(HELLO))
    assert str(error) == "Error code: 400 - Invalid request (simulated)."


@pytest.mark.parametrize("client", ["httpx", "aiohttp"])
@pytest.mark.parametrize("use_responses_api", [False, True])
async def test_a_cut_leaves_as_a_connection_error(simulate, chat, client, use_responses_api, async_client):
    """A connection that is cut, mid-answer and mid-stream, is an OpenAIConnectionError: retryable.

    (FACTS says that a mid-stream cut arrives as a raw RemoteProtocolError: so it was before openai 3.5x.)

    Ours: `StreamEnd.failure` and `known` in `models/answer.py`; both still take the raw transport error.
    """
    sim = simulate(faults=[Fault("cut", after_chunks=2)] * 4)
    async with openai.DefaultAioHttpClient(verify=False) as aio_client:
        http_async_client = async_client if client == "httpx" else aio_client
        model = chat(sim, http_async_client=http_async_client, use_responses_api=use_responses_api)
        errors = [
            failure_of(lambda: model.invoke(HELLO)),
            failure_of(lambda: list(model.stream(HELLO))),
            await async_failure_of(model.ainvoke(HELLO)),
            await async_failure_of(drain(model.astream(HELLO))),
        ]
    for error in errors:
        assert type(error) is lc_openai.OpenAIConnectionError
        assert error.is_retryable
        assert type(error.__cause__) is openai.APIConnectionError
        assert isinstance(error.__cause__.__cause__, httpx2.TransportError)


async def test_a_reset_is_a_connection_error_to_httpx_and_a_timeout_to_aiohttp(simulate, chat):
    """openai's aiohttp transport says ConnectTimeout where a connection is reset.

    Ours: `classify` says TIMEOUT for it instead of CONNECTION: both are transient, tables show the word.
    """
    sim = simulate(faults=["reset"] * 3)
    assert type(failure_of(lambda: chat(sim).invoke(HELLO))) is lc_openai.OpenAIConnectionError
    assert type(await async_failure_of(chat(sim).ainvoke(HELLO))) is lc_openai.OpenAIConnectionError
    async with openai.DefaultAioHttpClient(verify=False) as client:
        error: Any = await async_failure_of(chat(sim, http_async_client=client).ainvoke(HELLO))
    assert type(error) is lc_openai.OpenAITimeoutError
    assert type(error.__cause__.__cause__) is httpx2.ConnectTimeout


async def test_a_timeout_leaves_as_a_timeout_error(simulate, chat):
    """A read timeout is an OpenAITimeoutError, also in the middle of a stream.

    Ours: `_openai_kind` in `retry/errors.py`; `_transport_error` in `models/answer.py` makes the same.
    """
    sim = simulate(faults=[Fault("stall", after_chunks=1, delay_seconds=5)] * 3)
    model = chat(sim, timeout=0.03)
    assert type(failure_of(lambda: model.invoke(HELLO))) is lc_openai.OpenAITimeoutError
    assert type(failure_of(lambda: list(model.stream(HELLO)))) is lc_openai.OpenAITimeoutError
    assert type(await async_failure_of(drain(model.astream(HELLO)))) is lc_openai.OpenAITimeoutError


async def test_a_stream_without_a_chunk_for_too_long_raises_a_plain_timeout_error(simulate, chat):
    """StreamChunkTimeoutError is a TimeoutError, and neither an OpenAIError nor a ModelError.

    Ours: `_transport_kind` in `retry/errors.py` takes TimeoutError for it.
    """
    model = chat(
        simulate(faults=[Fault("stall", after_chunks=1, delay_seconds=5)]), stream_chunk_timeout=0.03
    )
    error = await async_failure_of(drain(model.astream(HELLO)))
    assert type(error) is StreamChunkTimeoutError
    assert isinstance(error, TimeoutError)
    assert not isinstance(error, (openai.OpenAIError, lc.ModelError))


async def test_an_error_event_in_a_stream_is_a_bare_api_error(simulate, chat):
    """An SSE error event leaves as `openai.APIError` itself, with the code of its body and no response.

    Ours: the APIError rule of `_openai_kind` in `retry/errors.py`.
    """
    model = chat(simulate(faults=[Fault("error_event", after_chunks=1)] * 2))
    for error in (
        failure_of(lambda: list(model.stream(HELLO))),
        await async_failure_of(drain(model.astream(HELLO))),
    ):
        assert type(error) is openai.APIError
        assert error.type == "server_error"
        assert not hasattr(error, "response")


# ---- a 200 that is no answer


async def test_a_page_in_place_of_an_answer_is_a_value_error_with_these_words(simulate, chat):
    """A 200 with HTML: a bare ValueError with a fixed beginning, from `_create_chat_result`, no response.

    Ours: `_UNREADABLE_PREFIX` in `retry/errors.py`; `ReliableChatOpenAI._create_chat_result` marks it.
    """
    model = chat(simulate(faults=["not_json"] * 2))
    for error in (failure_of(lambda: model.invoke(HELLO)), await async_failure_of(model.ainvoke(HELLO))):
        assert type(error) is ValueError
        assert str(error).startswith("Unexpected response type from OpenAI-compatible endpoint")
        assert not hasattr(error, "response")


@pytest.mark.parametrize(
    ("body", "cls", "words"),
    [
        ({}, TypeError, "Received response with null value for 'choices'"),
        ({"choices": None}, TypeError, "Received response with null value for 'choices'"),
        ({"error": {"message": "m"}}, ValueError, "{'message': 'm'}"),
        ({"choices": ["x"]}, TypeError, "string indices"),
        ({"choices": [{"message": None}]}, AttributeError, "'NoneType' object has no attribute 'get'"),
        ({"choices": [{"message": "x"}]}, AttributeError, "'str' object has no attribute 'get'"),
    ],
)
def test_json_that_is_no_answer_fails_in_create_chat_result(canned, chat, body, cls, words):
    """JSON that is no chat completion fails in `_create_chat_result`: a builtin error, no response on it.

    Ours: `ReliableChatOpenAI._create_chat_result` in `models/chat.py` marks what it sees there as malformed.
    """
    error = failure_of(lambda: chat(canned(body)).invoke(HELLO))
    assert type(error) is cls
    assert words in str(error)
    assert not hasattr(error, "response")
    assert "_create_chat_result" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_an_answer_without_choices_fails_outside_of_generate(canned, chat):
    """`"choices": []` makes a ChatResult without generations; `invoke` then raises IndexError.

    Ours: `require_end` in `models/answer.py` is the last place that can see it in time.
    """
    model = chat(canned({"choices": []}))
    assert model._generate([]).generations == []
    assert type(failure_of(lambda: model.invoke(HELLO))) is IndexError


async def test_broken_json_and_the_responses_apis_reading_errors_carry_the_response(simulate, chat):
    """In `_generate` langchain-openai hangs the HTTP response on what failed between request and result.

    Broken JSON is a JSONDecodeError; a page from the Responses API an AttributeError.

    Ours: `_is_malformed` in `models/answer.py` and `_is_unreadable_200` in `retry/errors.py` ask for it.
    """
    for use_responses_api in (False, True):
        model = chat(simulate(faults=["broken_json"] * 2), use_responses_api=use_responses_api)
        for error in (failure_of(lambda: model.invoke(HELLO)), await async_failure_of(model.ainvoke(HELLO))):  # noqa: B023
            assert type(error) is json.JSONDecodeError
            assert isinstance(error.response, httpx2.Response)
    model = chat(simulate(faults=["not_json"] * 2), use_responses_api=True)
    for error in (failure_of(lambda: model.invoke(HELLO)), await async_failure_of(model.ainvoke(HELLO))):
        assert type(error) is AttributeError
        assert error.response.status_code == 200


async def test_a_stream_that_is_no_stream_yields_nothing(simulate, chat):
    """A page or broken JSON in place of an event stream: `_stream` yields no chunk and raises nothing.

    `BaseChatModel.stream` then raises a bare ValueError, outside of `_stream`.

    Ours: `StreamEnd.close` in `models/answer.py` raises MalformedResponseError where no chunk came.
    """
    model = chat(simulate(faults=["not_json", "broken_json"] * 2))
    messages = [HumanMessage(HELLO)]
    assert list(model._stream(messages)) == list(model._stream(messages)) == []
    assert [chunk async for chunk in model._astream(messages)] == []
    error = failure_of(lambda: list(model.stream(HELLO)))
    assert type(error) is ValueError
    assert str(error) == "No generation chunks were returned"


def test_an_event_that_does_not_parse_is_a_json_decode_error(canned, chat):
    """An SSE event that is no JSON raises JSONDecodeError from `_stream`.

    Ours: `_is_malformed` in `models/answer.py` takes every JSONDecodeError for the server's.
    """
    server = canned((200, {"content-type": "text/event-stream"}, b"data: {broken\n\n"))
    assert type(failure_of(lambda: list(chat(server).stream(HELLO)))) is json.JSONDecodeError


# ---- the Responses API's failures

RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "failed", "model": "m", "output": [],
    "error": {"code": "server_error", "message": "boom"}, "incomplete_details": None, "metadata": {},
    "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "text": {"format": {"type": "text"}},
}  # fmt: skip


def events(*bodies: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    lines = [f"event: {body['type']}\ndata: {json.dumps(body)}\n\n" for body in bodies]
    return 200, {"content-type": "text/event-stream"}, "".join(lines).encode()


def test_a_failed_response_is_a_value_error_around_its_error(canned, chat):
    """A plain Responses answer with an error: ValueError(ResponseError(code=…)), with the response on it.

    Ours: `_FAILURE` in `models/answer.py` reads the code out of those words.
    """
    error: Any = failure_of(lambda: chat(canned(RESPONSE), use_responses_api=True).invoke(HELLO))
    assert type(error) is ValueError
    assert str(error).startswith("ResponseError(code='server_error', message='boom'")
    assert error.args[0].code == "server_error"
    assert isinstance(error.response, httpx2.Response)


@pytest.mark.parametrize("status", ["failed", "cancelled", "queued", "in_progress"])
def test_a_response_that_is_not_complete_and_names_no_error_is_success(canned, chat, status):
    """A plain Responses answer without an `error` is success, whatever its status; the status is kept.

    Ours: `require_end` in `models/answer.py` reads `response_metadata["status"]`.
    """
    server = canned({**RESPONSE, "status": status, "error": None})
    message = chat(server, use_responses_api=True).invoke(HELLO)
    assert message.content == []
    assert message.response_metadata["status"] == status


FAILED = {"type": "response.failed", "sequence_number": 1}
ERROR = {"type": "error", "sequence_number": 1, "message": "bad luck", "param": None}


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({**FAILED, "response": RESPONSE}, "ResponseError(code='server_error', message='boom'"),
        ({**FAILED, "response": {**RESPONSE, "error": None}}, "Response resp_1 failed."),
        ({**ERROR, "code": "rate_limit_exceeded"}, "rate_limit_exceeded: bad luck"),
        ({**ERROR, "code": None}, "bad luck"),
    ],
    ids=["failed", "failed without error", "error", "error without code"],
)
def test_a_response_that_fails_in_its_stream_is_a_value_error_in_these_words(canned, chat, event, words):
    """`response.failed` and `error` events are bare ValueErrors; an error without code is only its message.

    Ours: `_FAILURE` in `models/answer.py` tells them from other ValueErrors by these words. The last form
    it cannot know.
    """
    error = failure_of(lambda: list(chat(canned(events(event)), use_responses_api=True).stream(HELLO)))
    assert type(error) is ValueError
    assert str(error).startswith(words)


# ---- classes


def test_the_sdks_public_error_classes_are_those_we_know():
    """The public exception classes of openai, complete.

    Ours: `_openai_kind` in `retry/errors.py` has a rule for each; a new one wants a look at it.
    """
    classes = {
        name
        for name, member in [(name, getattr(openai, name)) for name in openai.__all__ if "Error" in name]
        if issubclass(member, Exception)
    }
    assert classes == {
        "APIConnectionError",
        "APIError",
        "APIResponseValidationError",
        "APIStatusError",
        "APITimeoutError",
        "AuthenticationError",
        "BadRequestError",
        "ConflictError",
        "ContentFilterFinishReasonError",
        "InternalServerError",
        "InvalidWebhookSignatureError",
        "LengthFinishReasonError",
        "NotFoundError",
        "OAuthError",
        "OpenAIError",
        "PermissionDeniedError",
        "RateLimitError",
        "UnprocessableEntityError",
        "WebSocketConnectionClosedError",
        "WebSocketQueueFullError",
    }


def test_langchains_model_errors_are_those_we_know():
    """The ModelError family of langchain-core, complete, with what it calls retryable.

    Ours: `_LANGCHAIN_KINDS` in `retry/errors.py`, and the bases of our own exceptions there.
    """
    family = {
        member.__name__: member.is_retryable
        for member in vars(lc).values()
        if inspect.isclass(member) and issubclass(member, lc.ModelError)
    }
    assert family == {
        "ModelError": False,
        "ModelAuthenticationError": False,
        "ModelPermissionDeniedError": False,
        "ModelInvalidRequestError": False,
        "ModelNotFoundError": False,
        "ModelRateLimitError": True,
        "ModelAPIError": True,
        "ModelConnectionError": True,
        "ModelTimeoutError": True,
        "ContextOverflowError": False,
    }


def test_a_failed_handshake_is_kept_as_an_argument(simulate, chat):
    """httpcore raises its own ConnectError without a cause, around the ssl error it met.

    Ours: `_is_misconfigured` in `retry/errors.py` looks into `args` for a bad certificate.
    """
    tls_where_none_is_spoken = SimpleNamespace(base_url=simulate().base_url.replace("http:", "https:"))
    error: Any = failure_of(lambda: chat(tls_where_none_is_spoken).invoke(HELLO))
    assert type(error) is lc_openai.OpenAIConnectionError
    transport = error.__cause__.__cause__
    assert type(transport) is httpx2.ConnectError
    links = [transport.__cause__, *transport.__cause__.args]
    assert any(isinstance(link, ssl.SSLError) for link in links)
    assert transport.__cause__.__cause__ is None


def test_the_transport_errors_that_never_succeed_have_these_names():
    """httpx2 has these classes, all but InvalidURL below RequestError; `request` may be unset.

    Ours: `_MISCONFIGURED`, `_transport_kind` in `retry/errors.py`, `_transport_error` in
    `models/answer.py`.
    """
    for name in ("UnsupportedProtocol", "LocalProtocolError", "TooManyRedirects", "DecodingError"):
        assert issubclass(getattr(httpx2, name), httpx2.RequestError), name
    assert not issubclass(httpx2.InvalidURL, httpx2.RequestError)
    assert issubclass(httpx2.TimeoutException, httpx2.TransportError)
    with pytest.raises(RuntimeError):
        _ = httpx2.ReadError("x").request


def test_the_last_class_of_a_quota_error_is_both_families(simulate, chat):
    """langchain-openai's classes are the SDK's and LangChain's at once.

    Ours: `known` in `models/answer.py` lets them through as they are; users catch either family.
    """
    error = failure_of(lambda: chat(simulate(faults=["rate_limit"])).invoke(HELLO))
    assert isinstance(error, openai.RateLimitError)
    assert isinstance(error, lc.ModelRateLimitError)


def test_a_cut_off_structured_answer_is_a_length_finish_reason_error(simulate, chat):
    """With a response_format, an answer that ends with "length" raises LengthFinishReasonError, raw.

    Ours: `_openai_kind` in `retry/errors.py` says REFUSED_ANSWER: the caller's own limit, not transient.
    """
    model = chat(simulate(), max_tokens=2)
    schema = {
        "title": "Answer",
        "description": "An answer.",
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
    }
    error = failure_of(lambda: model.with_structured_output(schema).invoke(HELLO))
    assert type(error) is openai.LengthFinishReasonError
