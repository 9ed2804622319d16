"""One attempt's judgement: which exception it leaves as, and whether its answer is whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import aiohttp
import httpx2
import openai
import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.exceptions import ContextOverflowError, ModelError
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_openai import StreamChunkTimeoutError
from langchain_openai.chat_models import base as lc_openai
from openai.types.chat import ChatCompletion
from openai.types.responses import ResponseError
from pydantic import BaseModel, ValidationError

from lc_service.accounting.prompt import PromptEstimate
from lc_service.accounting.tokenizer import estimator_for
from lc_service.models.answer import known, mark_malformed, require_end
from lc_service.models.pipeline import Attempt, Call
from lc_service.models.request import NO_ACCOUNTS, Request
from lc_service.models.whole_stream import StreamEnd, awhole_stream, has_content, whole_stream
from lc_service.retry.errors import (
    ErrorKind,
    MalformedResponseError,
    ResponseFailedError,
    TruncatedResponseError,
    classify,
)

REQUEST = httpx2.Request("POST", "https://api.test/v1/chat/completions")


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def status_error(cls: type, status: int, body: dict[str, Any]) -> openai.APIStatusError:
    response = httpx2.Response(status, json={"error": body}, request=REQUEST)
    return cls(body.get("message", "m"), response=response, body=body)


def an_attempt() -> Attempt:
    request = Request(
        model="m",
        estimator=estimator_for("m"),
        measure=lambda: PromptEstimate(10, 10),
        bound=lambda: 100,
        is_stream=True,
    )
    return Call(request, NO_ACCOUNTS, None).attempt()


def chunk(text: str = "", finish: str | None = None, **message: Any) -> ChatGenerationChunk:
    info = {"finish_reason": finish} if finish else None
    return ChatGenerationChunk(message=AIMessageChunk(text, **message), generation_info=info)


# known


@pytest.mark.parametrize(
    "error",
    [
        openai.APIConnectionError(request=REQUEST),
        openai.APITimeoutError(REQUEST),
        openai.OpenAIError("no key"),
        status_error(openai.RateLimitError, 429, {"message": "m"}),
        status_error(openai.BadRequestError, 400, {"message": "m", "code": "invalid_value"}),
        TruncatedResponseError("m"),
        lc_openai.OpenAIRefusalError("no"),
        RuntimeError("the program's own"),
        KeyError("the program's own"),
        ValueError("the program's own"),
        TimeoutError("the program's own"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_says_what_it_is_passes_as_it_came(error):
    assert known(error) is error


def test_the_callers_schema_error_is_not_the_servers():
    class Wanted(BaseModel):
        number: int

    with pytest.raises(ValidationError) as caught:
        Wanted.model_validate({"number": "none"})
    caught.value.response = httpx2.Response(200, request=REQUEST)  # as langchain-openai hangs it on
    assert known(caught.value) is caught.value


@pytest.mark.parametrize(
    ("raw", "cls", "kind"),
    [
        (httpx2.ReadTimeout("t", request=REQUEST), openai.APITimeoutError, ErrorKind.TIMEOUT),
        (httpx2.ConnectTimeout("t"), openai.APITimeoutError, ErrorKind.TIMEOUT),
        (httpx2.RemoteProtocolError("cut", request=REQUEST), openai.APIConnectionError, ErrorKind.CONNECTION),
        (httpx2.ReadError("reset"), openai.APIConnectionError, ErrorKind.CONNECTION),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_a_transport_error_becomes_the_sdks(raw, cls, kind):
    error = known(raw)
    assert isinstance(error, cls)
    assert isinstance(error, ModelError)
    assert error.__cause__ is raw
    assert classify(error).kind is kind


@pytest.mark.parametrize(
    ("code", "is_retryable"), [("insufficient_quota", False), ("rate_limit_exceeded", True)]
)
def test_a_hopeless_rate_limit_does_not_invite_outer_retries(code, is_retryable):
    response = httpx2.Response(429, request=REQUEST)
    error = known(lc_openai.OpenAIRateLimitError("no", response=response, body={"code": code}))
    assert error.is_retryable is is_retryable


def test_langchains_own_stream_timeout_is_known_already():
    error = StreamChunkTimeoutError(1.0)
    assert known(error) is error
    assert classify(error).kind is ErrorKind.TIMEOUT


def test_a_body_cut_inside_a_character_is_malformed():
    with pytest.raises(UnicodeDecodeError) as caught:
        b"\xe2\x82".decode()
    assert isinstance(known(caught.value), MalformedResponseError)


def test_an_answer_without_choices_is_malformed():
    with pytest.raises(MalformedResponseError):
        require_end(ChatResult(generations=[]))


@pytest.mark.parametrize("lost", [httpx2.ReadError("cut"), StreamChunkTimeoutError(1.0)])
def test_a_whole_answer_survives_a_connection_lost_after_its_end(lost, caplog):
    def stream():
        yield ChatGenerationChunk(message=AIMessageChunk("whole"))
        yield ChatGenerationChunk(message=AIMessageChunk(""), generation_info={"finish_reason": "stop"})
        raise lost  # where the usage would have come

    assert [chunk.text for chunk in whole_stream(stream, an_attempt())] == ["whole", ""]
    assert "usage is estimated" in caplog.text


def test_aiohttps_lost_connection_is_no_timeout():
    # how openai's aiohttp transport reports a reset, and a connection that was refused
    for lost in (aiohttp.ServerDisconnectedError(), aiohttp.ClientOSError(104, "reset")):
        timeout = raised_from(httpx2.ConnectTimeout("x", request=REQUEST), lost)
        error = known(raised_from(lc_openai.OpenAITimeoutError(REQUEST), timeout))
        assert type(error) is lc_openai.OpenAIConnectionError
        assert classify(error).kind is ErrorKind.CONNECTION
        assert error.__cause__ is timeout
        assert type(known(timeout)) is lc_openai.OpenAIConnectionError


def test_a_timeout_while_connecting_stays_one():
    for slow in (
        aiohttp.ConnectionTimeoutError(),
        aiohttp.SocketTimeoutError(),
        OSError("from httpcore"),
        None,
    ):
        timeout = raised_from(httpx2.ConnectTimeout("x", request=REQUEST), slow)
        error = raised_from(lc_openai.OpenAITimeoutError(REQUEST), timeout)
        assert known(error) is error


@pytest.mark.parametrize("said", [{"code": "context_length_exceeded"}, {"type": "exceed_context_size_error"}])
def test_context_overflow_has_langchains_class(said):
    body = {"message": "maximum context length is 8 tokens"} | said
    cause = status_error(openai.BadRequestError, 400, body)
    raw = raised_from(status_error(lc_openai.OpenAIInvalidRequestError, 400, body), cause)
    error = known(raw)
    assert isinstance(error, ContextOverflowError)
    assert (error.body, error.code, error.response) == (raw.body, raw.code, raw.response)
    assert error.__cause__ is cause
    assert known(error) is error


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("ResponseError(code='server_error', message='m')", "server_error"),
        ("rate_limit_exceeded: slow down", "rate_limit_exceeded"),
        ("Response resp_1 failed.", None),
        ("The server had an error", None),
    ],
)
def test_a_failed_response_has_a_class_and_its_code(text, code):
    def _convert_responses_chunk_to_generation_chunk():  # where LangChain raises it
        raise ValueError(text)

    def stream():
        _convert_responses_chunk_to_generation_chunk()
        yield chunk()

    with pytest.raises(ResponseFailedError) as caught:
        list(whole_stream(stream, an_attempt()))
    assert caught.value.code == code
    assert classify(caught.value).is_transient


def test_a_whole_responses_answer_that_failed_has_its_code():
    """LangChain raises the SDK's own object, which is not streamed as text."""
    told = ResponseError(code="rate_limit_exceeded", message="slow down")
    error = known(ValueError(told))
    assert isinstance(error, ResponseFailedError)
    assert error.code == "rate_limit_exceeded"
    assert classify(error).kind is ErrorKind.RATE_LIMIT


def test_a_programs_own_error_is_not_taken_for_the_servers():
    own = ValueError("permission_denied: vault token expired")
    assert known(own) is own
    assert watched().failure(own) is own


@pytest.mark.parametrize(
    ("code", "kind"),
    [("insufficient_quota", ErrorKind.QUOTA_EXHAUSTED), (502, ErrorKind.SERVER_ERROR)],
)
def test_an_error_object_in_a_200_is_read(code, kind):
    error = known(ValueError({"code": code, "message": "no"}))
    assert isinstance(error, openai.APIError)
    assert classify(error).kind is kind


def test_each_of_several_choices_ends_by_itself_in_a_stream():
    end = StreamEnd(an_attempt(), choices=2)
    end.see(chunk("a", finish="stop"))
    with pytest.raises(TruncatedResponseError):
        end.close()
    end.see(chunk("b", finish="stop"))
    end.close()


def test_an_unreadable_body_is_malformed_and_not_quoted():
    unreadable = [json.JSONDecodeError("m", "the secret body", 0)]
    for cls in (AttributeError, KeyError, TypeError, ValueError):
        hung = cls("the secret body")
        hung.response = httpx2.Response(200, request=REQUEST)
        unreadable.append(hung)
    marked = ValueError("the secret body")
    mark_malformed(marked)
    for raw in (*unreadable, marked):
        error = known(raw)
        assert isinstance(error, MalformedResponseError)
        assert "secret" not in str(error)
        assert error.__cause__ is None


# require_end


def result(*messages: AIMessage, **info: Any) -> ChatResult:
    generations = [ChatGeneration(message=message, generation_info=dict(info)) for message in messages]
    return ChatResult(generations=generations)


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter"])
def test_a_finish_reason_is_an_end(reason):
    whole = result(AIMessage("x"), finish_reason=reason)
    assert require_end(whole) is whole


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_a_final_status_is_an_end(status):
    whole = result(AIMessage("x", response_metadata={"status": status}))
    assert require_end(whole) is whole


@pytest.mark.parametrize(
    "open_", [result(AIMessage("so far"), finish_reason=None),
              result(AIMessage("so far", response_metadata={"status": "in_progress"}))],
)  # fmt: skip
def test_an_answer_without_an_end_is_truncated(open_):
    with pytest.raises(TruncatedResponseError) as caught:
        require_end(open_)
    assert caught.value.partial.content == "so far"


def test_every_choice_needs_its_end():
    whole, open_ = result(AIMessage("a"), finish_reason="stop"), result(AIMessage("b"), finish_reason=None)
    with pytest.raises(TruncatedResponseError) as caught:
        require_end(ChatResult(generations=[*whole.generations, *open_.generations]))
    assert caught.value.partial.content == "b"


# has_content


CALL = {"name": "f", "args": "", "id": "1", "index": 0, "type": "tool_call_chunk"}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (chunk(), False),
        (chunk(id="1", response_metadata={"model_name": "m"}), False),
        (chunk(usage_metadata={"input_tokens": 1, "output_tokens": 0, "total_tokens": 1}), False),
        (chunk("a"), True),
        (chunk(tool_call_chunks=[CALL]), True),
        (chunk(additional_kwargs={"refusal": "no"}), True),
        (chunk(finish="stop"), True),
        (chunk(response_metadata={"status": "completed"}), True),
        (chunk(response_metadata={"status": "in_progress"}), False),
    ],
)
def test_what_a_chunk_shows(seen, expected):
    assert has_content(seen) is expected


# StreamEnd


def watched(*chunks: ChatGenerationChunk) -> StreamEnd:
    end = StreamEnd(an_attempt())
    for each in chunks:
        end.see(each)
    return end


@pytest.mark.parametrize("last", [chunk(finish="length"), chunk(response_metadata={"status": "incomplete"})])
def test_a_stream_with_an_end_closes(last):
    watched(chunk("a"), last, chunk()).close()


def test_a_stream_without_an_end_is_truncated():
    with pytest.raises(TruncatedResponseError) as caught:
        watched(chunk(), chunk("a"), chunk("b")).close()
    assert caught.value.partial.content == "ab"


def test_a_stream_without_a_chunk_is_malformed():
    with pytest.raises(MalformedResponseError):
        watched().close()


def test_a_failure_before_content_is_itself():
    error = openai.APIConnectionError(request=REQUEST)
    assert watched().failure(error) is error
    assert watched(chunk()).failure(error) is error


def test_a_failure_after_content_carries_it():
    error = openai.APIConnectionError(request=REQUEST)
    broken = watched(chunk("a"), chunk(tool_call_chunks=[CALL])).failure(error)
    assert type(broken) is TruncatedResponseError
    assert broken.partial.content == "a"
    assert broken.partial.tool_call_chunks[0]["name"] == "f"
    assert broken.__cause__ is error


def test_a_failure_after_the_end_is_no_truncation():
    ended = watched(chunk("a"), chunk(finish="stop"))
    assert ended.failure(openai.APIConnectionError(request=REQUEST)) is None, "the answer is whole"
    refused = openai.LengthFinishReasonError(completion=ChatCompletion.model_construct(usage=None))
    assert ended.failure(refused) is refused


def test_an_unreadable_chunk_before_content_is_malformed():
    assert type(watched(chunk()).failure(TypeError("m"))) is MalformedResponseError
    own = TypeError("before any chunk: the request could not be built")
    assert watched().failure(own) is own


def test_a_refused_answer_keeps_its_class_after_content():
    refused = openai.ContentFilterFinishReasonError()
    assert watched(chunk("a")).failure(refused) is refused


# both generators


def drain(open_stream, is_async: bool) -> tuple[str, Exception | None]:
    seen: list[str] = []

    async def source():
        for each in open_stream():
            yield each

    async def adrain() -> None:
        async for each in awhole_stream(source, an_attempt()):
            seen.append(each.text)  # noqa: PERF401  what came before an error counts

    try:
        if is_async:
            asyncio.run(adrain())
        else:
            seen.extend(each.text for each in whole_stream(open_stream, an_attempt()))
    except Exception as error:
        return "".join(seen), error
    return "".join(seen), None


@pytest.mark.parametrize("is_async", [False, True])
def test_whole_streams_hand_on_every_chunk_and_judge_the_end(is_async):
    def cut():
        yield chunk("a")
        raise httpx2.RemoteProtocolError("cut")

    def refuse():
        raise status_error(openai.RateLimitError, 429, {"message": "m"})

    assert drain(lambda: iter([chunk("a"), chunk("b", finish="stop")]), is_async) == ("ab", None)
    for open_stream, text, cls in (
        (cut, "a", TruncatedResponseError),
        (lambda: iter([chunk("a")]), "a", TruncatedResponseError),
        (lambda: iter([]), "", MalformedResponseError),
        (refuse, "", openai.RateLimitError),
    ):
        seen, error = drain(open_stream, is_async)
        assert (seen, type(error)) == (text, cls)


def test_each_choice_keeps_its_own_end(make_model):
    choices = [
        {"index": i, "message": {"role": "assistant", "content": str(i)}, "finish_reason": reason}
        for i, reason in enumerate(["stop", None])
    ]
    result = make_model()._create_chat_result({"choices": choices, "model": "m"})
    assert [g.generation_info["finish_reason"] for g in result.generations] == ["stop", None]
    with pytest.raises(TruncatedResponseError) as caught:
        require_end(result)
    assert caught.value.partial.content == "1"
    assert caught.value.partial.response_metadata["model_name"] == "m"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_responses_answer_that_failed_without_an_error_is_none(status):
    message = AIMessage("", response_metadata={"status": status})
    with pytest.raises(ResponseFailedError, match=status):
        require_end(ChatResult(generations=[ChatGeneration(message=message)]))


async def test_a_cancellation_that_was_dropped_below_is_delivered():
    async def deaf():  # what wait_for does on Python 3.11 when a chunk meets the cancellation
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.02)
            yield chunk("a")

    async def read() -> None:
        async for _ in awhole_stream(deaf, an_attempt()):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("last", ["the end", "an error"])
async def test_a_cancellation_that_was_dropped_at_the_last_wait_is_delivered(last):
    is_waiting = asyncio.Event()

    async def deaf():
        yield chunk("a", finish="stop")
        with contextlib.suppress(asyncio.CancelledError):
            is_waiting.set()
            await asyncio.Event().wait()
        if last == "an error":
            raise openai.APIConnectionError(request=REQUEST)

    async def read() -> None:
        async for _ in awhole_stream(deaf, an_attempt()):
            pass

    task = asyncio.create_task(read())
    await is_waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_that_the_reader_handled_is_not_delivered_again():
    is_waiting = asyncio.Event()

    async def source():
        for text in "abc":
            yield chunk(text)
        yield chunk(finish="stop")

    async def read() -> str:
        seen = ""
        async for each in awhole_stream(source, an_attempt()):
            seen += each.text
            if seen == "a":
                with contextlib.suppress(asyncio.CancelledError):
                    is_waiting.set()
                    await asyncio.Event().wait()
        return seen

    task = asyncio.create_task(read())
    await is_waiting.wait()
    task.cancel()
    assert await task == "abc"


class StopError(Exception):
    """A handler's own."""


class Stopping(BaseCallbackHandler):
    run_inline = raise_error = True

    def __init__(self, error: Exception, texts: int) -> None:
        self._error, self._left = error, texts

    def on_llm_new_token(self, token: str, **_: Any) -> None:
        self._left -= bool(token)
        if self._left < 0:
            raise self._error


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("texts", [0, 2])
@pytest.mark.parametrize("error", [StopError("m"), ValueError("m"), ConnectionError("m")], ids=repr)
def test_what_a_handler_raises_reaches_the_caller_as_it_is(error, texts, is_async, simulate, make_model):
    """In stream_events v3 handlers are called inside the stream."""
    server = simulate()
    model = make_model(max_retries=0)
    config = {"callbacks": [Stopping(error, texts)]}

    def drain() -> None:
        for _ in model.stream_events("Hello", config, version="v3"):
            pass

    async def adrain() -> None:
        async for _ in await model.astream_events("Hello", config, version="v3"):
            pass

    with pytest.raises(type(error)) as caught:
        asyncio.run(adrain()) if is_async else drain()
    assert caught.value is error
    assert len(server.requests) == 1


def test_a_handlers_lost_connection_after_the_end_is_not_the_servers():
    manager = CallbackManager.configure([Stopping(ConnectionError("m"), 0)]).on_chat_model_start({}, [[]])[0]
    ended = watched(chunk("a"), chunk(finish="stop"))
    with pytest.raises(ConnectionError) as caught:
        manager.on_llm_new_token("a")
    assert ended.failure(caught.value) is caught.value
