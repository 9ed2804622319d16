"""What every server must let us do, whoever wrote it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from lc_service import track_usage
from lc_service.accounting.usage import TokenUsage
from lc_service.retry.errors import ErrorKind, classify


def told(usage: dict[str, Any]) -> tuple[int, int]:
    """Return the tokens that a server tells: of the prompt, and of the answer."""
    return usage["prompt_tokens"], usage.get("completion_tokens", 0)


def counted(usage: TokenUsage) -> tuple[int, int]:
    return usage.input_tokens, usage.output_tokens


def test_an_answer_is_what_the_server_says_and_counted_as_it_counts(server):
    body = server.ask().json()
    with track_usage() as usage:
        answer = server.chat().invoke("hello")
    assert answer.text == body["choices"][0]["message"]["content"] != ""
    assert counted(usage.total) == told(body["usage"]) != (0, 0)
    assert (usage.calls, usage.attempts, usage.measured) == (1, 1, 1)


def streamed_usage(server: Any) -> dict[str, Any]:
    """Return the usage that a stream ends with, read past this package."""
    lines = server.ask(stream=True, stream_options={"include_usage": True}).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return next(event["usage"] for event in reversed(events) if event.get("usage"))


def test_a_stream_is_the_answer_in_pieces_and_counted_as_it_counts(server):
    whole = server.ask().json()
    with track_usage() as usage:
        pieces = [chunk.text for chunk in server.chat().stream("hello") if chunk.text]
    assert len(pieces) > 1
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert counted(usage.total) == told(streamed_usage(server)) != (0, 0)
    assert (usage.calls, usage.attempts, usage.measured) == (1, 1, 1)


async def test_the_same_awaited(server):
    body = server.ask().json()
    text = body["choices"][0]["message"]["content"]
    model = server.chat()
    with track_usage() as usage:
        answer = await model.ainvoke("hello")
        pieces = [chunk.text async for chunk in model.astream("hello")]
    assert answer.text == "".join(pieces) == text
    assert (usage.calls, usage.attempts, usage.measured) == (2, 2, 2)


def test_one_model_serves_one_event_loop_after_another(server):
    model = server.chat()
    answers = [asyncio.run(model.ainvoke("hello")).text for _ in range(2)]
    assert answers[0] == answers[1] != ""


async def test_many_at_once_lose_nothing(server):
    model = server.chat()
    with track_usage() as usage:
        answers = await model.abatch(["hello"] * 24)
    assert all(answer.text for answer in answers)
    assert (usage.calls, usage.measured) == (24, 24)
    each = told(server.ask().json()["usage"])
    assert counted(usage.total) == (24 * each[0], 24 * each[1])


def test_a_stream_that_is_left_leaves_the_server_in_order(server):
    model = server.chat(max_tokens=200)
    with track_usage() as usage:
        stream = model.stream("a long story")
        first = next(stream)
        stream.close()
    assert first is not None
    assert (usage.attempts, usage.estimated + usage.unknown) == (1, 1)
    assert server.chat().invoke("hello").text


def test_vectors_belong_to_their_texts(server):
    texts = ["copper", "a rather longer text about tin", "zinc"]
    body = server.post("/v1/embeddings", {"model": server.embedding_model, "input": texts}).json()
    expected = [item["embedding"] for item in sorted(body["data"], key=lambda item: item["index"])]
    with track_usage() as usage:
        vectors = server.embeddings().embed_documents(texts)
    assert len(vectors) == 3
    for vector, other in zip(vectors, expected, strict=True):
        assert vector == pytest.approx(other, abs=1e-5)
    assert counted(usage.total) == told(body["usage"])
    assert (usage.calls, usage.measured) == (1, 1)


async def test_vectors_of_many_requests_come_in_order(server):
    texts = [f"metal number {number}" for number in range(12)]
    model = server.embeddings(chunk_size=2)
    one_by_one = [model.embed_query(text) for text in texts]
    with track_usage() as usage:
        vectors = await model.aembed_documents(texts)
    assert usage.calls == 6
    for vector, other in zip(vectors, one_by_one, strict=True):
        assert vector == pytest.approx(other, abs=1e-5)


def test_the_service_counts_all_it_did(server):
    service = server.service(embedding_model=server.embedding_model)
    completion = service.chat_completion("hello", temperature=0, max_tokens=24)
    pieces = list(service.stream_chat("hello", temperature=0, max_tokens=24))
    assert "".join(pieces) == completion["content"] != ""
    assert counted(service.usage.total) == (
        2 * completion["usage"]["prompt_tokens"],
        2 * completion["usage"]["completion_tokens"],
    )
    assert service.get_token_usage() == {
        "total_tokens": 2 * completion["usage"]["total_tokens"],
        "prompt_tokens": 2 * completion["usage"]["prompt_tokens"],
        "completion_tokens": 2 * completion["usage"]["completion_tokens"],
    }


def failure(model: Any, text: str = "hello") -> Exception:
    """Return how a call fails; it must fail at its first attempt."""
    with track_usage() as usage, pytest.raises(Exception) as caught:
        model.invoke(text)
    assert usage.attempts == 1
    return caught.value


def test_a_wrong_key_is_no_use_to_try_again(server):
    error = failure(server.chat(api_key="sk-wrong"))
    verdict = classify(error)
    assert not verdict.is_transient
    assert verdict.kind in (ErrorKind.AUTHENTICATION, ErrorKind.INVALID_REQUEST)
    assert "sk-wrong" not in str(error)


def test_an_unknown_model_is_no_use_to_try_again(server):
    model = server.chat(model="nonesuch")
    if server.takes_any_model:
        assert model.invoke("hello").text
        return
    assert classify(failure(model)).kind in (ErrorKind.NOT_FOUND, ErrorKind.INVALID_REQUEST)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_prompt_that_is_too_long_is_known_as_such(server, is_stream):
    model = server.chat(model=server.too_long_model or server.chat_model, streaming=is_stream)
    verdict = classify(failure(model, server.too_long))
    assert (verdict.kind, verdict.is_transient) == (ErrorKind.CONTEXT_OVERFLOW, False)
