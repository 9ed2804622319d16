"""A streamed attempt is whole or an error: its end is watched for while its chunks pass.

Nothing is added to or taken from the chunks. Does not retry: that is `retry.stream`'s.
"""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import cast

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from lc_service.accounting.reported import Reported, finish_reasons, model_name, read_usage
from lc_service.models.answer import READING_ERRORS, caused, known, mark_malformed
from lc_service.models.pipeline import Attempt
from lc_service.retry.errors import (
    ErrorKind,
    MalformedResponseError,
    ResponseFailedError,
    TruncatedResponseError,
    classify,
)

logger = logging.getLogger(__name__)

_FINAL_STATUSES = frozenset({"completed", "incomplete", "failed", "cancelled"})


def _is_end(chunk: ChatGenerationChunk) -> bool:
    """Whether a chunk announces the end: a finish_reason, or a Responses answer's final status."""
    if (chunk.generation_info or {}).get("finish_reason") is not None:
        return True
    return chunk.message.response_metadata.get("status") in _FINAL_STATUSES


def has_content(chunk: ChatGenerationChunk) -> bool:
    """Whether a chunk shows the caller anything: text, a tool call, reasoning, a refusal, an end."""
    message = chunk.message
    return bool(
        message.content
        or getattr(message, "tool_call_chunks", None)
        or message.additional_kwargs
        or _is_end(chunk)
    )


# The code in LangChain's words for a Responses stream's failure: the error object's text, or "code: message".
_FAILURE_CODE = re.compile(r"(?:ResponseError\(code='([^']+)'|([\w.-]+): )")
# Where langchain-openai reads a chunk; what is raised there was sent by the server (contract-tested).
_CHUNK_READERS = ("_convert_responses_chunk_to_generation_chunk", "_convert_chunk_to_generation_chunk")


def _is_from_chunk(error: Exception) -> bool:
    """Whether `error` was raised while a chunk was read, not while the request was built."""
    frames = (frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name in _CHUNK_READERS for name in frames)


def _is_from_callback(error: Exception) -> bool:
    """Whether a handler of the caller's raised `error`: it passes where LangChain calls handlers."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name.startswith("langchain_core.callbacks.") for name in modules)


class StreamEnd:
    """Watch one streamed attempt and judge its end. Belongs to that attempt.

    Args:
        attempt: What it tells of the first content.
        choices: How many choices were asked for (`n`): each has an end of its own.
    """

    def __init__(self, attempt: Attempt, choices: int = 1) -> None:
        self._attempt = attempt
        self._chunks: list[ChatGenerationChunk] = []
        self._open_choices = choices
        self._has_content = False

    def see(self, chunk: ChatGenerationChunk) -> None:
        """Take note of a chunk on its way to the caller."""
        self._chunks.append(chunk)
        if not self._has_content and has_content(chunk):
            self._has_content = True
            self._attempt.see_content()
        self._open_choices -= _is_end(chunk)

    @property
    def _has_end(self) -> bool:
        return self._open_choices <= 0

    def close(self) -> None:
        """Raise unless the end of the answer came."""
        if self._has_end:
            return
        if not self._chunks:
            raise MalformedResponseError("The stream ended without a single chunk.")
        raise TruncatedResponseError(
            f"The stream closed after {len(self._chunks)} chunks with no finish_reason.",
            partial=self._partial(),
        )

    def failure(self, error: Exception) -> Exception | None:
        """Return what `error` means at this point of the stream, or None where the answer is whole."""
        if _is_from_callback(error):  # chunks are shown to handlers here, in stream_events and where cached
            return error
        kind = classify(error).kind
        if self._has_end and kind in (ErrorKind.CONNECTION, ErrorKind.TIMEOUT):
            logger.warning("The connection broke after an answer's end (%s): its usage is estimated.", kind)
            return None
        if not self._has_content:
            return known(self._read_before_content(error))
        if self._has_end or kind in (ErrorKind.REFUSED_ANSWER, ErrorKind.CONTEXT_OVERFLOW):
            return known(error)
        broken = TruncatedResponseError(
            f"The stream broke after {len(self._chunks)} chunks ({type(error).__name__}).",
            partial=self._partial(),
        )
        return caused(broken, error)

    def _read_before_content(self, error: Exception) -> Exception:
        """Read an error of LangChain's that came before content: a Responses failure, or an odd chunk."""
        if not self._chunks and not _is_from_chunk(error):
            return error
        if type(error) is ValueError:
            code = _FAILURE_CODE.match(str(error))
            return ResponseFailedError(str(error), code=code and (code[1] or code[2]))
        if type(error) in READING_ERRORS:
            mark_malformed(error)
        return error

    def _partial(self) -> AIMessageChunk:
        """Return what came as one message; also of several choices: LangChain does not say which is which."""
        first, *rest = (cast("AIMessageChunk", chunk.message) for chunk in self._chunks)
        return first + rest

    def texts(self) -> list[str]:
        """Return the text of each chunk that had any: answers, refusals, and tool calls."""
        return [text for chunk in self._chunks if (text := _text(chunk))]

    def reported(self) -> Reported:
        """Return what the chunks told of their usage and model; where usage came more than once, the last."""
        usage, model, service_tier = None, None, None
        for chunk in self._chunks:
            message = cast("AIMessageChunk", chunk.message)
            usage = message.usage_metadata or usage
            info = {**message.response_metadata, **(chunk.generation_info or {})}
            model = model_name(info) or model
            service_tier = info.get("service_tier") or service_tier
        told = read_usage(usage) if usage is not None else None
        reasons = finish_reasons(self._chunks)
        return Reported(usage=told, model=model, service_tier=service_tier, finish_reasons=reasons)


def _text(chunk: ChatGenerationChunk) -> str:
    message = cast("AIMessageChunk", chunk.message)
    calls = ((call["name"] or "") + (call["args"] or "") for call in message.tool_call_chunks)
    return "".join([str(message.text), *calls, str(message.additional_kwargs.get("refusal") or "")])


async def _next(stream: AsyncIterator[ChatGenerationChunk]) -> ChatGenerationChunk | None:
    """Return the next chunk, or None; raise a cancellation that came during the wait and was lost below.

    LangChain waits for each chunk in `asyncio.wait_for`, which on Python 3.11 drops a cancellation that meets
    a chunk, an error or the end (python/cpython#86296): the task would run on, and pay for what it asks.
    """
    task = asyncio.current_task()
    requests = _cancellations(task)  # those before the wait are the reader's, who may have handled them
    try:
        chunk = await anext(stream, None)
    except Exception as error:
        if _cancellations(task) > requests:
            raise asyncio.CancelledError from error
        raise
    if _cancellations(task) > requests:
        raise asyncio.CancelledError
    return chunk


def _cancellations(task: asyncio.Task[object] | None) -> int:
    return 0 if task is None else task.cancelling()


def whole_stream(
    open_stream: Callable[[], Iterator[ChatGenerationChunk]], attempt: Attempt, *, choices: int = 1
) -> Generator[ChatGenerationChunk]:
    """Yield the chunks of one streamed attempt of `choices` choices, and raise where its end does not come.

    Raises:
        TruncatedResponseError: The stream broke, or closed with no finish_reason, after content had come.
        Exception: It broke before: of a known class.
    """
    end = StreamEnd(attempt, choices)
    with attempt:
        attempt.received = end.texts
        stream = open_stream()
        try:
            with attempt.sending():
                chunk = next(stream, None)
            while chunk is not None:
                end.see(chunk)
                yield chunk
                chunk = next(stream, None)
        except Exception as error:  # noqa: BLE001  raised again, with its own cause
            if (failure := end.failure(error)) is not None:
                raise failure  # noqa: B904
        finally:
            attempt.reported = end.reported()
            if (close := getattr(stream, "close", None)) is not None:
                close()
        end.close()


async def awhole_stream(
    open_stream: Callable[[], AsyncIterator[ChatGenerationChunk]], attempt: Attempt, *, choices: int = 1
) -> AsyncGenerator[ChatGenerationChunk]:
    """Yield the chunks of one streamed attempt, and raise where its end does not come; as `whole_stream`."""
    end = StreamEnd(attempt, choices)
    async with attempt:
        attempt.received = end.texts
        stream = open_stream()
        try:
            with attempt.sending():
                chunk = await _next(stream)
            while chunk is not None:
                end.see(chunk)
                yield chunk
                chunk = await _next(stream)
        except Exception as error:  # noqa: BLE001  raised again, with its own cause
            if (failure := end.failure(error)) is not None:
                raise failure  # noqa: B904
        finally:
            attempt.reported = end.reported()
            if (aclose := getattr(stream, "aclose", None)) is not None:
                await aclose()
        end.close()
