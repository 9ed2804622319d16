"""Calls that nobody waits for to the end: each attempt has one record, and says how sure its usage is."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lc_service import RetryWithExponentialBackoff, TruncatedResponseError, track_usage
from lc_service.accounting.record import AttemptRecord, AttemptStatus, Certainty
from lc_service.accounting.tokenizer import estimator_for
from lc_service.models.chat import ReliableChatOpenAI
from lc_service.models.embeddings import ReliableOpenAIEmbeddings
from lc_service.simulator import Fault, Simulator

KEY = "sk-test-accounting-0123456789"
QUESTION = (
    "Describe the harbour of a small town at dawn: the boats, the birds, the people who work there, what "
    "they carry, what they say to each other, and how the light changes until the market opens."
)


class Stage:
    """A simulator of its own, a model without reasoning, and the records of its attempts."""

    def __init__(self, simulator: Simulator, **options: Any) -> None:
        self.sim = simulator
        self.records: list[AttemptRecord] = []
        self.model = ReliableChatOpenAI(
            model="gpt-4.1-mini",
            api_key=KEY,
            base_url=simulator.base_url,
            retry=RetryWithExponentialBackoff(max_retries=0),
            ledger=self,
            **options,
        )

    def record(self, record: AttemptRecord) -> None:
        self.records.append(record)

    async def arecord(self, record: AttemptRecord) -> None:
        self.records.append(record)

    def post(self, record: AttemptRecord) -> None:
        self.records.append(record)

    def warm(self) -> None:
        """Let the estimator learn how this server counts."""
        for number in range(20):
            self.model.invoke(f"{QUESTION} Number {number}.")
        self.records.clear()
        self.sim.reset()

    def only(self) -> AttemptRecord:
        (record,) = self.records
        return record

    def assert_close(self, within: float = 0.15) -> None:
        """Hold the one record's estimate against the bill."""
        assert self.sim.wait_until_idle()
        record, billed = self.only(), self.sim.bill.total
        assert record.certainty is Certainty.ESTIMATED
        assert billed.output_tokens > 0
        for ours, theirs in (
            (record.usage.input_tokens, billed.input_tokens),
            (record.usage.output_tokens, billed.output_tokens),
        ):
            assert abs(ours - theirs) <= max(within * theirs, 2), (ours, theirs)


@pytest.fixture
def make_stage() -> Iterator[Callable[..., Stage]]:
    with contextlib.ExitStack() as stack:

        def make(faults: Any = None, *, options: dict[str, Any] | None = None, **settings: Any) -> Stage:
            simulator = stack.enter_context(Simulator(max_lifetime_seconds=60, **settings))
            stage = Stage(simulator, **(options or {}))
            stage.warm()
            simulator.set_faults(faults)
            return stage

        yield make


def _drained(stream: Any) -> int:
    return sum(1 for _ in stream)


@pytest.mark.parametrize("after_chunks", [5, 20])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("use_responses_api", [False, True])
def test_a_cut_stream_is_estimated(
    make_stage: Any, after_chunks: int, is_async: bool, use_responses_api: bool
) -> None:
    stage = make_stage(
        [Fault("cut", after_chunks=after_chunks)], options={"use_responses_api": use_responses_api}
    )

    async def adrain() -> None:
        async for _ in stage.model.astream(QUESTION):
            pass

    with track_usage() as usage, pytest.raises(TruncatedResponseError) as caught:
        asyncio.run(adrain()) if is_async else _drained(stage.model.stream(QUESTION))
    stage.assert_close()
    record = stage.only()
    assert record.status is AttemptStatus.TRUNCATED
    assert record.error_kind == "truncated"
    assert caught.value.usage == record.usage
    assert (usage.calls, usage.estimated, usage.unknown) == (1, 1, 0)
    assert usage.total == record.usage
    assert usage.cost_usd == record.cost_usd > 0
    assert record.first_chunk_seconds <= record.latency_seconds
    assert record.request_id


def test_a_stream_without_an_end_is_estimated(make_stage: Any) -> None:
    stage = make_stage(["no_finish"])
    with pytest.raises(TruncatedResponseError):
        _drained(stage.model.stream(QUESTION))
    stage.assert_close()


@pytest.mark.parametrize("how", ["break", "close", "collect"])
def test_an_abandoned_stream_is_estimated(make_stage: Any, how: str) -> None:
    stage = make_stage(chunk_delay_seconds=0.004)
    stream = stage.model.stream(QUESTION)
    with track_usage() as usage:
        if how == "break":
            for number, _ in enumerate(stream):
                if number == 40:
                    break
            del stream
        else:
            for _ in range(40):
                next(stream)
            if how == "close":
                stream.close()
            else:
                del stream
        gc.collect()
        stage.assert_close()  # the server goes on until it sees that nobody reads
    assert stage.only().status is AttemptStatus.ABANDONED
    assert (usage.calls, usage.attempts, usage.estimated) == (1, 1, 1)


@pytest.mark.parametrize("how", ["break", "aclose", "collect"])
async def test_an_abandoned_async_stream_is_estimated(make_stage: Any, how: str) -> None:
    stage = await asyncio.to_thread(make_stage, chunk_delay_seconds=0.004)
    with track_usage() as usage:
        stream = stage.model.astream(QUESTION)
        number = 0
        async for _ in stream:
            number += 1
            if number == 40:
                break
        if how == "aclose":
            await stream.aclose()
        del stream
        gc.collect()
        for _ in range(100):
            if stage.records:
                break
            await asyncio.sleep(0.005)
    stage.assert_close()
    assert stage.only().status is AttemptStatus.ABANDONED
    assert (usage.calls, usage.attempts, usage.estimated) == (1, 1, 1)


async def test_a_cancelled_stream_is_estimated(make_stage: Any) -> None:
    stage = await asyncio.to_thread(make_stage, chunk_delay_seconds=0.004)
    started = asyncio.Event()
    count = 0

    async def read() -> None:
        nonlocal count
        async for _ in stage.model.astream(QUESTION):
            count += 1
            if count == 40:
                started.set()

    with track_usage() as usage:
        task = asyncio.create_task(read())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    stage.assert_close()
    assert stage.only().status is AttemptStatus.CANCELLED
    assert (usage.calls, usage.attempts, usage.estimated) == (1, 1, 1)


async def _until(condition: Callable[[], Any]) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")


async def test_a_cancelled_call_is_unknown(make_stage: Any) -> None:
    stage = await asyncio.to_thread(make_stage, [Fault("slow", delay_seconds=5)])
    with track_usage() as usage:
        task = asyncio.create_task(stage.model.ainvoke(QUESTION))
        await _until(lambda: stage.sim.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (stage.only().status, stage.only().certainty) == (AttemptStatus.CANCELLED, Certainty.UNKNOWN)
    assert (usage.calls, usage.attempts, usage.unknown, usage.cost_usd) == (1, 1, 1, None)


async def test_cancelling_a_batch_leaves_a_record_for_each_call(make_stage: Any) -> None:
    stage = await asyncio.to_thread(make_stage, [Fault("slow", delay_seconds=5)] * 6)
    with track_usage() as usage:
        task = asyncio.create_task(stage.model.abatch([f"{QUESTION} {number}" for number in range(6)]))
        await _until(lambda: len(stage.sim.requests) == 6)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await _until(lambda: len(stage.records) == 6)
    assert {record.status for record in stage.records} == {AttemptStatus.CANCELLED}
    assert len({record.run_id for record in stage.records}) == 6
    assert (usage.calls, usage.unknown) == (6, 6)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_timeout_is_unknown_for_every_attempt(make_stage: Any, is_async: bool) -> None:
    stage = make_stage([Fault("slow", delay_seconds=5)] * 2)
    model = stage.model.with_retry(retry=RetryWithExponentialBackoff(0, 0, 2))
    model.root_client.timeout = model.root_async_client.timeout = 0.3
    with track_usage() as usage:
        asyncio.run(model.ainvoke(QUESTION)) if is_async else model.invoke(QUESTION)
    kinds = [(record.attempt, record.error_kind, record.certainty) for record in stage.records]
    assert kinds == [(1, "timeout", "unknown"), (2, "timeout", "unknown"), (3, None, "measured")]
    assert len({record.run_id for record in stage.records}) == 1
    assert (usage.calls, usage.attempts, usage.unknown) == (1, 3, 2)
    assert usage.total == stage.records[-1].usage


def test_a_thread_that_is_gone_leaves_no_stream_open(make_stage: Any) -> None:
    stage = make_stage(chunk_delay_seconds=0.004)

    def read_a_little() -> None:
        stream = stage.model.stream(QUESTION)
        next(stream)

    thread = threading.Thread(target=read_a_little)
    thread.start()
    thread.join()
    gc.collect()
    assert stage.only().status is AttemptStatus.ABANDONED


@pytest.mark.parametrize("is_async", [False, True])
def test_a_failed_chunk_of_embeddings_has_its_own_records(make_stage: Any, is_async: bool) -> None:
    stage = make_stage(["rate_limit", "reset"])
    embeddings = ReliableOpenAIEmbeddings(
        api_key=KEY,
        base_url=stage.sim.base_url,
        chunk_size=2,
        ledger=stage,
        retry=RetryWithExponentialBackoff(0, 0, 3),
    )
    texts = [f"Text {number}" for number in range(6)]
    with track_usage() as usage:
        asyncio.run(embeddings.aembed_documents(texts)) if is_async else embeddings.embed_documents(texts)
    assert sorted(record.error_kind for record in stage.records if record.error_kind) == [
        "connection",
        "rate_limit",
    ]
    assert len({record.run_id for record in stage.records}) == 3
    billed = stage.sim.bill.total.total_tokens
    assert usage.total.total_tokens == billed == sum(r.usage.total_tokens for r in stage.records)
    assert (usage.calls, usage.attempts) == (3, 5)


def test_estimates_learn_the_servers_way_to_count(make_stage: Any) -> None:
    stage = make_stage()
    before = stage.model.get_num_tokens(QUESTION)
    estimator = estimator_for("gpt-4.1-mini")
    assert before == estimator.count(QUESTION)
    stage.model.invoke(QUESTION)
    billed = stage.sim.bill.total.input_tokens
    assert abs(stage.model.get_num_tokens(QUESTION) + 7 - billed) <= 0.15 * billed
