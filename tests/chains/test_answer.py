from __future__ import annotations

import pickle

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableLambda

from chains.answer import AnswerError, WholeText

CUT = [
    ({"finish_reason": "length"}, "cut at its greatest length"),
    ({"stop_reason": "max_tokens"}, "cut at its greatest length"),
    ({"finish_reason": "MAX_TOKENS"}, "cut at its greatest length"),
    ({"finish_reason": "content_filter"}, "content filter"),
    ({"status": "incomplete"}, "before it was whole"),
]


@pytest.mark.parametrize(
    "told", [{}, {"finish_reason": "stop"}, {"status": "completed"}, {"finish_reason": None}]
)
def test_a_whole_answer_is_its_text(told):
    assert WholeText().invoke(AIMessage("Ebb.", response_metadata=told)) == "Ebb."
    assert WholeText().invoke("Ebb.") == "Ebb."


@pytest.mark.parametrize(("told", "why"), CUT)
def test_a_cut_answer_raises_and_keeps_what_there_is(told, why):
    with pytest.raises(AnswerError, match=why) as caught:
        WholeText().invoke(AIMessage("Ebb", response_metadata=told))
    assert caught.value.llm_output == "Ebb"


@pytest.mark.parametrize(("told", "why"), CUT)
async def test_a_cut_stream_raises_at_its_end(told, why):
    chunks = [AIMessageChunk("Eb"), AIMessageChunk("b"), AIMessageChunk("", response_metadata=told)]
    texts = WholeText().transform(iter(chunks))
    assert [next(texts), next(texts), next(texts)] == ["Eb", "b", ""]
    with pytest.raises(AnswerError, match=why) as caught:
        next(texts)
    assert caught.value.llm_output == "Ebb"

    async def stream():
        for chunk in chunks:
            yield chunk

    with pytest.raises(AnswerError, match=why):
        [text async for text in WholeText().atransform(stream())]


@pytest.mark.parametrize("content", ["", " \n", "\u200b", [], [{"type": "reasoning", "reasoning": "Hm."}]])
async def test_an_answer_without_text_raises(content):
    model = RunnableLambda(lambda _: AIMessage(content)) | WholeText()
    with pytest.raises(AnswerError, match="has no text"):
        model.invoke(1)
    with pytest.raises(AnswerError, match="has no text"):
        list(model.stream(1))
    with pytest.raises(AnswerError, match="has no text"):
        [chunk async for chunk in model.astream(1)]


def test_the_error_pickles_with_its_text_and_without_growing():
    error = AnswerError("the answer was cut", text="Ebb")
    copy = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))
    assert (str(copy), copy.llm_output) == ("the answer was cut", "Ebb")
