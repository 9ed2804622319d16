"""What holds for each chain whose model fills in a form: how it is traced, pickled, drawn, batched."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from pydantic import ValidationError

from chains import (
    Critique,
    InvalidAnswerError,
    Route,
    build_answer_with_sources_chain,
    build_classify_chain,
    build_critique_and_revise_chain,
    build_extract_chain,
    build_index,
    build_route_chain,
    prompt_fingerprint,
)
from lc_service import track_usage

DOCUMENTS = [Document("The lamp is lit at dusk.", metadata={"source": "rules.txt"})]


class AsyncEmbedding(DeterministicFakeEmbedding):
    async def aembed_query(self, text: str) -> list[float]:
        return self.embed_query(text)


def _build_extract(model):
    return build_extract_chain(model, Critique)  # any schema that can be pickled


def _build_classify(model):
    return build_classify_chain(model, ["calm", "storm"])


def _build_answer(model):
    return build_answer_with_sources_chain(model, build_index(DOCUMENTS, AsyncEmbedding(size=8)))


def _build_route(model):
    return build_route_chain(model, {"a": Route("everything", RunnablePassthrough())})


def _build_critique(model):
    return build_critique_and_revise_chain(model)


CRITIQUE = {"problems": [], "is_good": True}
SOURCED = {"is_answered": True, "answer": "At dusk.", "citations": [1]}


class Case(NamedTuple):
    """A chain, the key of its text, the rest of its input, its task, and a good answer of its model."""

    build: Callable[[Any], Any]
    key: str
    rest: dict[str, Any]
    task: str
    answer: dict[str, Any]

    @property
    def value(self) -> dict[str, Any]:
        return {self.key: "a", **self.rest}

    @property
    def good(self) -> str:
        return json.dumps(self.answer)


CASES = [
    Case(_build_extract, "text", {}, "extract", CRITIQUE),
    Case(_build_classify, "text", {}, "classify", {"label": "calm"}),
    Case(_build_answer, "question", {}, "answer_with_sources", SOURCED),
    Case(_build_route, "text", {}, "route", {"label": "a"}),
    Case(_build_critique, "task", {"draft": "x"}, "critique_and_revise", CRITIQUE),
]
every_chain = pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)


def _scripted(case: Case) -> FakeListChatModel:
    return FakeListChatModel(responses=[case.good])


class RunRecorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.names: list[str] = []
        self.tags: list[set[str]] = []
        self.metadata: list[dict[str, Any]] = []
        self.orphans = 0
        self.errors: list[BaseException] = []

    def _start(self, name: str, tags: list[str], metadata: dict[str, Any], parent: UUID | None) -> None:
        self.names.append(name)
        self.tags.append(set(tags))
        self.metadata.append(metadata)
        self.orphans += parent is None

    def on_chain_start(self, serialized: Any, inputs: Any, *, name: str, **kwargs: Any) -> None:
        self._start(name, kwargs["tags"], kwargs["metadata"], kwargs["parent_run_id"])

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self._start("model", kwargs["tags"], kwargs["metadata"], kwargs["parent_run_id"])

    def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(error)


@every_chain
@pytest.mark.parametrize("is_async", [False, True])
async def test_every_run_descends_from_one_and_carries_the_prompts_identity(case, is_async):
    chain, recorder = case.build(_scripted(case)), RunRecorder()
    config = {"callbacks": [recorder], "tags": ["mine"]}
    await chain.ainvoke(case.value, config) if is_async else chain.invoke(case.value, config)
    assert recorder.names[0] == case.task
    assert recorder.orphans == 1
    assert {f"chains:{case.task}", "mine"} <= recorder.tags[0]
    assert "mine" in recorder.tags[recorder.names.index("model")]
    version = import_module(f"chains.{case.task}").PROMPT_VERSION
    for metadata in recorder.metadata:
        assert metadata["prompt_version"] == version
        assert metadata["prompt_fingerprint"] == prompt_fingerprint(chain)


@every_chain
@pytest.mark.parametrize("blank", ["", " \n", "\ufeff"])
async def test_nothing_to_read_is_refused_before_a_model_is_called(case, blank, model):
    chain, value = case.build(model), {**case.value, case.key: blank}
    with pytest.raises(ValueError, match=rf"{case.key}\n.*is empty: give it text"):
        chain.invoke(value)
    with pytest.raises(ValueError, match="is empty"):
        await chain.ainvoke(value)
    with pytest.raises(ValueError, match="is empty"):
        list(chain.stream(value))
    with pytest.raises(ValueError, match=rf"{case.key}\n\s+Field required"):
        chain.invoke(case.rest)
    assert model.seen == []


@every_chain
def test_the_input_schema_describes_and_validates(case):
    chain = case.build(_scripted(case))
    schema = next(iter(chain.get_input_jsonschema()["$defs"].values()))
    assert schema["required"] == [case.key]
    assert schema["description"]
    assert all(field["description"] for field in schema["properties"].values())
    check = chain.get_input_schema().model_validate
    check(case.value)
    with pytest.raises(ValidationError):
        check({**case.value, case.key: " "})


@every_chain
def test_a_chain_pickles_and_serializes_alike(case):
    chain = case.build(_scripted(case))
    before = chain.invoke(case.value)
    assert dumps(chain) == dumps(case.build(_scripted(case)))
    assert pickle.loads(pickle.dumps(chain)).invoke(case.value) == before


def test_a_chain_that_extracts_a_list_pickles():
    chain = build_extract_chain(FakeListChatModel(responses=['{"items": []}']), list[Critique])
    assert pickle.loads(pickle.dumps(chain)).invoke({"text": "a"}) == []


@every_chain
def test_a_chain_shows_its_prompts_and_can_be_drawn(case, server):
    for model in (_scripted(case), server.model()):
        chain = case.build(model)
        assert len(chain.get_prompts()) >= 2
        assert type(model).__name__ in chain.get_graph().draw_mermaid()


@every_chain
async def test_every_way_to_run_gives_the_same(case, server, same_as_bill):
    chain, value = case.build(server.model()), case.value
    server.says(*[case.good] * 8)
    with track_usage() as usage:
        outputs = [
            chain.invoke(value),
            await chain.ainvoke(value),
            *chain.batch([value, value]),
            *await chain.abatch([value, value]),
            list(chain.stream(value))[-1],
            [chunk async for chunk in chain.astream(value)][-1],
        ]
    assert all(output == outputs[0] for output in outputs)
    assert len(server.asked) == 8
    same_as_bill(usage)


@every_chain
async def test_async_stays_on_its_thread(case, monkeypatch):
    async def answer(messages):
        return case.good

    chain, hops = case.build(RunnableLambda(lambda _: case.good, afunc=answer)), []
    monkeypatch.setattr(asyncio.BaseEventLoop, "run_in_executor", lambda *args: hops.append(args))
    assert [chunk async for chunk in chain.astream(case.value)] == [await chain.ainvoke(case.value)]
    assert hops == []


@every_chain
def test_no_parser_of_langchains_runs_behind_the_model(case, server):
    recorder = RunRecorder()
    server.says(case.good)
    case.build(server.model()).invoke(case.value, {"callbacks": [recorder]})
    assert not {"RunnableAssign<parsed,parsing_error>", "RunnableWithFallbacks"} & set(recorder.names)
    assert len(recorder.names) <= 5


@every_chain
@pytest.mark.parametrize("is_async", [False, True])
async def test_wrong_answers_fail_their_own_item_of_a_batch(case, is_async, server):
    chain, config = case.build(server.model()), {"max_concurrency": 1}
    server.says("?", "?", case.good)
    if is_async:
        outputs = await chain.abatch([case.value] * 2, config, return_exceptions=True)
    else:
        outputs = chain.batch([case.value] * 2, config, return_exceptions=True)
    assert isinstance(outputs[0], InvalidAnswerError)
    assert not isinstance(outputs[1], Exception)


@every_chain
async def test_an_error_reaches_callbacks_and_whoever_streams(case, server):
    recorder, chain = RunRecorder(), case.build(server.model())
    config = {"callbacks": [recorder]}
    server.says(*["?"] * 4)
    with pytest.raises(InvalidAnswerError) as caught:
        list(chain.stream(case.value, config))
    assert caught.value in recorder.errors
    with pytest.raises(InvalidAnswerError):
        [chunk async for chunk in chain.astream(case.value, config)]
    assert server.script == deque()


@every_chain
def test_a_form_that_was_cut_is_an_error_after_one_request(case, server, same_as_bill):
    server.says(server.cut(case.good))
    with track_usage() as usage, pytest.raises(ValueError, match="cut at its greatest length"):
        case.build(server.model()).invoke(case.value)
    assert len(server.asked) == 1
    same_as_bill(usage)
