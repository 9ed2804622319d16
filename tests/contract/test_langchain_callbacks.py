"""LangChain's callbacks: what `TokenCounter` and `track_usage` read, and what the stock counter misses."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    AsyncCallbackManager,
    BaseCallbackHandler,
    CallbackManager,
    UsageMetadataCallbackHandler,
    get_usage_metadata_callback,
)
from langchain_core.messages import HumanMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.runnables.config import ensure_config
from langchain_core.tracers import context as tracers_context
from langchain_core.tracers.context import register_configure_hook
from langchain_openai.chat_models._client_utils import _astream_with_chunk_timeout

from lc_service.simulator import Fault

HELLO = "Hello there, tell me about the library"


def counted_tokens(counter: UsageMetadataCallbackHandler) -> int:
    return sum(usage["total_tokens"] for usage in counter.usage_metadata.values())


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something in another thread or task has happened; the test's timeout ends it."""
    while not condition():  # noqa: ASYNC110  the simulator has no event to wait for
        await asyncio.sleep(0.002)


@pytest.fixture
def stock() -> UsageMetadataCallbackHandler:
    return UsageMetadataCallbackHandler()


# ---- what UsageMetadataCallbackHandler misses


def test_the_stock_counter_counts_a_plain_call(simulate, chat, stock):
    """UsageMetadataCallbackHandler is right for a plain invoke: the rest of this section is no artefact.

    Ours: README's comparison.
    """
    sim = simulate()
    chat(sim).invoke(HELLO, {"callbacks": [stock]})
    assert counted_tokens(stock) == sim.bill.total.total_tokens > 0


def test_the_stock_counter_counts_nothing_of_several_choices(simulate, chat, stock):
    """UsageMetadataCallbackHandler: with n > 1 a message has no model_name, so the call counts 0.

    Ours: `on_llm_end` in `accounting/token_counter.py` takes name and usage from `llm_output` first.
    """
    sim = simulate()
    chat(sim, n=3).invoke(HELLO, {"callbacks": [stock]})
    assert sim.bill.total.total_tokens > 0
    assert counted_tokens(stock) == 0


async def test_the_stock_counter_counts_nothing_of_streams_from_another_url(simulate, chat, stock):
    """UsageMetadataCallbackHandler: a stream with a custom base_url counts 0 (langchain#40518).

    Ours: `ReliableChatOpenAI.stream_usage` is on by default.
    """
    sim = simulate()
    list(chat(sim).stream(HELLO, {"callbacks": [stock]}))
    async for _ in chat(sim).astream(HELLO, {"callbacks": [stock]}):
        pass
    assert sim.bill.total.total_tokens > 0
    assert counted_tokens(stock) == 0


def test_the_stock_counter_counts_nothing_of_what_was_cut_or_abandoned(simulate, chat, stock):
    """UsageMetadataCallbackHandler: cut, abandoned and timed-out calls count 0, and are billed.

    Ours: `.partial` of TruncatedResponseError, read by `paid_usage` in `accounting/failure.py`.
    """
    sim = simulate(faults=[Fault("cut", after_chunks=4), "ok", Fault("stall", delay_seconds=1)])
    config: Any = {"callbacks": [stock]}
    with pytest.raises(Exception, match="Connection error"):
        list(chat(sim, stream_usage=True).stream(HELLO, config))
    stream = chat(sim, stream_usage=True).stream(HELLO, config)
    next(stream)
    stream.close()
    with pytest.raises(Exception, match="timed out"):
        chat(sim, timeout=0.05).invoke(HELLO, config)
    assert sim.wait_until_idle()
    assert sim.bill.requests == 3
    assert counted_tokens(stock) == 0


def test_each_use_of_the_stock_context_manager_leaves_a_hook_behind():
    """`get_usage_metadata_callback()` registers a configure hook each time and removes none.

    Ours: `accounting/tracker.py` registers one, at import.
    """
    before = len(tracers_context._configure_hooks)
    for _ in range(3):
        with get_usage_metadata_callback():
            pass
    assert len(tracers_context._configure_hooks) == before + 3
    del tracers_context._configure_hooks[before:]


# ---- what on_llm_end and on_llm_error say


def test_llm_output_has_the_usage_of_all_choices(simulate, chat, recorder):
    """With n > 1 `llm_output["token_usage"]` is the call's, and each message repeats the whole of it.

    Ours: `read_result` in `accounting/reported.py` asks `llm_output` first.
    """
    sim = simulate()
    chat(sim).generate([[HumanMessage(HELLO)]], callbacks=[recorder], n=3)
    response = recorder.only("end").response
    assert response.llm_output["token_usage"]["total_tokens"] == sim.bill.total.total_tokens
    assert response.llm_output["model_name"] == "gpt-4.1-mini"
    usages = [generation.message.usage_metadata["total_tokens"] for generation in response.generations[0]]
    assert usages == [sim.bill.total.total_tokens] * 3


async def test_a_streamed_result_has_no_llm_output(simulate, chat, make_recorder):
    """After a stream `llm_output` is None, and the message has usage (if it was asked for) and model name.

    Ours: `read_result` in `accounting/reported.py`.
    """
    sim = simulate()
    model = chat(sim, stream_usage=True)
    sync, asynchronous = make_recorder(), make_recorder()
    list(model.stream(HELLO, {"callbacks": [sync]}))
    async for _ in model.astream(HELLO, {"callbacks": [asynchronous]}):
        pass
    for recorder in (sync, asynchronous):
        response = recorder.only("end").response
        assert response.llm_output is None
        message = response.generations[0][0].message
        assert message.usage_metadata["total_tokens"] * 2 == sim.bill.total.total_tokens
        assert message.response_metadata["model_name"] == "gpt-4.1-mini"


def test_a_responses_answer_has_its_usage_in_the_message(simulate, chat, recorder):
    """A Responses answer has no `token_usage` in `llm_output`; usage and model name are in its message.

    Ours: `read_result` in `accounting/reported.py` falls back to the message.
    """
    sim = simulate()
    chat(sim, use_responses_api=True).invoke(HELLO, {"callbacks": [recorder]})
    response = recorder.only("end").response
    assert "token_usage" not in (response.llm_output or {})
    message = response.generations[0][0].message
    assert message.usage_metadata["total_tokens"] == sim.bill.total.total_tokens
    assert message.response_metadata["model_name"] == "gpt-4.1-mini"


async def test_an_abandoned_stream_is_an_error_with_what_had_come(simulate, chat, make_recorder):
    """Closing a stream early fires `on_llm_error(GeneratorExit, response=partial)`; a cancelled one likewise.

    An asynchronous `break` alone fires nothing until the generator is closed.

    Ours: `on_llm_error` in `accounting/token_counter.py` is the one place that can learn of it.
    """
    model = chat(simulate(faults=["ok", "ok", Fault("stall", after_chunks=1)]))
    closed, broken, cancelled = make_recorder(), make_recorder(), make_recorder()
    stream = model.stream(HELLO, {"callbacks": [closed]})
    texts = [next(stream).text, next(stream).text]
    stream.close()

    astream: Any = model.astream(HELLO, {"callbacks": [broken]})
    async for chunk in astream:
        if chunk.text:
            break
    assert broken.names() == ["start"]
    await astream.aclose()

    started = asyncio.Event()

    async def consume() -> None:
        async for chunk in model.astream(HELLO, {"callbacks": [cancelled]}):
            if chunk.text:
                started.set()

    task = asyncio.create_task(consume())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    errors = [recorder.only("error") for recorder in (closed, broken, cancelled)]
    assert [type(error.error) for error in errors] == [GeneratorExit, GeneratorExit, asyncio.CancelledError]
    assert errors[0].response.generations[0][0].text == "".join(texts)
    assert errors[1].response.generations[0][0].text


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="asyncio.wait_for keeps a cancellation from 3.12 on")
async def test_a_cancellation_that_meets_a_chunk_is_lost():
    """On Python 3.11 a stream with a `stream_chunk_timeout` loses a cancellation that comes with a chunk.

    Its `asyncio.wait_for` returns the chunk instead (bpo-37658), and the stream goes on to its end.

    Ours: `ReliableChatOpenAI.astream` inherits it; `stream_chunk_timeout=None` is the way round.
    """

    async def source() -> Any:
        yield "first"
        yield "second"
        await asyncio.sleep(0.01)
        yield "third"

    async def consume(timeout_seconds: float | None, first: asyncio.Event) -> None:
        async for _ in _astream_with_chunk_timeout(source(), timeout_seconds):
            first.set()

    for timeout_seconds, is_cancelled in ((120, False), (None, True)):
        first = asyncio.Event()
        task = asyncio.create_task(consume(timeout_seconds, first))
        await first.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() is is_cancelled


async def test_a_cancelled_ainvoke_fires_neither_end_nor_error(simulate, chat, recorder):
    """A cancelled `ainvoke` is started and never ended, to its callbacks.

    Ours: counts and budgets cannot rely on an end: DESIGN settles in `finally`.
    """
    sim = simulate(latency_seconds=0.5)
    task = asyncio.create_task(chat(sim).ainvoke(HELLO, {"callbacks": [recorder]}))
    await until(lambda: sim.requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.names() == ["start"]


async def test_abatch_raises_at_the_first_error_and_loses_its_siblings_answers():
    """`abatch` raises on the first error while its siblings go on: they are paid for, their answers lost.

    Ours: the batch runner never uses `.abatch()`; README says to use `return_exceptions=True`.
    """
    release, finished = asyncio.Event(), []

    async def work(word: str) -> None:
        if word == "bad":
            raise ConnectionError
        await release.wait()
        finished.append(word)

    with pytest.raises(ConnectionError):
        await RunnableLambda(work).abatch(["good", "bad"])
    assert finished == []
    release.set()
    await until(lambda: finished)


@pytest.mark.parametrize("use_responses_api", [False, True])
@pytest.mark.parametrize("tier", ["default", "priority", "flex"])
def test_a_service_tier_stands_before_the_names_of_usage_details(canned, chat, tier, use_responses_api):
    """`usage_metadata` says `priority_cache_read` and `flex_reasoning` where the answer names such a tier.

    Ours: `_TIERED` in `accounting/usage.py`.
    """
    if use_responses_api:
        usage = {
            "input_tokens": 10, "output_tokens": 5, "total_tokens": 15,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 2},
        }  # fmt: skip
        body = {"id": "r", "object": "response", "created_at": 1, "status": "completed", "output": []}
    else:
        usage = {
            "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        }  # fmt: skip
        message = {"role": "assistant", "content": "x"}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    server = canned({**body, "model": "m", "service_tier": tier, "usage": usage})
    metadata = chat(server, use_responses_api=use_responses_api).invoke(HELLO).usage_metadata
    prefix = "" if tier == "default" else f"{tier}_"
    assert metadata["input_token_details"][f"{prefix}cache_read"] == 4
    assert metadata["output_token_details"][f"{prefix}reasoning"] == 2
    assert (metadata["input_tokens"], metadata["output_tokens"]) == (10, 5)


# ---- configure hooks


class Starts(BaseCallbackHandler):
    """Counts the model calls it is told of."""

    run_inline = True

    def __init__(self) -> None:
        self.run_ids: list[Any] = []

    def on_chat_model_start(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.run_ids.append(run_id)


HOOK: contextvars.ContextVar[BaseCallbackHandler | None] = contextvars.ContextVar(
    "contract_hook", default=None
)


@pytest.fixture
def hook() -> Any:
    """Register a configure hook for one test."""
    register_configure_hook(HOOK, inheritable=True)
    yield HOOK
    tracers_context._configure_hooks[:] = [
        entry for entry in tracers_context._configure_hooks if entry[0] is not HOOK
    ]


SYNC_WAYS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "invoke": (lambda model: model.invoke(HELLO), 1),
    "stream": (lambda model: list(model.stream(HELLO)), 1),
    "batch": (lambda model: model.batch([HELLO] * 3), 3),
    "chain": (lambda model: (RunnableLambda(str) | model).invoke(HELLO), 1),
    "parallel": (lambda model: RunnableParallel(a=model, b=model).invoke(HELLO), 2),
    "nested": (lambda model: RunnableLambda(model.invoke).invoke(HELLO), 1),
    "agent": (lambda model: create_agent(model, []).invoke({"messages": [("user", HELLO)]}), 1),
}


@pytest.mark.parametrize("way", SYNC_WAYS)
def test_a_hook_reaches_every_synchronous_way(simulate, chat, hook, way):
    """A handler in a registered ContextVar is told of calls in batches, parallels, chains and agents, once.

    Ours: `track_usage` in `accounting/tracker.py`.
    """
    call, calls = SYNC_WAYS[way]
    starts = Starts()
    token = hook.set(starts)
    call(chat(simulate()))
    hook.reset(token)
    assert len(starts.run_ids) == len(set(starts.run_ids)) == calls


ASYNC_WAYS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "ainvoke": (lambda model: model.ainvoke(HELLO), 1),
    "abatch": (lambda model: model.abatch([HELLO] * 3), 3),
    "gather": (lambda model: asyncio.gather(model.ainvoke(HELLO), model.ainvoke(HELLO)), 2),
    "to_thread": (lambda model: asyncio.to_thread(model.invoke, HELLO), 1),
    "parallel": (lambda model: RunnableParallel(a=model, b=model).ainvoke(HELLO), 2),
    "agent": (lambda model: create_agent(model, []).ainvoke({"messages": [("user", HELLO)]}), 1),
}


@pytest.mark.parametrize("way", ASYNC_WAYS)
async def test_a_hook_reaches_every_asynchronous_way(simulate, chat, hook, way):
    """A handler in a registered ContextVar is told of calls in tasks, gathers and `to_thread`, once.

    Ours: `track_usage` in `accounting/tracker.py`.
    """
    call, calls = ASYNC_WAYS[way]
    starts = Starts()
    token = hook.set(starts)
    await call(chat(simulate()))
    hook.reset(token)
    assert len(starts.run_ids) == len(set(starts.run_ids)) == calls


def test_a_hook_does_not_reach_a_bare_thread(simulate, chat, hook):
    """A bare `threading.Thread` starts with an empty context; `copy_context().run` brings the hook along.

    Ours: the docstring of `track_usage` says so.
    """
    model, starts = chat(simulate()), Starts()
    token = hook.set(starts)
    context = contextvars.copy_context()
    hook.reset(token)
    for target, calls in ((model.invoke, 0), (lambda text: context.run(model.invoke, text), 1)):
        thread = threading.Thread(target=target, args=(HELLO,))
        thread.start()
        thread.join()
        assert len(starts.run_ids) == calls


def test_an_inner_hook_hides_the_outer_one_but_not_inside_a_chain_step(simulate, chat, hook):
    """Outside a chain only the variable's present handler is told; in a chain step the inherited one is, too.

    Ours: a tracker in `accounting/tracker.py` tells its outer one, and both drop a run's second end.
    """
    model, outer, inner = chat(simulate()), Starts(), Starts()

    def call_inside(text: str) -> Any:
        token = hook.set(inner)
        try:
            return model.invoke(text)
        finally:
            hook.reset(token)

    token = hook.set(outer)
    call_inside(HELLO)
    assert (len(outer.run_ids), len(inner.run_ids)) == (0, 1)
    RunnableLambda(call_inside).invoke(HELLO)
    assert (len(outer.run_ids), len(inner.run_ids)) == (1, 2)
    hook.reset(token)


def test_one_handler_on_model_and_call_is_told_once(simulate, chat, recorder):
    """The same handler object given to the model and to the call is told of a run once.

    Ours: `TokenCounter._close` in `accounting/token_counter.py` would drop a second end in any case.
    """
    chat(simulate(), callbacks=[recorder]).invoke(HELLO, {"callbacks": [recorder]})
    assert recorder.names() == ["start", "end"]


def test_a_handler_that_is_false_breaks_the_hook(simulate, chat, hook):
    """A handler whose truth is False is taken for none: `var.get() or handler_class()`, which is None here.

    Ours: TokenCounter has neither `__len__` nor `__bool__`.
    """

    class Empty(Starts):
        def __len__(self) -> int:
            return 0

    token = hook.set(Empty())
    with pytest.raises(TypeError, match="NoneType"):
        chat(simulate()).invoke(HELLO)
    hook.reset(token)


# ---- managers and handlers


async def test_on_retry_of_a_run_manager_reaches_the_handlers(recorder):
    """`run_manager.on_retry(state)` calls `handler.on_retry(state, run_id=…)`; the async one is awaited.

    Ours: `_tell` and `_atell` in `models/chat.py`; `retry/runnable.py`; `models/embedding_request.py`.
    """
    (run,) = CallbackManager.configure([recorder]).on_llm_start({}, ["x"])
    run.on_retry("state")
    (arun,) = await AsyncCallbackManager.configure([recorder]).on_llm_start({}, ["x"])
    await arun.on_retry("astate")
    told = [
        (arguments.retry_state, arguments.run_id) for name, arguments in recorder.events if name == "retry"
    ]
    assert told == [("state", run.run_id), ("astate", arun.run_id)]


async def test_callbacks_can_be_fired_by_hand(recorder):
    """A manager configured by hand starts an LLM run and ends it with an LLMResult without generations.

    `ensure_config()` inside a chain step gives that step's callbacks, tags and metadata.

    Ours: `models/embedding_request.py`.
    """

    def step(_: str) -> None:
        config = ensure_config()
        manager = CallbackManager.configure(
            inheritable_callbacks=config.get("callbacks"),
            inheritable_tags=config.get("tags"),
            inheritable_metadata=config.get("metadata"),
        )
        (run,) = manager.on_llm_start({"id": ["x"]}, ["2 texts"], invocation_params={"model": "m"})
        run.on_llm_end(LLMResult(generations=[], llm_output={"token_usage": {"prompt_tokens": 1}}))

    RunnableLambda(step).invoke("x", {"callbacks": [recorder], "tags": ["t"], "metadata": {"k": "v"}})
    assert recorder.names() == ["start", "end"]
    start = recorder.only("start")
    assert start.prompts == ["2 texts"]
    assert "t" in start.tags
    assert start.metadata["k"] == "v"
    assert start.parent_run_id is not None
    assert recorder.only("end").response.llm_output["token_usage"] == {"prompt_tokens": 1}


async def test_a_handler_that_runs_inline_is_called_in_the_loops_thread(simulate, chat):
    """In async runs a synchronous handler is called in another thread, unless `run_inline` is True.

    Ours: `TokenCounter.run_inline` in `accounting/token_counter.py`; its lock is for the other callers.
    """
    threads: dict[bool, int] = {}

    class Where(BaseCallbackHandler):
        def __init__(self, inline: bool) -> None:
            self.run_inline = inline

        def on_llm_end(self, *_: Any, **__: Any) -> None:
            threads[self.run_inline] = threading.get_ident()

    await chat(simulate()).ainvoke(HELLO, {"callbacks": [Where(True), Where(False)]})
    assert threads[True] == threading.get_ident()
    assert threads[False] != threading.get_ident()


class StopError(Exception):
    """What a stopping handler raises."""


class Stop(BaseCallbackHandler):
    raise_error = True
    run_inline = True

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        raise StopError


async def take_all(chunks: Any) -> list[Any]:
    return [chunk async for chunk in chunks]


def test_a_synchronous_handler_can_stop_a_call_before_it_is_sent(simulate, chat):
    """A sync handler with raise_error and run_inline, raising at the start, stops a call on every path.

    Ours: nothing yet; DESIGN reserves budgets inside the model instead.
    """
    sim = simulate()
    model: Any = chat(sim)
    config = {"callbacks": [Stop()]}
    for call in (
        lambda: model.invoke(HELLO, config),
        lambda: list(model.stream(HELLO, config)),
        lambda: model.batch([HELLO], config),
        lambda: asyncio.run(model.ainvoke(HELLO, config)),
        lambda: asyncio.run(take_all(model.astream(HELLO, config))),
        lambda: asyncio.run(model.abatch([HELLO], config)),
    ):
        with pytest.raises(StopError):
            call()
    assert sim.requests == []


def test_an_asynchronous_handlers_error_is_swallowed_on_synchronous_paths(simulate, chat):
    """An async handler with raise_error does not stop a synchronous call.

    Ours: why a budget is no callback handler.
    """

    class AsyncStop(AsyncCallbackHandler):
        raise_error = True

        async def on_chat_model_start(self, *_: Any, **__: Any) -> None:
            raise StopError

    assert chat(simulate()).invoke(HELLO, {"callbacks": [AsyncStop()]}).text


def test_when_one_handler_raises_the_others_get_no_end(simulate, chat, recorder):
    """A handler that stops a call leaves handlers before it with a start and no end or error.

    Ours: reservations belong in the model's `try`/`finally`, not into handlers.
    """
    with pytest.raises(StopError):
        chat(simulate()).invoke(HELLO, {"callbacks": [recorder, Stop()]})
    assert recorder.names() == ["start"]
