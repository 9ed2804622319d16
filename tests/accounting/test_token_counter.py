"""The counter's own behaviour: what it takes, what it counts once, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import tracemalloc
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx2
import openai
import orjson
import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import context as tracer_context
from langchain_openai import ChatOpenAI
from openai.types import CompletionUsage
from pydantic import BaseModel, field_validator

from lc_service import (
    ReliableChatOpenAI,
    RetryWithExponentialBackoff,
    TokenCounter,
    TokenUsage,
    TruncatedResponseError,
    track_usage,
    with_retry,
)
from lc_service.accounting import token_counter
from lc_service.accounting import tracker as tracking
from lc_service.accounting.record import AttemptRecord

USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}


# --- update and get_stats ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "usage",
    [
        USAGE,
        CompletionUsage(**USAGE),
        SimpleNamespace(input_tokens=12, output_tokens=3),
        {"input_tokens": 12, "output_tokens": 3, "total_tokens": 15},
        TokenUsage(input_tokens=12, output_tokens=3),
    ],
    ids=["dictionary", "SDK object", "object", "LangChain", "TokenUsage"],
)
def test_update_adds_usage_in_any_form(usage: object) -> None:
    counter = TokenCounter()
    counter.update(usage)
    counter.update(usage)
    assert counter.get_stats() == {"total_tokens": 30, "prompt_tokens": 24, "completion_tokens": 6}
    assert counter.usage.calls == 2


@pytest.mark.parametrize("garbage", [None, {}, 5, "usage", object(), {"prompt_tokens": "12"}])
def test_update_refuses_garbage_and_counts_nothing(garbage: object) -> None:
    counter = TokenCounter()
    with pytest.raises(TypeError, match="prompt_tokens"):
        counter.update(garbage)
    assert (counter.usage.calls, counter.usage.total) == (0, TokenUsage())


def test_stats_have_the_originals_keys_in_the_originals_order() -> None:
    stats = TokenCounter().get_stats()
    assert list(stats) == ["total_tokens", "prompt_tokens", "completion_tokens"]
    assert set(map(type, stats.values())) == {int}


def test_a_counter_without_calls_is_still_true() -> None:
    assert TokenCounter()  # LangChain writes `var.get() or ...`


# --- cached and unknown usage -----------------------------------------------------------------------------


def _server(usage: object) -> Any:
    """Answer every chat completion with `usage`; the simulator has no prompt cache and always tells it."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        message = {"role": "assistant", "content": "Hi"}
        body = {
            "id": "c1",
            "object": "chat.completion",
            "created": 1,
            "model": orjson.loads(request.content)["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
        return httpx2.Response(200, json=body)

    return httpx2.Client(transport=httpx2.MockTransport(answer))


def test_cached_input_is_counted(bench: Any) -> None:
    usage = USAGE | {"prompt_tokens_details": {"cached_tokens": 8}}
    with _server(usage) as client:
        bench.model(http_client=client).invoke("Hello", bench.config)
    assert bench.counter.usage.total == TokenUsage(input_tokens=12, cached_input_tokens=8, output_tokens=3)


def test_usage_that_the_server_does_not_tell_is_unknown_not_zero(bench: Any) -> None:
    with _server(None) as client, track_usage() as tracked:
        bench.model(http_client=client).invoke("Hello", bench.config)
    for report in (tracked, bench.counter.usage):
        assert (report.calls, report.unknown, report.total) == (1, 1, TokenUsage())
        assert list(report.group_by("model")) == ["o4-mini"]


@pytest.mark.parametrize(
    ("llm_output", "generations"),
    [
        (None, []),
        ({}, [[]]),
        ({"token_usage": None}, []),
        ({"token_usage": "many"}, []),
        ({"token_usage": {}}, [[ChatGeneration(message=AIMessage("Hi"))]]),
    ],
)
def test_an_odd_end_is_a_call_of_unknown_usage(llm_output: Any, generations: Any) -> None:
    counter = TokenCounter()
    counter.on_llm_end(LLMResult(generations=generations, llm_output=llm_output), run_id=uuid4())
    assert (counter.usage.calls, counter.usage.unknown) == (1, 1)
    assert list(counter.usage.group_by("model")) == ["unknown"]


# --- once, whatever leads there ---------------------------------------------------------------------------


def _end(counter: TokenCounter, run_id: UUID) -> None:
    counter.on_llm_end(
        LLMResult(generations=[], llm_output={"token_usage": USAGE, "model_name": "m"}), run_id=run_id
    )


def test_a_run_that_ends_twice_is_counted_once() -> None:
    counter, run_id = TokenCounter(), uuid4()
    _end(counter, run_id)
    _end(counter, run_id)
    _end(counter, uuid4())
    assert counter.usage.calls == 2


def _truncated() -> TruncatedResponseError:
    usage = {"input_tokens": 12, "output_tokens": 3, "total_tokens": 15}
    return TruncatedResponseError("cut", partial=AIMessage("H", usage_metadata=usage))  # type: ignore[arg-type]


def test_a_failed_call_counts_what_was_paid_for_its_partial_answer_once() -> None:
    counter, run_id, error = TokenCounter(), uuid4(), _truncated()
    counter.on_llm_error(error, run_id=run_id)
    counter.on_llm_error(error, run_id=run_id)
    assert counter.usage.total == TokenUsage(input_tokens=12, output_tokens=3)


def test_an_error_that_ends_two_runs_was_paid_for_once() -> None:
    """As where a model raises what the model inside of it raised."""
    counter, error = TokenCounter(), _truncated()
    for _ in range(2):
        counter.on_llm_error(error, run_id=uuid4())
    assert counter.usage.total == TokenUsage(input_tokens=12, output_tokens=3)
    assert counter.usage.calls == 1


def test_runs_whose_end_is_never_told_do_not_pile_up() -> None:
    """LangChain tells no end of a cancelled run."""
    counter, lasting = TokenCounter(), uuid4()
    for _ in range(token_counter._MAX_RUNS + 10):
        counter.on_llm_start({}, ["Hi"], run_id=uuid4())
    assert len(counter._runs) == token_counter._MAX_RUNS
    counter.on_llm_start({}, ["Hi"], run_id=lasting, tags=["blue"])
    _end(counter, lasting)
    assert list(counter.usage.group_by("tag")) == ["blue"]


def _refused_connection() -> Exception:
    error = openai.APIConnectionError(request=httpx2.Request("POST", "http://127.0.0.1:9"))
    error.__cause__ = httpx2.ConnectError("refused")
    return error


@pytest.mark.parametrize(
    ("error", "unknown"),
    [
        (ValueError("the program's own"), 0),
        (_refused_connection(), 0),
        (TruncatedResponseError("cut before any usage"), 1),
        (openai.APITimeoutError(httpx2.Request("POST", "http://127.0.0.1:9")), 1),
        (asyncio.CancelledError(), 1),
        (GeneratorExit(), 1),
        (KeyboardInterrupt(), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_have_been_billed_is_unknown_and_not_nothing(error: BaseException, unknown: int) -> None:
    counter = TokenCounter()
    counter.on_llm_error(error, run_id=uuid4())
    assert (counter.usage.unknown, counter.usage.calls) == (unknown, unknown)
    assert counter.usage.total == TokenUsage()
    assert (counter.usage.cost_usd is None) == bool(unknown)


@pytest.mark.parametrize("options", [{"max_tokens": 1}, {}], ids=["cut short", "misfit"])
def test_a_structured_answer_that_fails_is_counted(options: dict[str, Any], bench: Any) -> None:
    class Impossible(BaseModel):
        word: str

        @field_validator("word")
        @classmethod
        def _never(cls, word: str) -> str:
            raise ValueError("never")

    structured = bench.model(**options).with_structured_output(Impossible, method="json_schema")
    with track_usage() as usage, pytest.raises((ValueError, openai.LengthFinishReasonError)):
        structured.invoke("Say a word.")
    assert usage.total.total_tokens == bench.sim.bill.total.total_tokens > 0
    assert (usage.calls, usage.unknown) == (1, 0)


def test_a_counter_can_be_pickled_with_what_it_counted() -> None:
    counter = TokenCounter()
    counter.update({"prompt_tokens": 12, "completion_tokens": 3})
    copy = pickle.loads(pickle.dumps(counter))
    assert copy.get_stats() == counter.get_stats()
    copy.on_llm_error(_truncated(), run_id=uuid4())
    assert copy.usage.calls == 2


def test_a_chain_retried_from_outside_pays_each_attempt_once(make_bench: Any) -> None:
    """The model's error and the chain's retry tell of the same attempt."""
    bench = make_bench("no_finish")
    chain = RunnableLambda(str) | bench.model(max_retries=0)
    with track_usage() as usage:
        with_retry(chain, RetryWithExponentialBackoff(0.001, 0.001)).invoke("Hello", bench.config)
    assert bench.sim.bill.requests == 2
    bench.assert_counted(bench.counter.usage, usage, failed_calls=1)


def test_every_attempt_of_a_call_that_fails_in_the_end_is_counted(bench: Any) -> None:
    model = bench.model(retry=RetryWithExponentialBackoff(0.001, 0.001, 2))
    message = {"role": "assistant", "content": "Hi"}
    body = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": None}],
        "usage": USAGE,
    }
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json=body))
    with httpx2.Client(transport=transport) as client:
        model = bench.model(http_client=client, retry=RetryWithExponentialBackoff(0.001, 0.001, 2))
        with pytest.raises(TruncatedResponseError):
            model.invoke("Hello", bench.config)
    assert bench.counter.usage.total == TokenUsage(input_tokens=36, output_tokens=9)


# --- trackers in trackers ---------------------------------------------------------------------------------


def test_nested_trackers_count_their_own_blocks(bench: Any) -> None:
    model = bench.model()
    with track_usage() as outer:
        model.invoke("one")
        with track_usage() as middle:
            model.invoke("two")
            with track_usage() as inner:
                model.invoke("three")
            model.invoke("four")
        with track_usage() as sibling:
            pass
        model.invoke("five")
    model.invoke("six")
    assert [report.calls for report in (outer, middle, inner, sibling)] == [5, 3, 1, 0]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_tracker_inside_a_chain_step_doubles_nothing(is_async: bool, bench: Any) -> None:
    model = bench.model()
    inner_reports = []

    def step(text: str) -> str:
        with track_usage() as inner:
            answer = model.invoke(text).text
        inner_reports.append(inner)
        return answer

    async def astep(text: str) -> str:
        with track_usage() as inner:
            answer = (await model.ainvoke(text)).text
        inner_reports.append(inner)
        return answer

    chain = RunnableLambda(str) | RunnableLambda(step, afunc=astep) | model
    with track_usage() as outermost, track_usage() as outer:
        if is_async:
            asyncio.run(chain.ainvoke("Hello", bench.config))
        else:
            chain.invoke("Hello", bench.config)
    bench.assert_counted(outermost, outer, bench.counter.usage)
    assert (outer.calls, inner_reports[0].calls) == (2, 1)


@pytest.mark.parametrize("plan", ["rate_limited", "no_finish"])
def test_nested_trackers_count_retried_attempts_once(plan: str, make_bench: Any) -> None:
    bench = make_bench(plan)
    model, reports = bench.model(), []

    def step(text: str) -> Any:
        with track_usage() as inner:
            answer = model.invoke(text)
        reports.append(inner)
        return answer

    with track_usage() as outer:
        RunnableLambda(step).invoke("Hello", bench.config)
    bench.assert_counted(outer, reports[0], bench.counter.usage)


def test_concurrent_trackers_count_their_own_tasks(bench: Any) -> None:
    model = bench.model()

    async def work(count: int) -> int:
        with track_usage() as usage:
            await asyncio.gather(*(model.ainvoke(f"{count} {i}") for i in range(count)))
        return usage.calls

    async def main() -> list[int]:
        return await asyncio.gather(*(work(count) for count in range(1, 6)))

    with track_usage() as outer:
        assert asyncio.run(main()) == [1, 2, 3, 4, 5]
    bench.assert_counted(outer)


class _Gate(httpx2.AsyncBaseTransport):
    """Holds a rate limit back until it is told to go on, then answers."""

    def __init__(self) -> None:
        self.is_reached, self.goes_on = asyncio.Event(), asyncio.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        is_first = not self.is_reached.is_set()
        self.is_reached.set()
        await self.goes_on.wait()
        if is_first:
            return httpx2.Response(429, json={"error": {"message": "m"}}, headers={"retry-after-ms": "1"})
        message = {"role": "assistant", "content": "Hi"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
        return httpx2.Response(200, json=body | {"choices": [choice], "usage": USAGE})


@pytest.mark.parametrize("cls", [ReliableChatOpenAI, ChatOpenAI])
def test_a_call_that_runs_when_the_block_ends_is_counted_to_its_end(cls: type, bench: Any) -> None:
    async def main() -> None:
        gate = _Gate()
        async with httpx2.AsyncClient(transport=gate) as client:
            model = bench.model(cls, http_async_client=client)
            with track_usage() as outer, track_usage() as inner:
                task = asyncio.create_task(model.ainvoke("Hello"))
                await gate.is_reached.wait()
            gate.goes_on.set()
            await task
        for report in (outer, inner):
            assert (report.calls, report.total.total_tokens) == (1, 15)
            assert report.attempts == (2 if cls is ReliableChatOpenAI else 1)

    asyncio.run(main())


@pytest.mark.parametrize("cls", [ReliableChatOpenAI, ChatOpenAI])
def test_a_call_that_begins_after_the_block_is_not_counted(cls: type, bench: Any) -> None:
    model = bench.model(cls)

    async def work(is_outer_over: asyncio.Event) -> int:
        with track_usage() as own:
            await is_outer_over.wait()
            model.invoke("one")
        model.invoke("two")
        return own.calls

    async def main() -> None:
        is_outer_over = asyncio.Event()
        with track_usage() as usage:
            task = asyncio.create_task(work(is_outer_over))
            await asyncio.sleep(0)
        is_outer_over.set()
        assert (await task, usage.calls) == (1, 0)

    asyncio.run(main())


def test_a_bare_thread_is_not_in_the_block(bench: Any) -> None:
    with track_usage() as usage:
        thread = threading.Thread(target=bench.model().invoke, args=("Hello",))
        thread.start()
        thread.join()
    assert usage.calls == 0


# --- blocks that do not end where they began --------------------------------------------------------------


def _tracking() -> Any:
    with track_usage() as usage:
        yield usage


def test_a_tracker_closed_in_another_context_raises_nothing(bench: Any) -> None:
    block = _tracking()
    usage = copy_context().run(next, block)
    block.close()
    bench.model().invoke("Hello")
    assert usage.calls == 0


def test_a_tracker_closed_in_another_context_leaves_that_ones_tracker_alone(bench: Any) -> None:
    block = _tracking()
    copy_context().run(next, block)
    with track_usage() as mine:
        block.close()
        bench.model().invoke("Hello")
    assert mine.calls == 1


def test_blocks_that_end_in_the_wrong_order_keep_counting_and_leave_nothing(bench: Any) -> None:
    model = bench.model()
    first, second = _tracking(), _tracking()
    usage_1, usage_2 = next(first), next(second)
    model.invoke("one")
    first.close()
    model.invoke("two")
    second.close()
    model.invoke("three")
    assert (usage_1.calls, usage_2.calls) == (1, 2)
    with track_usage() as last:
        model.invoke("four")
    assert (usage_2.calls, last.calls) == (2, 1)


def test_an_abandoned_async_generator_gives_its_tracker_back(bench: Any) -> None:
    model = bench.model()

    async def numbers() -> Any:
        with track_usage() as usage:
            for number in range(3):
                await model.ainvoke(f"Hello {number}")
                yield usage

    async def main() -> tuple[int, int]:
        generator = numbers()
        usage = await anext(generator)
        await asyncio.create_task(generator.aclose())
        with track_usage() as mine:
            await model.ainvoke("Hello")
        return usage.calls, mine.calls

    counted, mine = asyncio.run(main())
    assert mine == 1
    assert counted >= 1


def _trackers_in_context() -> int:
    count, tracker = 0, tracking._tracker.get()
    while tracker is not None:
        count, tracker = count + 1, tracker.outer
    return count


@pytest.mark.parametrize("cls", [ReliableChatOpenAI, ChatOpenAI])
@pytest.mark.parametrize("is_overlapping", [False, True])
def test_generators_that_are_left_by_break_count_nothing_more_and_do_not_pile_up(
    is_overlapping: bool, cls: type, bench: Any
) -> None:
    """Their finalizer closes them in another context; theirs, the caller's, goes on."""
    model = bench.model(cls)

    async def tracking() -> Any:
        with track_usage() as usage:
            yield usage

    async def main() -> None:
        left, kept = [], None
        for _ in range(5):
            generator = tracking()
            async for usage in generator:
                left.append(usage)
                break
            if is_overlapping:
                kept = generator
            del generator
            for _ in range(3):  # the loop closes what was collected in a task of its own
                await asyncio.sleep(0)
        del kept
        for _ in range(3):
            await asyncio.sleep(0)
        assert _trackers_in_context() <= 2
        model.invoke("Hello")
        with track_usage() as mine:
            model.invoke("Hello")
            assert _trackers_in_context() == 1
        assert ([usage.calls for usage in left], mine.calls) == ([0] * 5, 1)
        assert _trackers_in_context() == 0

    asyncio.run(main())


def test_the_tracker_is_given_back_after_an_exception(bench: Any) -> None:
    with pytest.raises(KeyError), track_usage() as usage:
        raise KeyError
    bench.model().invoke("Hello")
    assert usage.calls == 0


# --- other handlers ---------------------------------------------------------------------------------------


class _Raising(BaseCallbackHandler):
    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("start")

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("end")

    def on_retry(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("retry")


class _AsyncRaising(AsyncCallbackHandler):
    async def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("end")

    async def on_retry(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("retry")


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("is_first", [False, True], ids=["after us", "before us"])
@pytest.mark.parametrize("handler", [_Raising, _AsyncRaising])
def test_a_sibling_that_raises_loses_no_count(
    handler: type[BaseCallbackHandler], is_first: bool, is_async: bool, make_bench: Any
) -> None:
    bench = make_bench("no_finish")
    callbacks = [handler(), bench.counter] if is_first else [bench.counter, handler()]
    model = bench.model()
    with track_usage() as usage:
        if is_async:
            asyncio.run(model.ainvoke("Hello", {"callbacks": callbacks}))
        else:
            model.invoke("Hello", {"callbacks": callbacks})
    bench.assert_counted(bench.counter.usage, usage)


def test_prompts_are_not_written_out_for_a_handler_that_only_counts(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LangChain joins all messages to one text for handlers without on_chat_model_start."""

    def refuse(*args: Any, **kwargs: Any) -> str:
        raise AssertionError("the prompt was written out")

    monkeypatch.setattr("langchain_core.callbacks.manager.get_buffer_string", refuse)
    with track_usage() as usage:
        bench.model().invoke("Hello", bench.config)
        asyncio.run(bench.model().ainvoke("Hello", bench.config))
    bench.assert_counted(usage, bench.counter.usage)


# --- nothing is left behind -------------------------------------------------------------------------------


def test_ten_thousand_trackers_leave_no_hook_and_no_memory() -> None:
    hooks = len(tracer_context._configure_hooks)
    for _ in range(100):
        with track_usage(), track_usage():
            pass
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(10_000):
            with track_usage() as usage:
                usage.add(AttemptRecord(run_id=UUID(int=0), model="m"))
        gc.collect()
        grown_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(tracer_context._configure_hooks) == hooks
    assert grown_bytes < 50_000


def test_a_counter_of_many_runs_does_not_grow() -> None:
    counter = TokenCounter()
    for _ in range(500):
        _end(counter, uuid4())
    tracemalloc.start()
    try:
        for _ in range(5_000):
            _end(counter, uuid4())
            counter.on_llm_error(_truncated(), run_id=uuid4())
        gc.collect()
        grown_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counter.usage.calls == 10_500
    assert grown_bytes < 100_000
