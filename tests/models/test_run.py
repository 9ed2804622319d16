"""A call's records carry LangChain's own run: its id, tags and metadata, streamed or not."""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from lc_service import RetryWithExponentialBackoff, TokenCounter, UsageLedger, track_usage
from lc_service.accounting.record import AttemptRecord


class Watcher(BaseCallbackHandler):
    """Keeps what LangChain says of a run."""

    run_inline = True

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.retries: list[tuple[Any, int]] = []
        self.ends: list[Any] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **about: Any) -> None:
        self.starts.append(about)

    def on_retry(self, retry_state: Any, *, run_id: Any, **_: Any) -> None:
        self.retries.append((run_id, retry_state.attempt_number))

    def on_llm_end(self, response: Any, *, run_id: Any, **_: Any) -> None:
        self.ends.append(run_id)


class Records:
    def __init__(self) -> None:
        self.all: list[AttemptRecord] = []

    def record(self, record: AttemptRecord) -> None:
        self.all.append(record)

    async def arecord(self, record: AttemptRecord) -> None:
        self.all.append(record)

    def post(self, record: AttemptRecord) -> None:
        self.all.append(record)


def invoke(runnable: Any, value: Any, config: Any) -> None:
    runnable.invoke(value, config)


def ainvoke(runnable: Any, value: Any, config: Any) -> None:
    asyncio.run(runnable.ainvoke(value, config))


def stream(runnable: Any, value: Any, config: Any) -> None:
    list(runnable.stream(value, config))


def astream(runnable: Any, value: Any, config: Any) -> None:
    async def drain() -> None:
        async for _ in runnable.astream(value, config):
            pass

    asyncio.run(drain())


def events(runnable: Any, value: Any, config: Any) -> None:
    async def drain() -> None:
        async for _ in runnable.astream_events(value, config, version="v2"):
            pass

    asyncio.run(drain())


CALLS = [invoke, ainvoke, stream, astream, events]


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize("is_chain", [False, True], ids=["model", "chain"])
def test_the_records_run_is_langchains(
    call: Any, is_chain: bool, simulate: Any, make_model: Any, records: Records
) -> None:
    simulate(faults=["rate_limit"])
    watcher, own = Watcher(), Watcher()
    model = make_model(tags=["of-model"], metadata={"team": "search"}, callbacks=[own], ledger=records)
    chain = ChatPromptTemplate.from_template("Of {topic}") | model
    config = {"tags": ["of-call"], "metadata": {"user": "ann", "nothing": None}, "callbacks": [watcher]}
    call(*((chain, {"topic": "tin"}) if is_chain else (model, "Of tin")), config)
    (start,) = watcher.starts
    assert own.starts == [start]
    assert [record.run_id for record in records.all] == [start["run_id"]] * 2
    assert [record.attempt for record in records.all] == [1, 2]
    assert watcher.retries == own.retries == [(start["run_id"], 1)]
    for record in records.all:
        assert set(record.tags) == {"of-model", "of-call"} <= set(start["tags"])
        assert record.metadata == {"team": "search", "user": "ann"}
        assert record.is_stream == (call not in (invoke, ainvoke))


@pytest.mark.parametrize("call", [invoke, stream, astream], ids=lambda call: call.__name__)
def test_a_given_run_id_is_kept(call: Any, simulate: Any, make_model: Any, records: Records) -> None:
    simulate()
    run_id = uuid4()
    watcher = Watcher()
    call(make_model(ledger=records), "Hello", {"run_id": run_id, "callbacks": [watcher]})
    assert watcher.starts[0]["run_id"] == run_id
    assert records.all[0].run_id == run_id


def test_a_run_id_that_is_used_twice_loses_no_row(simulate: Any, make_model: Any, tmp_path: Any) -> None:
    simulate()
    config = {"run_id": uuid4()}
    with UsageLedger(tmp_path / "usage.db") as ledger:
        model = make_model(ledger=ledger)
        model.invoke("Hello", config)
        list(model.stream("Hello", config))
        rows = list(ledger.records())
    assert [row.run_id for row in rows] == [config["run_id"]] * 2
    assert len({row.call_id for row in rows}) == 2


def test_each_stream_has_a_run_of_its_own(simulate: Any, make_model: Any, records: Records) -> None:
    simulate()
    model = make_model(ledger=records)
    one, other = model.stream("Hello"), model.stream("Hello")
    for _ in zip(one, other, strict=True):
        pass
    assert len({record.run_id for record in records.all}) == 2


def test_a_model_called_for_every_token_of_another_keeps_its_own_run(
    simulate: Any, make_model: Any, records: Records
) -> None:
    simulate()
    inner, seen = make_model(ledger=records), Watcher()

    class Asking(BaseCallbackHandler):
        def on_llm_new_token(self, token: str, **_: Any) -> None:
            if token and len(records.all) < 3:
                inner.invoke("And?", {"callbacks": [seen]})

    outer = Watcher()
    list(make_model(ledger=records).stream("Hello", {"callbacks": [outer, Asking()]}))
    assert [record.run_id for record in records.all[:3]] == [start["run_id"] for start in seen.starts]
    assert records.all[-1].run_id == outer.starts[0]["run_id"]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_counter_in_a_thread_without_the_context_is_found(
    call: Any, simulate: Any, make_model: Any
) -> None:
    """LangChain hands a tracker on with the config, where the context is not copied."""
    server = simulate(faults=["rate_limit"])
    counter = TokenCounter()
    with track_usage() as usage:
        step = RunnableLambda(lambda text, config: call(make_model(), text, config))
        step.invoke("Hello", {"callbacks": [counter]})
    for report in (usage, counter.usage):
        assert report.total.total_tokens == server.bill.total.total_tokens > 0
        assert (report.calls, report.attempts) == (1, 2)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_stream_that_another_thread_reads_is_counted_where_it_was_made(
    is_async: bool, simulate: Any, make_model: Any
) -> None:
    server = simulate(faults=["rate_limit"])
    model = make_model()

    async def adrain(chunks: Any) -> None:
        async for _ in chunks:
            pass

    with track_usage() as outer, track_usage() as inner:
        read: Any = (lambda chunks: asyncio.run(adrain(chunks))) if is_async else list
        chunks = model.astream("Hello") if is_async else model.stream("Hello")
        thread = threading.Thread(target=read, args=(chunks,))
        thread.start()
        thread.join()
    for report in (outer, inner):
        assert report.total.total_tokens == server.bill.total.total_tokens > 0
        assert (report.calls, report.attempts) == (1, 2)


def test_direct_use_of_the_seams_is_counted(simulate: Any, make_model: Any, records: Records) -> None:
    server = simulate()
    model = make_model(ledger=records, retry=RetryWithExponentialBackoff(max_retries=0))
    from langchain_core.messages import HumanMessage

    with track_usage() as usage:
        model._generate([HumanMessage("Hello")])
        list(model._stream([HumanMessage("Hello")]))
    assert usage.total.total_tokens == server.bill.total.total_tokens
    assert usage.calls == 2
