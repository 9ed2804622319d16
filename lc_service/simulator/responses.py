"""The Responses API on the wire: the plain answer and its events.

Invariant: the events' deltas join to the plain answer; `response.completed` carries that answer.
It writes a finished `Reply`; it decides nothing about its content, and stores nothing:
`previous_response_id` is accepted and ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from lc_service.simulator.bill import Usage
from lc_service.simulator.chat import CREATED, call_id, token_logprob
from lc_service.simulator.errors import ApiError
from lc_service.simulator.reply import Choice, Reply, ToolCall
from lc_service.simulator.stream import StreamEvent

_ECHOED = (
    "instructions", "max_output_tokens", "metadata", "previous_response_id", "prompt_cache_key",
    "reasoning", "safety_identifier", "temperature", "text", "top_p", "truncation", "user",
)  # fmt: skip


def response(reply: Reply, number: int, *, is_finished: bool = True) -> bytes:
    """Return the body of a plain answer.

    Args:
        reply: What to say.
        number: The request's number; ids are made of it.
        is_finished: Whether the status says completed (or incomplete), not in_progress.
    """
    return orjson.dumps(_response(reply, number, is_finished=is_finished))


def events(reply: Reply, number: int) -> Iterator[StreamEvent]:
    """Yield the events of a streamed answer.

    Args:
        reply: What to say.
        number: The request's number; ids are made of it.
    """
    writer = _Writer(reply, number)
    started = {**_response(reply, number, is_finished=False), "output": [], "usage": None}
    yield writer.event("response.created", response=started)
    yield writer.event("response.in_progress", response=started)
    choice = reply.choices[0]
    if choice.reasoning_tokens:
        yield from writer.reasoning()
    if choice.tool_calls:
        for position, call in enumerate(choice.tool_calls):
            yield from writer.tool_call(choice, call, position)
    else:
        yield from writer.text(choice)
    whole = _response(reply, number, is_finished=True)
    yield writer.event(f"response.{whole['status']}", is_end=True, response=whole)


def error_event(error: ApiError, sequence_number: int) -> bytes:
    """Return an error as an event of a stream.

    Args:
        error: What went wrong.
        sequence_number: The event's number.
    """
    body = {
        "type": "error",
        "sequence_number": sequence_number,
        "code": error.code or error.kind,
        "message": error.message,
        "param": error.param,
    }
    return _sse("error", body)


class _Writer:
    """Numbers the events, and the output items, of one stream."""

    def __init__(self, reply: Reply, number: int) -> None:
        self.reply = reply
        self.number = number
        self.sequence_number = 0
        self.output_index = 0

    def event(self, kind: str, *, tokens: int = 0, is_end: bool = False, **fields: Any) -> StreamEvent:
        body = {"type": kind, "sequence_number": self.sequence_number, **fields}
        self.sequence_number += 1
        return StreamEvent(data=_sse(kind, body), tokens=tokens, is_end=is_end)

    def reasoning(self) -> Iterator[StreamEvent]:
        item = _reasoning_item(self.number)
        for kind in ("response.output_item.added", "response.output_item.done"):
            yield self.event(kind, output_index=self.output_index, item=item)
        self.output_index += 1

    def text(self, choice: Choice) -> Iterator[StreamEvent]:
        whole = _message_item(self.reply, choice, self.number)
        index: dict[str, Any] = {"output_index": self.output_index}
        place: dict[str, Any] = {"item_id": whole["id"], **index, "content_index": 0}
        begun = {**whole, "status": "in_progress", "content": []}
        yield self.event("response.output_item.added", **index, item=begun)
        part = {**whole["content"][0], "text": "", "logprobs": []}
        yield self.event("response.content_part.added", **place, part=part)
        for piece in choice.pieces:
            logprobs = _logprobs(self.reply, (piece,))
            yield self.event("response.output_text.delta", tokens=1, **place, delta=piece, logprobs=logprobs)
        part = whole["content"][0]
        yield self.event("response.output_text.done", **place, text=part["text"], logprobs=part["logprobs"])
        yield self.event("response.content_part.done", **place, part=part)
        yield self.event("response.output_item.done", **index, item=whole)

    def tool_call(self, choice: Choice, call: ToolCall, position: int) -> Iterator[StreamEvent]:
        whole = _call_item(choice, call, self.number, position)
        index: dict[str, Any] = {"output_index": self.output_index}
        place: dict[str, Any] = {"item_id": whole["id"], **index}
        begun = {**whole, "status": "in_progress", "arguments": ""}
        yield self.event("response.output_item.added", tokens=call.name_tokens, **index, item=begun)
        for piece in call.pieces:
            yield self.event("response.function_call_arguments.delta", tokens=1, **place, delta=piece)
        yield self.event(
            "response.function_call_arguments.done",
            **place, name=call.name, arguments=call.arguments,
        )  # fmt: skip
        yield self.event("response.output_item.done", **index, item=whole)
        self.output_index += 1


def _response(reply: Reply, number: int, *, is_finished: bool) -> dict[str, Any]:
    request = reply.prompt.request
    choice = reply.choices[0]
    is_cut = choice.finish_reason == "length"
    status = "incomplete" if is_cut else "completed"
    body: dict[str, Any] = {
        "id": f"resp_sim{number:06d}",
        "object": "response",
        "created_at": CREATED,
        "status": status if is_finished else "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_finished and is_cut else None,
        "model": reply.prompt.model,
        "output": _items(reply, choice, number),
        "parallel_tool_calls": reply.prompt.is_parallel,
        "service_tier": "default",
        "store": request.get("store", True),
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": request.get("tools") or [],
        "usage": _usage(reply.usage),
    }
    for name in _ECHOED:
        body[name] = request.get(name)
    body["text"] = body["text"] or {"format": {"type": "text"}}
    body["metadata"] = body["metadata"] or {}
    return body


def _items(reply: Reply, choice: Choice, number: int) -> list[dict[str, Any]]:
    items = [_reasoning_item(number)] if choice.reasoning_tokens else []
    if choice.tool_calls:
        items += [
            _call_item(choice, call, number, position) for position, call in enumerate(choice.tool_calls)
        ]
    else:
        items.append(_message_item(reply, choice, number))
    return items


def _reasoning_item(number: int) -> dict[str, Any]:
    return {"type": "reasoning", "id": f"rs_sim{number:06d}", "summary": []}


def _message_item(reply: Reply, choice: Choice, number: int) -> dict[str, Any]:
    part = {
        "type": "output_text",
        "text": choice.text,
        "annotations": [],
        "logprobs": _logprobs(reply, choice.pieces),
    }
    return {
        "type": "message",
        "id": f"msg_sim{number:06d}",
        "status": _status(choice),
        "role": "assistant",
        "content": [part],
    }


def _call_item(choice: Choice, call: ToolCall, number: int, position: int) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_sim{number:06d}_{position}",
        "call_id": call_id(number, 0, position),
        "status": _status(choice),
        "name": call.name,
        "arguments": call.arguments,
    }


def _status(choice: Choice) -> str:
    return "incomplete" if choice.finish_reason == "length" else "completed"


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _logprobs(reply: Reply, pieces: tuple[str, ...]) -> list[dict[str, Any]]:
    include = reply.prompt.request.get("include")
    if not isinstance(include, list) or "message.output_text.logprobs" not in include:
        return []
    count = reply.prompt.request.get("top_logprobs")
    count = count if isinstance(count, int) else 0
    return [token_logprob(piece, count) for piece in pieces]


def _sse(kind: str, body: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(body))
