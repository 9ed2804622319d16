"""What a program's author is told by type checkers of the chains. Read by type checkers, never run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable
from langgraph.graph import MessagesState, StateGraph
from pydantic import BaseModel

from chains import (
    AnswerWithSourcesInput,
    AskInput,
    ChatInput,
    ClassifyExample,
    ClassifyInput,
    CritiqueAndReviseInput,
    ExtractInput,
    Label,
    PassageRetriever,
    RewriteInput,
    Route,
    RouteInput,
    SourcedAnswer,
    SummarizeInput,
    TranslateInput,
    abuild_index,
    build_answer_with_sources_chain,
    build_ask_chain,
    build_chat_chain,
    build_classify_chain,
    build_critique_and_revise_chain,
    build_extract_chain,
    build_index,
    build_rewrite_chain,
    build_route_chain,
    build_summarize_chain,
    build_translate_chain,
    load_text_files,
    prompt_fingerprint,
    read_examples,
    split_documents,
)
from lc_service import OpenAIService, RetryWithExponentialBackoff, with_retry


class Boat(BaseModel):
    name: str
    length_meters: float | None


service = OpenAIService()
model = service.chat_model


def chains_to_text_have_typed_inputs() -> None:
    assert_type(build_ask_chain(model), Runnable[AskInput, str])
    assert_type(build_summarize_chain(model, strategy="refine"), Runnable[SummarizeInput, str])
    assert_type(build_translate_chain(model), Runnable[TranslateInput, str])
    assert_type(build_rewrite_chain(model), Runnable[RewriteInput, str])
    assert_type(build_critique_and_revise_chain(model, critic=model), Runnable[CritiqueAndReviseInput, str])
    ask = build_ask_chain(model)
    assert_type(ask.invoke({"question": "When is high tide?"}), str)
    assert_type(ask.batch([{"question": "When is high tide?", "context": "Tide tables"}]), list[str])
    assert_type(ask.stream({"question": "When is high tide?"}), Iterator[str])
    build_translate_chain(model).invoke({"text": "Hello", "target_language": "German"})


async def an_asynchronous_answer_has_the_same_type() -> None:
    assert_type(await build_ask_chain(model).ainvoke({"question": "When is high tide?"}), str)


def extracting_gives_objects_of_the_schema() -> None:
    one = build_extract_chain(model, Boat)
    assert_type(one, Runnable[ExtractInput, Boat])
    assert_type(one.invoke({"text": "The Aurora came in."}).length_meters, float | None)
    assert_type(
        build_extract_chain(model, list[Boat], method="json_schema"), Runnable[ExtractInput, list[Boat]]
    )


def classifying_gives_one_label_or_several(is_several: bool, examples: list[ClassifyExample]) -> None:
    labels = {"calm": "under 2 Bft", "storm": "9 Bft and more"}
    assert_type(build_classify_chain(model, labels), Runnable[ClassifyInput, Label])
    assert_type(build_classify_chain(model, labels, examples=examples).invoke({"text": "x"})["label"], str)
    assert_type(build_classify_chain(model, ["a", "b"], several=True), Runnable[ClassifyInput, list[Label]])
    either: Runnable[ClassifyInput, Label | list[Label]] = build_classify_chain(
        model, labels, several=is_several
    )
    assert_type(either.invoke({"text": "It blows."}), Label | list[Label])
    assert_type(read_examples(Path("examples.jsonl")), list[ClassifyExample])


def a_conversation_goes_on_in_messages() -> None:
    chat = build_chat_chain(model, system="You are a pilot.")
    assert_type(chat, Runnable[ChatInput, AIMessage])
    assert_type(chat.invoke({"messages": [HumanMessage("Hello")]}), AIMessage)


def a_conversation_is_the_state_of_a_graph(state: MessagesState) -> None:
    chat = build_chat_chain(model)
    assert_type(chat.invoke(state), AIMessage)

    def added(answer: AIMessage) -> MessagesState:
        return {"messages": [answer]}

    node = chat | added
    assert_type(node.invoke(state), MessagesState)
    StateGraph(MessagesState).add_node("chat", node)


def answers_name_their_sources(retriever: Runnable[str, list[Document]]) -> None:
    passages = split_documents(load_text_files(["tides.txt", Path("boats.txt")]))
    assert_type(passages, list[Document])
    index = build_index(passages, service.embeddings, max_passages=3)
    assert_type(index, PassageRetriever)
    chain = build_answer_with_sources_chain(model, index)
    assert_type(chain, Runnable[AnswerWithSourcesInput, SourcedAnswer])
    answer = chain.invoke({"question": "When is high tide?"})
    assert_type(answer["is_answered"], bool)
    assert_type(answer["citations"][0]["document"], Document)
    assert_type(answer["citations"][0]["score"], float | None)
    build_answer_with_sources_chain(model, retriever)


async def an_index_is_built_in_an_event_loop(documents: list[Document]) -> None:
    assert_type(await abuild_index(documents, service.embeddings), PassageRetriever)


def a_route_takes_any_chain() -> None:
    routes = {"ask": Route("answers questions", build_ask_chain(model))}
    assert_type(build_route_chain(model, routes), Runnable[RouteInput, Any])


def chains_take_any_model_and_are_ordinary_runnables() -> None:
    build_ask_chain(FakeListChatModel(responses=["At noon."]))
    build_ask_chain(model.bind(logprobs=True))
    build_ask_chain(model.with_fallbacks([FakeListChatModel(responses=["At noon."])]))
    retried = with_retry(build_extract_chain(model, Boat), RetryWithExponentialBackoff())
    assert_type(retried, Runnable[ExtractInput, Boat])
    assert_type(prompt_fingerprint(retried), str)
