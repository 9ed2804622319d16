"""Many calls at once, calls that are cancelled, and streams that nobody reads to the end."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.runnables import RunnableLambda

from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.simulator import Fault, FaultPlan

APIS = pytest.mark.parametrize("api", [{}, {"use_responses_api": True}], ids=["chat", "responses"])
QUESTIONS = [f"What is number {number}?" for number in range(64)]
FAULTS = ("rate_limit", "server_error", "unavailable", "reset", "not_json", "broken_json", "error_event")


def assert_right_and_billed(sim, answers) -> None:
    for question, answer in zip(QUESTIONS, answers, strict=True):
        assert question in answer.text
    for name in ("input_tokens", "output_tokens"):
        assert sum(answer.usage_metadata[name] for answer in answers) == getattr(sim.bill.total, name)
    assert sim.bill.requests == len(answers)
    assert sim.bill.interrupted_requests == 0
    assert len(sim.requests) > len(answers) + 5  # the faults were met


@APIS
@pytest.mark.parametrize("seed", [1, 2])
async def test_64_at_once_under_faults(seed, api, simulate, make_model):
    sim = simulate(faults=FaultPlan(seed=seed, rate=0.2, kinds=FAULTS))
    model = make_model(**api)
    assert_right_and_billed(sim, await asyncio.gather(*map(model.ainvoke, QUESTIONS)))


@APIS
def test_64_in_threads_under_faults(api, simulate, make_model):
    sim = simulate(faults=FaultPlan(seed=3, rate=0.2, kinds=FAULTS))
    answers = make_model(**api).batch(QUESTIONS, {"max_concurrency": 16})
    assert_right_and_billed(sim, answers)


async def test_64_streams_at_once_under_faults(simulate, make_model):
    async def read(question: str):
        chunks = [chunk async for chunk in model.astream(question)]
        return sum(chunks[1:], chunks[0])

    # no error_event: after three chunks it is the caller's
    sim = simulate(faults=FaultPlan(seed=4, rate=0.2, kinds=FAULTS[:-1]))
    model = make_model()
    assert_right_and_billed(sim, await asyncio.gather(*map(read, QUESTIONS)))


@pytest.mark.parametrize("is_async", [False, True])
def test_a_batch_with_broken_items_loses_no_answer(is_async, simulate, make_model):
    sim = simulate(faults=FaultPlan(seed=5, rate=0.3, kinds=("bad_request", "insufficient_quota", "reset")))
    model = make_model()
    options = {"config": {"max_concurrency": 16}, "return_exceptions": True}
    got = asyncio.run(model.abatch(QUESTIONS, **options)) if is_async else model.batch(QUESTIONS, **options)
    refused = {r.body for r in sim.requests if r.fault in ("bad_request", "insufficient_quota")}
    for question, answer in zip(QUESTIONS, got, strict=True):
        is_refused = any(question.encode() in body for body in refused)
        assert isinstance(answer, Exception) is is_refused
        assert is_refused or question in answer.text
    answers = [answer for answer in got if not isinstance(answer, Exception)]
    assert 0 < len(refused) == len(QUESTIONS) - len(answers)
    assert sum(a.usage_metadata["total_tokens"] for a in answers) == sim.bill.total.total_tokens


def test_batch_as_completed_keeps_errors_on_their_items(simulate, make_model):
    simulate(faults=FaultPlan(seed=6, rate=0.3, kinds=("bad_request", "reset")))
    items = dict(make_model().batch_as_completed(QUESTIONS, return_exceptions=True))
    assert len(items) == len(QUESTIONS)
    assert all(isinstance(got, Exception) or QUESTIONS[i] in got.text for i, got in items.items())
    assert any(isinstance(got, Exception) for got in items.values())


def test_one_model_in_threads_and_loops_at_once(simulate, make_model):
    sim = simulate(faults=FaultPlan(seed=7, rate=0.2))
    model = make_model()

    def ask(number: int) -> str:
        question = QUESTIONS[number]
        answer = asyncio.run(model.ainvoke(question)) if number % 2 else model.invoke(question)
        return question in answer.text

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(32)))
    assert sim.bill.requests == 32


# Cancellation


async def soon(condition) -> None:
    """Wait until `condition` holds, for a second at most."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come to pass")


async def test_a_cancelled_call_is_not_sent_again(simulate, make_model):
    sim = simulate(faults=[Fault("slow", delay_seconds=5)])
    task = asyncio.create_task(make_model().ainvoke("Hello"))
    await soon(lambda: sim.requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(lambda: sim.bill.interrupted_requests == 1)  # the connection was closed: the server knows
    assert len(sim.requests) == 1
    assert "again" in (await make_model().ainvoke("again")).text


async def test_a_wait_can_be_cancelled(simulate, make_model):
    sim = simulate(faults=["server_error"])
    retries = []
    policy = RetryWithExponentialBackoff(initial_delay=30, jitter="none", on_retry=retries.append)
    task = asyncio.create_task(make_model(retry=policy).ainvoke("Hello"))
    await soon(lambda: retries)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(sim.requests) == 1


async def test_a_timeout_of_the_callers_own_is_no_fault(simulate, make_model):
    async def expire_once_sent(limit: asyncio.Timeout) -> None:
        await soon(lambda: sim.requests)
        limit.reschedule(asyncio.get_running_loop().time())

    sim = simulate(faults=[Fault("slow", delay_seconds=5)] * 3)
    with pytest.raises(TimeoutError):  # noqa: PT012  the timeout is the statement
        async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as group:
            group.create_task(expire_once_sent(limit))
            await make_model().ainvoke("Hello")
    assert len(sim.requests) == 1


async def test_a_cancelled_gather_closes_every_connection(simulate, make_model):
    sim = simulate(faults=[Fault("slow", delay_seconds=5)] * 8)
    model = make_model()
    tasks = asyncio.gather(*map(model.ainvoke, QUESTIONS[:8]))
    await soon(lambda: len(sim.requests) == 8)
    tasks.cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks
    await soon(lambda: sim.bill.interrupted_requests == 8)


# Streams that are left


@APIS
@pytest.mark.parametrize("how", ["close", "delete"])
def test_a_stream_that_is_left_closes_its_connection(how, api, simulate, make_model):
    sim = simulate(chunk_delay_seconds=0.05)
    stream = make_model(**api).stream("What is the meaning of all this?")
    while not next(stream).text:
        pass
    stream.close() if how == "close" else None
    del stream
    gc.collect()
    assert sim.wait_until_idle()
    assert sim.bill.interrupted_requests == len(sim.requests) == 1


@APIS
@pytest.mark.parametrize("how", ["aclose", "break", "cancel"])
async def test_an_async_stream_that_is_left_closes_its_connection(how, api, simulate, make_model):
    async def read(stream) -> None:
        async for chunk in stream:
            if chunk.text and how != "cancel":
                break
            seen.append(chunk)

    seen: list = []
    sim = simulate(chunk_delay_seconds=0.05)
    stream = make_model(**api).astream("What is the meaning of all this?")
    if how == "cancel":
        task = asyncio.create_task(read(stream))
        await soon(lambda: any(chunk.text for chunk in seen))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await read(stream)
    if how == "aclose":
        await stream.aclose()
    del stream
    await soon(lambda: sim.bill.interrupted_requests == 1)
    assert len(sim.requests) == 1


def test_a_stream_left_at_the_end_of_its_loop_is_closed_with_it(simulate, make_model):
    async def main() -> None:
        stream = make_model().astream("What is the meaning of all this?")
        async for chunk in stream:
            if chunk.text:
                left.append(stream)
                return

    left: list = []
    sim = simulate(chunk_delay_seconds=0.05)
    asyncio.run(main())
    left.clear()
    gc.collect()
    assert sim.wait_until_idle()
    assert sim.bill.interrupted_requests == 1


def test_what_the_consumer_raises_is_the_consumers(simulate, make_model):
    sim = simulate(chunk_delay_seconds=0.05)
    chain = make_model() | RunnableLambda(lambda chunk: chunk)
    stream = chain.stream("What is the meaning of all this?")
    next(stream)
    with pytest.raises(ConnectionError, match="the consumer's own"):
        stream.throw(ConnectionError("the consumer's own"))
    assert sim.wait_until_idle()
    assert len(sim.requests) == 1
