"""`Runnable.with_retry` and `RunnableBinding`: why ours is not LangChain's, and what ours is built on."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import tenacity
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.base import RunnableBinding, RunnableBindingBase
from langchain_core.runnables.retry import RunnableRetry
from langchain_openai import ChatOpenAI

from lc_service.simulator import Fault

HELLO = "Hello there"


class Sorter:
    """`bad` always fails, `late` fails once, everything else is answered at once."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __call__(self, word: str) -> str:
        self.calls[word] += 1
        if word == "bad" or (word == "late" and self.calls[word] == 1):
            raise ConnectionError(word)
        return f"answer to {word}"


def stock_retry(runnable: Runnable[Any, Any], **options: Any) -> Runnable[Any, Any]:
    return runnable.with_retry(wait_exponential_jitter=False, **options)


WRONG = ["answer to late", "answer to late", "answer to good"]


@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_a_failed_item_of_a_retried_batch_is_given_its_neighbours_answer(return_exceptions):
    """RunnableRetry.batch/abatch: a failed item ends with the answer of another (langchain#35475).

    It is that of an item that came through on the last attempt; no exception is raised or returned.

    Ours: `retry/runnable.py` retries item by item because of it. If this is fixed upstream, say so in the
    README, and keep ours: it also keeps the items' waits apart.
    """
    items = ["late", "bad", "good"]
    retrying = stock_retry(RunnableLambda(Sorter()), stop_after_attempt=2)
    assert retrying.batch(items, return_exceptions=return_exceptions) == WRONG
    retrying = stock_retry(RunnableLambda(Sorter()), stop_after_attempt=2)
    assert await retrying.abatch(items, return_exceptions=return_exceptions) == WRONG


def test_an_error_that_is_not_retried_overwrites_the_successes_of_a_batch():
    """RunnableRetry.batch(return_exceptions=True): one non-retryable error takes every item's place.

    Ours: `retry/runnable.py`, whose batches are `Runnable.batch` over its own invoke.
    """
    retrying = stock_retry(RunnableLambda(Sorter()), retry_if_exception_type=(KeyError,))
    results = retrying.batch(["bad", "good"], return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError, ConnectionError]


async def test_the_retry_of_one_item_waits_for_the_slowest_of_the_batch():
    """RunnableRetry.abatch: the second attempt of a failed item begins after every first attempt ended.

    Ours: `retry/runnable.py` retries each item by itself.
    """
    order: list[str] = []

    async def work(word: str) -> str:
        if word == "slow":
            await asyncio.sleep(0.02)
        order.append(word)
        if word == "late" and order.count("late") == 1:
            raise ConnectionError
        return word

    await stock_retry(RunnableLambda(work)).abatch(["late", "slow"])
    assert order == ["late", "slow", "late"]


async def test_batch_as_completed_is_not_retried():
    """RunnableRetry.batch_as_completed/abatch_as_completed fail at the first error.

    Ours: `retry/runnable.py` overrides both.
    """
    sorter = Sorter()
    with pytest.raises(ConnectionError):
        list(stock_retry(RunnableLambda(sorter)).batch_as_completed(["late"]))
    assert sorter.calls["late"] == 1
    sorter = Sorter()
    with pytest.raises(ConnectionError):
        [_ async for _ in stock_retry(RunnableLambda(sorter)).abatch_as_completed(["late"])]
    assert sorter.calls["late"] == 1


async def test_streams_are_not_retried(simulate, chat):
    """RunnableRetry.stream/astream fail at the first error, before any chunk.

    Ours: `retry/stream.py` retries a stream until its first content.
    """
    sim = simulate(faults=["server_error"] * 2)
    model = stock_retry(chat(sim))
    with pytest.raises(Exception, match="500"):
        list(model.stream(HELLO))
    with pytest.raises(Exception, match="500"):
        [_ async for _ in model.astream(HELLO)]
    assert len(sim.requests) == 2


async def test_on_retry_is_never_fired(simulate, chat, recorder):
    """RunnableRetry fires no `on_retry` callback (langchain#11551).

    Ours: `models/chat.py` and `retry/runnable.py` fire it themselves; were LangChain to do so too,
    TokenCounter would count a cut attempt twice.
    """
    sim = simulate(faults=["server_error", "ok", "server_error", "ok"])
    model = stock_retry(chat(sim))
    model.invoke(HELLO, {"callbacks": [recorder]})
    await model.ainvoke(HELLO, {"callbacks": [recorder]})
    assert len(sim.requests) == 4
    assert recorder.names() == ["start", "error", "start", "end"] * 2


@pytest.mark.parametrize("name", ["bind_tools", "with_structured_output", "profile"])
def test_the_result_of_with_retry_is_no_chat_model(simulate, chat, name):
    """`ChatOpenAI().with_retry()` has no bind_tools, with_structured_output or profile (langchain#33983).

    Ours: `ReliableChatOpenAI.with_retry` returns a model of the same class because of it.
    """
    model = chat(simulate())
    assert hasattr(model, name)
    assert type(model.with_retry()) is RunnableRetry
    assert not hasattr(model.with_retry(), name)


def test_attempts_multiply(simulate, chat):
    """SDK max_retries=2 under with_retry(3 attempts) sends one failing request nine times.

    Ours: `models/chat.py` switches the SDK's retries off; `retry/runnable.py` puts no second layer on ours.
    """
    sim = simulate(faults=[Fault("rate_limit", retry_after_seconds=0.001)] * 20)
    model = stock_retry(chat(sim, max_retries=2), stop_after_attempt=3)
    with pytest.raises(Exception, match="429"):
        model.invoke(HELLO)
    assert len(sim.requests) == 9


def test_the_sdks_retries_are_invisible_to_callbacks(simulate, chat, recorder):
    """Three requests of the SDK are one run with no `on_retry`.

    Ours: attempts are retried in `models/chat.py`, where callbacks and counters see each of them.
    """
    sim = simulate(faults=[Fault("rate_limit", retry_after_seconds=0.001)] * 2)
    chat(sim, max_retries=2).invoke(HELLO, {"callbacks": [recorder]})
    assert len(sim.requests) == 3
    assert recorder.names() == ["start", "end"]


def test_with_retry_ignores_retry_after(simulate, chat, sleeps):
    """RunnableRetry waits its own 1 to 2, then 2 to 3 seconds, whatever Retry-After says.

    Ours: `retry/retry_after.py` and `decide` in `retry/policy.py` put Retry-After first.
    """
    sim = simulate(faults=[Fault("rate_limit", retry_after_seconds=30)] * 2)
    chat(sim).with_retry().invoke(HELLO)
    assert len(sleeps) == 2
    assert max(sleeps) < 4


@pytest.mark.parametrize(
    "kind",
    [
        "bad_request",
        "unauthorized",
        "forbidden",
        "not_found",
        "unprocessable",
        "context_length",
        "insufficient_quota",
        "request_too_large",
    ],
)
def test_with_retry_retries_what_cannot_succeed(simulate, chat, kind):
    """RunnableRetry's default retries 400, 401, 403, 404, 422, context overflow and an exhausted quota.

    Ours: `classify` in `retry/errors.py` calls none of them transient.
    """
    sim = simulate(faults=[kind] * 3)
    with pytest.raises(Exception, match="Error code"):
        stock_retry(chat(sim)).invoke(HELLO)
    assert len(sim.requests) == 3


def test_langchains_arguments_to_with_retry_are_those_we_take():
    """`Runnable.with_retry` has exactly these four arguments, all of them keywords.

    Ours: `ReliableChatOpenAI.with_retry` takes the same ones, and `_retries_inside` in `retry/runnable.py`
    takes an argument named `retry` as the mark of a model of ours.
    """
    parameters = inspect.signature(Runnable.with_retry).parameters
    names = [name for name in parameters if name != "self"]
    assert names == [
        "retry_if_exception_type",
        "wait_exponential_jitter",
        "exponential_jitter_params",
        "stop_after_attempt",
    ]
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in names)
    assert RunnableRetry.model_fields["max_attempt_number"].default == 3


def test_a_bindings_with_retry_passes_its_arguments_to_the_bound_one():
    """`RunnableBinding.with_retry(**kwargs)` calls `bound.with_retry(**kwargs)` and binds the result again.

    Ours: `with_retry` in `retry/runnable.py` re-configures `model.bind_tools(…)` through it.
    """
    seen: list[dict[str, Any]] = []

    class Configurable(RunnableLambda):
        def with_retry(self, **kwargs: Any) -> Any:
            seen.append(kwargs)
            return self

    bound = Configurable(lambda x, **kwargs: (x, kwargs))
    again = bound.bind(a=1).with_retry(retry="a policy")
    assert seen == [{"retry": "a policy"}]
    assert type(again) is RunnableBinding
    assert again.bound is bound
    assert again.kwargs == {"a": 1}


async def test_a_bindings_batch_hands_the_whole_list_on_and_runnables_batch_does_not():
    """RunnableBindingBase batches through `bound`; `Runnable`'s four batches call self.invoke/ainvoke.

    Ours: `RunnableRetryWithBackoff` (retry/runnable.py) calls Runnable's, so that each item is retried alone.
    """
    invoked: list[str] = []

    class Watched(RunnableBindingBase):
        def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
            invoked.append("invoke")
            return super().invoke(input, config, **kwargs)

        async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
            invoked.append("ainvoke")
            return await super().ainvoke(input, config, **kwargs)

    watched = Watched(bound=RunnableLambda(str.upper))
    assert watched.batch(["a", "b"]) == await watched.abatch(["a", "b"]) == ["A", "B"]
    assert invoked == []
    assert Runnable.batch(watched, ["a", "b"]) == ["A", "B"]
    assert sorted(Runnable.batch_as_completed(watched, ["a", "b"])) == [(0, "A"), (1, "B")]
    assert invoked == ["invoke"] * 4
    assert await Runnable.abatch(watched, ["a", "b"]) == ["A", "B"]
    completed = [pair async for pair in Runnable.abatch_as_completed(watched, ["a", "b"])]
    assert sorted(completed) == [(0, "A"), (1, "B")]
    assert invoked == ["invoke"] * 4 + ["ainvoke"] * 4


async def test_a_bindings_atransform_leaves_the_bound_one_open_when_closed_early():
    """Closing RunnableBindingBase.atransform early does not close `bound.atransform`.

    Ours: `_atransform` in `retry/runnable.py` goes round it, so that an abandoned stream ends at once.
    """
    closed: list[str] = []

    class Source(Runnable[Any, Any]):
        def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
            raise NotImplementedError

        async def atransform(
            self,
            input: AsyncIterator[Any],  # noqa: A002
            config: RunnableConfig | None = None,
            **kwargs: Any,
        ) -> AsyncIterator[Any]:
            try:
                yield 1
                yield 2
            finally:
                closed.append("source")

    async def inputs() -> AsyncIterator[Any]:
        yield None

    outer: Any = RunnableBindingBase(bound=Source()).atransform(inputs())
    assert await anext(outer) == 1
    inner = outer.ag_frame.f_locals  # keeps the inner generator alive, as a traceback would
    await outer.aclose()
    assert closed == []
    del inner


async def test_attempts_after_the_first_are_tagged():
    """RunnableRetry tags the run of attempt N with `retry:attempt:N`, and the first with nothing.

    Ours: `_attempt_configs` in `retry/runnable.py` does the same, so that traces read alike.
    """
    seen: list[list[str]] = []

    class Tags(BaseCallbackHandler):
        def on_chain_start(self, *_: Any, tags: Any, parent_run_id: Any, **__: Any) -> None:
            if parent_run_id is not None:
                seen.append(tags)

    stock_retry(RunnableLambda(Sorter())).invoke("late", {"callbacks": [Tags()]})
    assert seen == [[], ["retry:attempt:2"]]


def test_the_private_seams_of_runnables_that_ours_is_built_on():
    """Runnable and RunnableBindingBase have these private methods, and `_transform_stream…` yields chunks.

    Ours: `retry/runnable.py` calls them by name.
    """
    for name in (
        "_call_with_config",
        "_acall_with_config",
        "_transform_stream_with_config",
        "_atransform_stream_with_config",
    ):
        assert callable(getattr(Runnable, name, None)), name
    assert callable(RunnableBindingBase._merge_configs)

    def double(chunks: Iterator[int], run_manager: Any, config: RunnableConfig) -> Iterator[int]:
        assert run_manager.get_child("tag").tags == ["tag"]
        for chunk in chunks:
            yield 2 * chunk

    runnable = RunnableLambda(abs)
    assert list(runnable._transform_stream_with_config(iter([1, 2]), double, None)) == [2, 4]


def test_version_3_of_events_exists_for_chat_models_only():
    """`Runnable.stream_events` always raises NotImplementedError.

    Ours: `RunnableRetryWithBackoff.stream_events` in `retry/runnable.py` promises exactly that.
    """
    with pytest.raises(NotImplementedError, match="v3"):
        Runnable.stream_events(RunnableLambda(abs), 1, version="v3")


def test_tenacitys_call_state_can_be_filled_by_hand():
    """RetryCallState takes these arguments and RetryAction a number; its outcome is a failed future.

    Ours: `retry_call_state` in `retry/policy.py` builds what `on_retry` handlers expect, and
    `TokenCounter.on_retry` reads `outcome.exception()` and `attempt_number`.
    """
    error = ValueError("x")
    state = tenacity.RetryCallState(tenacity.Retrying(), fn=None, args=(), kwargs={})
    state.attempt_number = 2
    state.set_exception((ValueError, error, None))
    state.next_action = tenacity.RetryAction(1.5)
    state.upcoming_sleep = 1.5
    assert state.outcome is not None
    assert state.outcome.exception() is error
    assert state.next_action.sleep == 1.5
    assert tenacity.RetryCallState(tenacity.Retrying(), fn=None, args=(), kwargs={}).idle_for == 0.0


def test_a_step_of_a_sequence_is_done_for_the_whole_batch_before_the_next_begins():
    """`RunnableSequence.batch` runs step by step; `batch_as_completed` runs item by item.

    Ours: the batch runner never calls `.batch()` (DESIGN, "One batch run").
    """
    order: list[str] = []

    def step(name: str) -> RunnableLambda[str, str]:
        return RunnableLambda(lambda word: order.append(f"{name}{word}") or word)

    chain = step("first ") | step("second ")
    chain.batch(["a", "b"], {"max_concurrency": 1})
    assert order == ["first a", "first b", "second a", "second b"]
    order.clear()
    list(chain.batch_as_completed(["a", "b"], {"max_concurrency": 1}))
    assert order == ["first a", "second a", "first b", "second b"]


def test_stock_chat_openai_takes_max_retries_as_the_sdks(simulate, chat):
    """`ChatOpenAI(max_retries=N)` is handed to the SDK; None, the default, leaves it the SDK's 2.

    Ours: `_read_max_retries` in `models/chat.py` reads it as the policy's, `_own_clients` switches it off.
    """
    sim = simulate()
    assert chat(sim, max_retries=7).root_client.max_retries == 7
    assert chat(sim, max_retries=None).root_client.max_retries == 2
    assert ChatOpenAI.model_fields["max_retries"].default is None
