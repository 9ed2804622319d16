from __future__ import annotations

import asyncio
import collections
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.tracers.base import BaseTracer
from tenacity import RetryCallState

from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.retry.runnable import RunnableRetryWithBackoff, with_retry

NONE = RetryWithExponentialBackoff(jitter="none")
AT_ONCE = RetryWithExponentialBackoff(initial_delay=0.0, max_retries=2, quota=None)


class Late(ConnectionError):  # noqa: N818
    """Names the input it belongs to."""


def model_of_the_issue() -> tuple[RunnableLambda, collections.Counter]:
    """langchain#35475: 'late' answers at its second attempt, 'bad' never, 'good' at once."""
    calls: collections.Counter[str] = collections.Counter()

    def answer(name: str) -> str:
        calls[name] += 1
        if name == "bad" or (name == "late" and calls[name] == 1):
            raise Late(name)
        return f"answer to {name}"

    return RunnableLambda(answer), calls


INPUTS = ["late", "bad", "good"]


async def batch_of(runnable: Runnable, mode: str, inputs: list[Any], **kwargs: Any) -> list[Any]:
    if mode == "batch":
        return await asyncio.to_thread(runnable.batch, inputs, **kwargs)
    return await runnable.abatch(inputs, **kwargs)


both_modes = pytest.mark.parametrize("mode", ["batch", "abatch"])


# --------------------------------------------------------------------------------------------------------
# Batches
# --------------------------------------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize("return_exceptions", [True, False])
async def test_langchains_own_retry_gives_an_item_anothers_answer(mode, return_exceptions):
    """langchain#35475, on the stock class. When this fails, upstream is repaired: say so in the docs."""
    runnable, _ = model_of_the_issue()
    stock = runnable.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    answers = await batch_of(stock, mode, INPUTS, return_exceptions=return_exceptions)
    assert answers == ["answer to late", "answer to late", "answer to good"]  # no exception anywhere


@both_modes
async def test_ours_keeps_every_answer_on_its_input(mode, fake_clock):
    runnable, calls = model_of_the_issue()
    ours = with_retry(runnable, AT_ONCE)
    late, bad, good = await batch_of(ours, mode, INPUTS, return_exceptions=True)
    assert (late, good) == ("answer to late", "answer to good")
    assert isinstance(bad, Late)
    assert bad.args == ("bad",)
    assert calls == {"late": 2, "bad": 3, "good": 1}


@both_modes
async def test_ours_raises_the_failed_items_own_error(mode, fake_clock):
    runnable, _ = model_of_the_issue()
    with pytest.raises(Late) as caught:
        await batch_of(with_retry(runnable, AT_ONCE), mode, INPUTS)
    assert caught.value.args == ("bad",)


@both_modes
async def test_a_hopeless_item_leaves_the_others_alone(mode, fake_clock, api_error):
    def answer(name: str) -> str:
        if name == "hopeless":
            raise api_error(400)
        return name

    ours = with_retry(RunnableLambda(answer), AT_ONCE)
    first, second, third = await batch_of(ours, mode, ["a", "hopeless", "b"], return_exceptions=True)
    assert (first, third) == ("a", "b")
    assert second.status_code == 400


@both_modes
async def test_every_item_waits_for_itself_only(mode, fake_clock):
    runnable, _ = model_of_the_issue()
    policy = RetryWithExponentialBackoff(jitter="none", max_retries=2)
    await batch_of(with_retry(runnable, policy), mode, INPUTS, return_exceptions=True)
    assert sorted(fake_clock.waits) == [1.0, 1.0, 2.0]  # late once, bad twice


@both_modes
async def test_the_bound_runnables_own_batch_is_not_used(mode, fake_clock):
    class Batching(RunnableLambda):
        def batch(self, *_: Any, **__: Any) -> list[Any]:
            raise AssertionError("outside the retry")

        abatch = batch  # type: ignore[assignment]

    assert await batch_of(with_retry(Batching(str), AT_ONCE), mode, [1, 2, 3]) == ["1", "2", "3"]


@both_modes
async def test_an_empty_batch(mode):
    assert await batch_of(with_retry(RunnableLambda(str), AT_ONCE), mode, []) == []


async def test_batch_as_completed_is_retried_and_keeps_the_index(fake_clock):
    for is_async in (False, True):
        runnable, calls = model_of_the_issue()
        ours = with_retry(runnable, AT_ONCE)
        if is_async:
            pairs = [pair async for pair in ours.abatch_as_completed(INPUTS, return_exceptions=True)]
        else:
            pairs = list(ours.batch_as_completed(INPUTS, return_exceptions=True))
        results = dict(pairs)
        assert (results[0], results[2]) == ("answer to late", "answer to good")
        assert results[1].args == ("bad",)
        assert calls == {"late": 2, "bad": 3, "good": 1}


async def test_max_concurrency_bounds_the_items_under_way(fake_clock):
    under_way = most = 0

    async def answer(_: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    await with_retry(RunnableLambda(answer), AT_ONCE).abatch(list(range(20)), {"max_concurrency": 3})
    assert most == 3


item_scripts = st.lists(st.integers(0, 4) | st.just("hopeless"), max_size=8)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    max_examples=40,
)
@pytest.mark.parametrize("mode", ["batch", "abatch", "abatch_as_completed"])
@given(items=item_scripts)
def test_whatever_fails_an_answer_belongs_to_its_input(mode, fake_clock, items):
    """Promise 1, for any pattern of failures: 2 retries, so 3 failures are too many."""
    calls: collections.Counter[int] = collections.Counter()
    lock = threading.Lock()

    def answer(item: tuple[int, int | str]) -> str:
        index, failures = item
        with lock:
            calls[index] += 1
            number = calls[index]
        if failures == "hopeless":
            raise LookupError(index)
        if number <= failures:
            raise Late(index)
        return f"answer {index}"

    ours = with_retry(RunnableLambda(answer), AT_ONCE)
    inputs = list(enumerate(items))

    async def as_completed() -> list[Any]:
        found = {n: out async for n, out in ours.abatch_as_completed(inputs, return_exceptions=True)}
        return [found[n] for n in range(len(inputs))]

    async def main() -> list[Any]:
        if mode == "abatch_as_completed":
            return await as_completed()
        return await batch_of(ours, mode, inputs, return_exceptions=True)

    results = asyncio.run(main())
    assert len(results) == len(items)
    for index, (failures, result) in enumerate(zip(items, results, strict=True)):
        if failures == "hopeless" or failures > 2:
            assert type(result) is (LookupError if failures == "hopeless" else Late)
            assert result.args == (index,)
        else:
            assert result == f"answer {index}"
        assert calls[index] == (1 if failures == "hopeless" else min(failures, 2) + 1)


# --------------------------------------------------------------------------------------------------------
# Single calls, callbacks, tags
# --------------------------------------------------------------------------------------------------------


def failing(times: int, error: Callable[[], Exception] = Late) -> RunnableLambda:
    left = times

    def answer(value: object) -> object:
        nonlocal left
        if left:
            left -= 1
            raise error()
        return value

    return RunnableLambda(answer)


async def test_invoke_and_ainvoke_wait_as_the_policy_says(fake_clock, api_error):
    make = lambda: api_error(429, retry_after="7")  # noqa: E731
    assert with_retry(failing(2), NONE).invoke("x") == "x"
    assert await with_retry(failing(1, make), NONE).ainvoke("x") == "x"
    assert fake_clock.waits == [1.0, 2.0, 7.0]


async def test_the_default_policy(fake_clock):
    assert with_retry(failing(5)).invoke("x") == "x"
    assert len(fake_clock.waits) == 5


async def test_arguments_reach_the_bound_runnable(fake_clock):
    seen = []

    def answer(value: str, config: RunnableConfig, *, suffix: str = "") -> str:
        seen.append(config["metadata"]["who"])
        return value + suffix

    ours = with_retry(RunnableLambda(answer), NONE)
    config: RunnableConfig = {"metadata": {"who": "me"}}
    assert ours.invoke("x", config, suffix="!") == "x!"
    assert await ours.ainvoke("x", config, suffix="!") == "x!"
    assert ours.batch(["x"], config, suffix="!") == ["x!"]
    assert list(ours.stream("x", config, suffix="!")) == ["x!"]
    assert [chunk async for chunk in ours.astream("x", config, suffix="!")] == ["x!"]
    assert seen == ["me"] * 5


class Retries:
    """Shared by a sync and an async handler."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[RetryCallState] = []
        self.tags: list[list[str]] = []
        self.ends = 0

    def note(self, state: RetryCallState) -> None:
        self.states.append(state)


class SyncRetries(Retries, BaseCallbackHandler):
    def on_chain_start(self, *_: Any, tags: list[str] | None = None, **__: Any) -> None:
        self.tags.append(tags or [])

    def on_chain_end(self, *_: Any, **__: Any) -> None:
        self.ends += 1

    def on_retry(self, retry_state: RetryCallState, **_: Any) -> None:
        self.note(retry_state)


class AsyncRetries(Retries, AsyncCallbackHandler):
    async def on_chain_start(self, *_: Any, tags: list[str] | None = None, **__: Any) -> None:
        self.tags.append(tags or [])

    async def on_chain_end(self, *_: Any, **__: Any) -> None:
        self.ends += 1

    async def on_retry(self, retry_state: RetryCallState, **_: Any) -> None:
        self.note(retry_state)


async def call(runnable: Runnable, how: str, value: Any, config: RunnableConfig | None = None) -> Any:
    match how:
        case "invoke":
            return runnable.invoke(value, config)
        case "ainvoke":
            return await runnable.ainvoke(value, config)
        case "stream":
            return list(runnable.stream(value, config))
        case "astream":
            return [chunk async for chunk in runnable.astream(value, config)]
        case "batch":
            return runnable.batch([value], config)
        case "abatch":
            return await runnable.abatch([value], config)
    raise AssertionError(how)


@pytest.mark.parametrize(
    ("handler", "how"),
    [
        (handler, how)
        for handler in (SyncRetries, AsyncRetries)
        for how in ("invoke", "stream", "batch", "ainvoke", "astream", "abatch")
        if handler is SyncRetries or how.startswith("a")
    ],
)
async def test_on_retry_fires_and_attempts_are_tagged(fake_clock, handler, how):
    """LangChain's own retry never fires on_retry; its tag is `retry:attempt:2`, so ours is too."""
    retries = handler()
    await call(with_retry(failing(2), NONE), how, "x", {"callbacks": [retries], "tags": ["mine"]})
    assert [type(state) for state in retries.states] == [RetryCallState] * 2
    assert [state.attempt_number for state in retries.states] == [1, 2]
    assert [type(state.outcome.exception()) for state in retries.states] == [Late, Late]
    assert [state.upcoming_sleep for state in retries.states] == [1.0, 2.0]
    # the whole, then one child run for each attempt
    assert [set(tags) - {"mine"} for tags in retries.tags] == [
        set(),
        set(),
        {"retry:attempt:2"},
        {"retry:attempt:3"},
    ]
    assert all("mine" in tags for tags in retries.tags)
    assert retries.ends == 2  # the last attempt and the whole


async def test_on_retry_is_told_before_the_wait(fake_clock):
    waited = []

    class Handler(BaseCallbackHandler):
        def on_retry(self, *_: Any, **__: Any) -> None:
            waited.append(len(fake_clock.waits))

    with_retry(failing(2), NONE).invoke("x", {"callbacks": [Handler()]})
    assert waited == [0, 1]


async def test_a_tracer_records_the_retries_in_the_run(fake_clock):
    class Tracer(BaseTracer):
        def __init__(self) -> None:
            super().__init__()
            self.roots: list[Any] = []

        def _persist_run(self, run: Any) -> None:
            self.roots.append(run)

    tracer = Tracer()
    with_retry(failing(1), NONE).invoke("x", {"callbacks": [tracer]})
    (root,) = tracer.roots
    (event,) = [event for event in root.events if event["name"] == "retry"]
    assert event["kwargs"]["attempt"] == 1
    assert event["kwargs"]["exception_type"] == "Late"
    assert [bool(child.error) for child in root.child_runs] == [True, False]


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_events_are_those_of_a_retried_stream(fake_clock, version):
    ours = with_retry(failing(1), NONE)
    events = [event async for event in ours.astream_events("x", version=version)]
    assert [event["data"]["chunk"] for event in events if event["event"] == "on_chain_stream"][-1] == "x"
    assert any("retry:attempt:2" in event["tags"] for event in events)
    assert fake_clock.waits == [1.0]


async def test_events_that_cannot_be_retried_are_refused():
    """Version 3 runs the model's own protocol: to forward it would drop the retry without a word."""
    ours = with_retry(RunnableLambda(str), NONE)
    with pytest.raises(NotImplementedError):
        ours.stream_events("x", version="v3")
    with pytest.raises(NotImplementedError):
        await ours.astream_events("x", version="v3")


# --------------------------------------------------------------------------------------------------------
# Streams
# --------------------------------------------------------------------------------------------------------


class Streaming(Runnable[Any, Any]):
    """A bare runnable that plays one script per attempt, and notes what it was fed and when it was closed."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts = list(scripts)
        self.fed: list[list[Any]] = []
        self.log: list[str] = []

    def invoke(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("streams only")

    def transform(self, input: Iterator[Any], *_: Any, **__: Any) -> Iterator[Any]:  # noqa: A002
        script = self.scripts.pop(0)
        self.fed.append(list(input))
        try:
            for item in script:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.log.append("closed")

    async def atransform(self, input: AsyncIterator[Any], *_: Any, **__: Any) -> AsyncIterator[Any]:  # noqa: A002
        script = self.scripts.pop(0)
        self.fed.append([item async for item in input])
        try:
            for item in script:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.log.append("closed")


streams = pytest.mark.parametrize("how", ["stream", "astream"])


async def chunks_of(runnable: Runnable, how: str, value: Any) -> tuple[list[Any], Exception | None]:
    chunks: list[Any] = []
    try:
        if how == "stream":
            chunks.extend(runnable.stream(value))
        else:
            async for chunk in runnable.astream(value):
                chunks.append(chunk)  # noqa: PERF401  what came before the error counts
    except Exception as error:
        return chunks, error
    return chunks, None


@streams
async def test_a_stream_is_retried_before_its_first_chunk(fake_clock, how):
    inner = Streaming([Late()], [Late()], ["a", "b"])
    assert await chunks_of(with_retry(inner, NONE), how, "x") == (["a", "b"], None)
    assert fake_clock.waits == [1.0, 2.0]
    assert inner.fed == [["x"]] * 3


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_an_error_after_the_first_chunk_passes_through(fake_clock, how):
    error = Late()
    inner = Streaming(["a", error], ["never"])
    ours = with_retry(inner, NONE)
    seen = []
    with pytest.raises(Late) as caught:  # noqa: PT012
        if how == "stream":
            for chunk in ours.stream("x"):
                seen.append(chunk)  # noqa: PERF402
        else:
            async for chunk in ours.astream("x"):
                seen.append(chunk)  # noqa: PERF401
    assert caught.value is error
    assert seen == ["a"]
    assert (len(inner.scripts), fake_clock.waits) == (1, [])


async def test_closing_a_stream_early_closes_the_inner_one_at_once():
    inner = Streaming(["a", "b"], ["a", "b"])
    ours = with_retry(inner, NONE)
    stream = ours.stream("x")
    assert next(stream) == "a"
    stream.close()
    assert inner.log == ["closed"]
    astream = ours.astream("x")
    assert await anext(astream) == "a"
    await astream.aclose()
    assert inner.log == ["closed", "closed"]  # before the event loop got a turn


def numbers(input: Iterator[Any]) -> Iterator[int]:  # noqa: A002
    for _ in input:
        yield from (1, 2, 3)


async def anumbers(input: AsyncIterator[Any]) -> AsyncIterator[int]:  # noqa: A002
    async for _ in input:
        for number in (1, 2, 3):
            yield number


@streams
async def test_in_the_middle_of_a_chain_the_input_is_replayed(fake_clock, how):
    """The first attempt eats part of the input, the second part more: the third gets all of it."""
    attempts = 0

    def tens(input: Iterator[int]) -> Iterator[int]:  # noqa: A002
        nonlocal attempts
        attempts += 1
        for count, number in enumerate(input, 1):
            if count == attempts < 3:
                raise Late
            if attempts == 3:
                yield number * 10

    async def atens(input: AsyncIterator[int]) -> AsyncIterator[int]:  # noqa: A002
        nonlocal attempts
        attempts += 1
        count = 0
        async for number in input:
            count += 1
            if count == attempts < 3:
                raise Late
            if attempts == 3:
                yield number * 10

    chain = (
        RunnableGenerator(numbers, anumbers)
        | with_retry(RunnableGenerator(tens, atens), NONE)
        | RunnablePassthrough()
    )
    assert await chunks_of(chain, how, "x") == ([10, 20, 30], None)
    assert attempts == 3


async def test_the_input_is_passed_on_as_it_comes(fake_clock):
    """Keeping the input for a replay does not wait for its end."""
    read = []

    def source() -> Iterator[int]:
        for number in range(3):
            read.append(number)
            yield number

    def same(input: Iterator[int]) -> Iterator[int]:  # noqa: A002
        yield from input

    output = with_retry(RunnableGenerator(same), NONE).transform(source())
    assert next(output) == 0
    assert read == [0]
    assert list(output) == [1, 2]


@streams
async def test_an_input_that_breaks_off_is_never_taken_for_the_whole(fake_clock, how):
    """The step before ours fails in mid-stream. To retry ours would answer from half of the input."""
    attempts = 0

    def broken(input: Iterator[Any]) -> Iterator[str]:  # noqa: A002
        list(input)
        yield from ("one", "two")
        raise Late("upstream")

    async def abroken(input: AsyncIterator[Any]) -> AsyncIterator[str]:  # noqa: A002
        async for _ in input:
            pass
        for word in ("one", "two"):
            yield word
        raise Late("upstream")

    def collect(input: Iterator[str]) -> Iterator[str]:  # noqa: A002
        nonlocal attempts
        attempts += 1
        yield " ".join(input)

    async def acollect(input: AsyncIterator[str]) -> AsyncIterator[str]:  # noqa: A002
        nonlocal attempts
        attempts += 1
        yield " ".join([word async for word in input])

    chain = RunnableGenerator(broken, abroken) | with_retry(RunnableGenerator(collect, acollect), NONE)
    chunks, error = await chunks_of(chain, how, "x")
    assert chunks == []
    assert isinstance(error, Late)
    assert error.args == ("upstream",)
    assert (attempts, fake_clock.waits) == (1, [])


class Flaky:
    """Read one item and fail at the first attempt; hand everything on at the second."""

    def __init__(self) -> None:
        self.attempts = 0

    def transform(self, input: Iterator[str]) -> Iterator[str]:  # noqa: A002
        self.attempts += 1
        for letter in input:
            if self.attempts == 1:
                raise Late
            yield letter

    async def atransform(self, input: AsyncIterator[str]) -> AsyncIterator[str]:  # noqa: A002
        self.attempts += 1
        async for letter in input:
            if self.attempts == 1:
                raise Late
            yield letter


def join(input: Iterator[str]) -> Iterator[str]:  # noqa: A002
    yield "".join(input)


async def ajoin(input: AsyncIterator[str]) -> AsyncIterator[str]:  # noqa: A002
    yield "".join([letter async for letter in input])


async def letters() -> AsyncIterator[str]:
    for letter in "abcd":
        for _ in range(20):  # slower than the second attempt is to begin
            await asyncio.sleep(0)
        yield letter


@pytest.mark.parametrize("how", ["transform", "atransform"])
async def test_a_parallel_inside_loses_no_input_to_the_branch_of_a_failed_attempt(fake_clock, how):
    """The other branch is still reading the input when the second attempt begins."""
    flaky = Flaky()
    ours = with_retry(
        RunnableParallel(
            flaky=RunnableGenerator(flaky.transform, flaky.atransform), joined=RunnableGenerator(join, ajoin)
        ),
        NONE,
    )
    if how == "transform":
        outputs = list(ours.transform(iter("abcd")))
    else:
        outputs = [output async for output in ours.atransform(letters())]
    assert "".join(output.get("flaky", "") for output in outputs) == "abcd"
    assert "".join(output.get("joined", "") for output in outputs) == "abcd"
    assert flaky.attempts == 2


# --------------------------------------------------------------------------------------------------------
# What is re-configured instead of wrapped
# --------------------------------------------------------------------------------------------------------


class RetriesInside(RunnableLambda):
    """As ReliableChatOpenAI: its with_retry takes our policy and returns one of its own class."""

    policy: RetryWithExponentialBackoff | None = None

    def with_retry(self, *, retry: RetryWithExponentialBackoff | None = None, **kwargs: Any) -> Runnable:
        if retry is None:
            return super().with_retry(**kwargs)
        configured = RetriesInside(self.func)
        configured.policy = retry
        return configured


def test_what_retries_inside_is_configured_not_wrapped():
    configured = with_retry(RetriesInside(str), NONE)
    assert type(configured) is RetriesInside
    assert configured.policy is NONE


def test_also_behind_bindings_whose_arguments_are_kept():
    bound = RetriesInside(str).bind(stop=["x"]).with_config(tags=["t"])
    configured = with_retry(bound, NONE)
    inner: Any = configured
    while hasattr(inner, "bound"):
        assert not isinstance(inner, RunnableRetryWithBackoff)
        inner = inner.bound
    assert type(inner) is RetriesInside
    assert inner.policy is NONE
    assert configured.kwargs == {"stop": ["x"]}
    assert configured.config["tags"] == ["t"]


async def test_ours_around_ours_replaces_the_policy(fake_clock):
    """Two layers would multiply: 3 attempts of 3 attempts are 9 requests."""
    calls = []

    def down(_: object) -> None:
        calls.append(1)
        raise Late

    once = with_retry(RunnableLambda(down), AT_ONCE)
    twice = with_retry(once, RetryWithExponentialBackoff(0.0, max_retries=1))
    with pytest.raises(Late):
        twice.invoke("x")
    assert len(calls) == 2
    assert once.policy is AT_ONCE  # the one before is as it was


async def test_langchains_own_with_retry_on_other_runnables_is_left_alone():
    wrapped = with_retry(RunnableLambda(str), NONE)
    assert isinstance(wrapped, RunnableRetryWithBackoff)
    assert wrapped.bound.invoke(3) == "3"
    assert wrapped.policy is NONE


# --------------------------------------------------------------------------------------------------------
# An ordinary runnable
# --------------------------------------------------------------------------------------------------------


def test_it_composes_binds_and_describes_itself_as_what_it_wraps(fake_clock):
    ours = with_retry(RunnableLambda(len), NONE)
    chain = RunnableLambda(str) | ours | RunnableLambda(str)
    assert chain.invoke(1234) == "4"
    assert ours.with_config(tags=["t"]).invoke("abc") == 3
    assert ours.map().invoke(["a", "bb"]) == [1, 2]
    assert ours.get_input_jsonschema() == RunnableLambda(len).get_input_jsonschema()
    assert ours.get_output_jsonschema() == RunnableLambda(len).get_output_jsonschema()


def test_it_can_be_dumped_and_pickled(fake_clock):
    ours = with_retry(RunnablePassthrough(), AT_ONCE)
    assert "RunnablePassthrough" in dumps(ours)
    assert pickle.loads(pickle.dumps(ours)).invoke("x") == "x"


def test_a_policy_must_be_a_policy():
    with pytest.raises(ValueError, match="policy"):
        RunnableRetryWithBackoff(bound=RunnableLambda(str), policy="often")


async def test_the_last_error_is_the_very_object(fake_clock, api_error):
    errors = [api_error(), api_error(), api_error()]
    left = list(errors)

    def down(_: object) -> None:
        raise left.pop(0)

    with pytest.raises(openai.APIStatusError) as caught:
        with_retry(RunnableLambda(down), AT_ONCE).invoke("x")
    assert caught.value is errors[-1]


async def test_cancellation_passes_through(fake_clock):
    begun = asyncio.Event()

    async def hang(_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(with_retry(RunnableLambda(hang), NONE).ainvoke("x"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fake_clock.waits == []
