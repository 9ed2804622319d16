"""llama.cpp's server with a real, if senseless, model: real streams, log probabilities, grammars, slots."""

from __future__ import annotations

import asyncio
import re
from typing import Literal

import pytest
from pydantic import BaseModel

from lc_service import track_usage
from lc_service.retry.errors import classify

pytestmark = pytest.mark.servers


class Choice(BaseModel):
    """A choice."""

    colour: Literal["red", "green", "blue"]
    is_sure: bool


def totals(server) -> tuple[int, int]:
    """Return what the server says it has worked through since it began: tokens of prompts, and of answers."""
    text = server.get("/metrics").text

    def total(name: str) -> int:
        return int(float(re.search(rf"^llamacpp:{name} (\S+)", text, re.MULTILINE)[1]))

    return total("prompt_tokens_total"), total("tokens_predicted_total")


async def test_what_is_counted_is_what_the_server_worked_through(llama):
    before = totals(llama)
    model = llama.chat()
    with track_usage() as usage:
        model.invoke("How are ships made?")
        list(model.stream("And how are they unmade?"))
        await model.abatch([f"What is {n}?" for n in range(10)])
    after = totals(llama)
    assert usage.measured == 12
    assert (usage.total.input_tokens, usage.total.output_tokens) == (
        after[0] - before[0],
        after[1] - before[1],
    )


def test_an_answer_that_reaches_its_own_limit_is_an_answer(llama):
    answer = llama.chat(max_tokens=5).invoke("hello")
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.usage_metadata["output_tokens"] == 5


def test_log_probabilities_come_with_each_token(llama):
    answer = llama.chat(logprobs=True, top_logprobs=3, max_tokens=6).invoke("hello")
    tokens = answer.response_metadata["logprobs"]["content"]
    assert len(tokens) == answer.usage_metadata["output_tokens"] == 6
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 3 for token in tokens)


# ChatOpenAI's own stream warns so too: it keeps the object where the SDK's type has none
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize("is_stream", [False, True])
def test_structured_output_is_held_by_a_grammar(llama, is_stream):
    model = llama.chat(max_tokens=200, temperature=1.5, streaming=is_stream)
    choices = model.with_structured_output(Choice, method="json_schema").batch(["Which?"] * 5)
    assert all(isinstance(choice, Choice) for choice in choices)


def test_the_responses_api(llama):
    model = llama.chat(use_responses_api=True)
    with track_usage() as usage:
        answer = model.invoke("hello")
        pieces = [chunk.text for chunk in model.stream("hello")]
    assert answer.text == "".join(pieces) != ""
    assert (usage.calls, usage.attempts, usage.measured) == (2, 2, 2)
    assert usage.total.input_tokens == 2 * answer.usage_metadata["input_tokens"]


async def test_more_streams_than_the_server_has_slots_all_come_whole(llama):
    model = llama.chat(max_tokens=64)

    async def read(number: int) -> tuple[str, str]:
        whole = None
        async for chunk in model.astream(f"Story {number}"):
            whole = chunk if whole is None else whole + chunk
        return whole.text, whole.response_metadata["finish_reason"]

    with track_usage() as usage:
        stories = await asyncio.gather(*(read(number) for number in range(16)))
    assert all(text and reason in ("stop", "length") for text, reason in stories)
    assert (usage.calls, usage.measured) == (16, 16)


def test_streams_that_are_left_free_their_slots(llama):
    model = llama.chat(max_tokens=2_000)
    for number in range(8):  # twice as many as there are slots
        stream = model.stream(f"A long story, number {number}")
        next(stream)
        stream.close()
    assert llama.chat().invoke("hello").text


def test_a_text_too_long_to_embed_is_called_a_server_error_and_tried_again(llama):
    model = llama.embeddings()
    with track_usage() as usage, pytest.raises(Exception) as caught:
        model.embed_query("a long text " * 400)
    assert classify(caught.value).status_code == 500
    assert usage.attempts == 1 + model.retry.max_retries
