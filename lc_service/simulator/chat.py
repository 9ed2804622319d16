"""Chat completions on the wire: the plain answer and its chunks.

Invariant: the chunks' deltas join to the plain answer and their usage is the plain usage.
It writes a finished `Reply`; it decides nothing about its content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import orjson

from lc_service.simulator.bill import Usage
from lc_service.simulator.errors import ApiError
from lc_service.simulator.reply import Choice, Reply
from lc_service.simulator.stream import StreamEvent

CREATED = 1_767_225_600
"""Every answer's creation time (2026-01-01, epoch seconds): fixed, so that answers repeat."""

_FINGERPRINT = "fp_simulator"


def completion(reply: Reply, number: int, *, is_finished: bool = True) -> bytes:
    """Return the body of a plain answer.

    Args:
        reply: What to say.
        number: The request's number; ids are made of it.
        is_finished: Whether to give a finish_reason.
    """
    choices = [
        {
            "index": index,
            "message": _message(choice, number, index),
            "logprobs": _logprobs(reply, choice.pieces),
            "finish_reason": choice.finish_reason if is_finished else None,
        }
        for index, choice in enumerate(reply.choices)
    ]
    return orjson.dumps(
        {
            "id": f"chatcmpl-sim{number:06d}",
            "object": "chat.completion",
            "created": CREATED,
            "model": reply.prompt.model,
            "choices": choices,
            "usage": _usage(reply.usage),
            "service_tier": "default",
            "system_fingerprint": _FINGERPRINT,
        }
    )


def chunks(reply: Reply, number: int) -> Iterator[StreamEvent]:
    """Yield the events of a streamed answer.

    Args:
        reply: What to say.
        number: The request's number; ids are made of it.
    """
    options = reply.prompt.request.get("stream_options")
    has_usage = bool(options.get("include_usage")) if isinstance(options, dict) else False
    frame: dict[str, Any] = {
        "id": f"chatcmpl-sim{number:06d}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": reply.prompt.model,
        "service_tier": "default",
        "system_fingerprint": _FINGERPRINT,
        "choices": [],
    }
    if has_usage:
        frame["usage"] = None
    for index, choice in enumerate(reply.choices):
        content = None if choice.tool_calls else ""
        opening = {"role": "assistant", "content": content, "refusal": None}
        yield StreamEvent(data=_chunk(frame, index, opening))
        yield from _content(frame, reply, choice, number, index)
    for index, choice in enumerate(reply.choices):
        data = _chunk(frame, index, {}, finish=choice.finish_reason)
        yield StreamEvent(data=data, is_end=True)
    if has_usage:
        data = b"data: %b\n\n" % orjson.dumps({**frame, "usage": _usage(reply.usage)})
        yield StreamEvent(data=data, is_end=True)
    yield StreamEvent(data=b"data: [DONE]\n\n", is_end=True)


def _content(
    frame: dict[str, Any], reply: Reply, choice: Choice, number: int, index: int
) -> Iterator[StreamEvent]:
    for piece in choice.pieces:
        logprobs = _logprobs(reply, (piece,))
        yield StreamEvent(data=_chunk(frame, index, {"content": piece}, logprobs), tokens=1)
    for position, call in enumerate(choice.tool_calls):
        opening = {
            "index": position,
            "id": call_id(number, index, position),
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        data = _chunk(frame, index, {"tool_calls": [opening]})
        yield StreamEvent(data=data, tokens=call.name_tokens)
        for piece in call.pieces:
            part = {"index": position, "function": {"arguments": piece}}
            yield StreamEvent(data=_chunk(frame, index, {"tool_calls": [part]}), tokens=1)


def call_id(number: int, choice: int, position: int) -> str:
    """Return the id of a tool call."""
    return f"call_sim{number:06d}_{choice}_{position}"


def _message(choice: Choice, number: int, index: int) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if choice.tool_calls else choice.text,
        "refusal": None,
        "annotations": [],
    }
    if choice.tool_calls:
        message["tool_calls"] = [
            {
                "id": call_id(number, index, position),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for position, call in enumerate(choice.tool_calls)
        ]
    return message


def _chunk(
    frame: dict[str, Any],
    index: int,
    delta: dict[str, Any],
    logprobs: dict[str, Any] | None = None,
    finish: str | None = None,
) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return b"data: %b\n\n" % orjson.dumps({**frame, "choices": [choice]})


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _logprobs(reply: Reply, pieces: tuple[str, ...]) -> dict[str, Any] | None:
    request = reply.prompt.request
    if not request.get("logprobs"):
        return None
    count = request.get("top_logprobs")
    count = count if isinstance(count, int) else 0
    return {"content": [token_logprob(piece, count) for piece in pieces], "refusal": None}


def token_logprob(piece: str, alternatives: int) -> dict[str, Any]:
    """Return the log probability of a piece, made from its hash, and of some alternatives."""
    chosen = -hashlib.blake2b(piece.encode(), digest_size=1).digest()[0] / 256
    tops = [(piece if rank == 0 else f"{piece}{'~' * rank}", chosen - 2.0 * rank)
            for rank in range(alternatives)]  # fmt: skip
    return {
        **_one_logprob(piece, chosen),
        "top_logprobs": [_one_logprob(token, logprob) for token, logprob in tops],
    }


def _one_logprob(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def error_event(error: ApiError, sequence_number: int) -> bytes:
    """Return an error as an event of a stream.

    Args:
        error: What went wrong.
        sequence_number: Without effect: chat completions do not number their events.
    """
    del sequence_number
    return b"data: %b\n\n" % error.body
