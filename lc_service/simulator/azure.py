"""Azure OpenAI's paths, and what its answers have besides: the verdicts of its content filter.

Invariant: an answer is OpenAI's with additions; tokens and text are the same.
It writes; keys, errors and headers are `dialect`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from lc_service.simulator.dialect import AZURE_ROOT
from lc_service.simulator.endpoint import Endpoint
from lc_service.simulator.stream import StreamEvent

_SAFE = {
    kind: {"filtered": False, "severity": "safe"} for kind in ("hate", "self_harm", "sexual", "violence")
}
_PROMPT_SAFE = [{"prompt_index": 0, "content_filter_results": _SAFE}]


def azure_endpoints(endpoints: Mapping[str, Endpoint]) -> dict[str, Endpoint]:
    """Return Azure's endpoints by path, made from OpenAI's."""
    chat = _filtered(endpoints["/v1/chat/completions"])
    embeddings = endpoints["/v1/embeddings"]
    responses = endpoints["/v1/responses"]
    return {
        f"{AZURE_ROOT}deployments/{{deployment}}/chat/completions": chat,
        f"{AZURE_ROOT}deployments/{{deployment}}/embeddings": embeddings,
        f"{AZURE_ROOT}responses": responses,
        f"{AZURE_ROOT}v1/chat/completions": chat,
        f"{AZURE_ROOT}v1/embeddings": embeddings,
        f"{AZURE_ROOT}v1/responses": responses,
    }


def _filtered(chat: Endpoint) -> Endpoint:
    """Return the chat endpoint with the filter's verdicts in its answers."""
    write_events = chat.events
    assert write_events is not None  # noqa: S101  chat streams

    def plain(answer: Any, number: int, **options: Any) -> bytes:
        body = orjson.loads(chat.plain(answer, number, **options))
        for choice in body["choices"]:
            choice["content_filter_results"] = _SAFE
        return orjson.dumps({**body, "prompt_filter_results": _PROMPT_SAFE})

    def events(answer: Any, number: int) -> Iterator[StreamEvent]:
        opening = {
            "id": "", "object": "", "created": 0, "model": "", "choices": [],
            "prompt_filter_results": _PROMPT_SAFE,
        }  # fmt: skip
        yield StreamEvent(data=b"data: %b\n\n" % orjson.dumps(opening))
        for event in write_events(answer, number):
            yield replace(event, data=_with_verdicts(event.data))

    return replace(chat, plain=plain, events=events)


def _with_verdicts(data: bytes) -> bytes:
    written = data.removeprefix(b"data: ").strip()
    if written == b"[DONE]":
        return data
    chunk = orjson.loads(written)
    for choice in chunk["choices"]:
        choice["content_filter_results"] = _SAFE if choice["delta"].get("content") else {}
    return b"data: %b\n\n" % orjson.dumps(chunk)
