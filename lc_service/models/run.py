"""Which LangChain run a call belongs to, also where LangChain does not say: it gives streams no run manager.

A stream's run is handed over by a context variable that is set only while its request is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.utils.uuid import uuid7
from langchain_openai.chat_models.base import BaseChatOpenAI

from lc_service.accounting.tracker import open_tracker
from lc_service.models.pipeline import AnyRunManager, Call
from lc_service.retry.event import RetryEvent, retry_call_state

T = TypeVar("T")
M = TypeVar("M", bound=AnyRunManager)

_run: ContextVar[AnyRunManager | None] = ContextVar("lc_service_run", default=None)


@contextmanager
def handed_over(manager: AnyRunManager | None) -> Iterator[None]:
    """Hand a run over to what is called in this block."""
    token = _run.set(manager)
    try:
        yield
    finally:
        with suppress(ValueError):  # collected with its loop: in another context
            _run.reset(token)


def handed_over_run() -> Any:
    """Return the run that was handed over, or None."""
    return _run.get()


def stream_run(
    model: BaseChatOpenAI, config: RunnableConfig | None, manager_type: type[M]
) -> tuple[RunnableConfig, M]:
    """Return the run that `model.stream(…, config)` is going to be, and the config that makes it that.

    LangChain makes the same one of the same config, and keeps it to itself (contract-tested).
    """
    config = ensure_config(config)
    config["run_id"] = run_id = config.get("run_id") or uuid7()
    inherited = config.get("callbacks")
    manager = inherited if isinstance(inherited, BaseCallbackManager) else None
    tracker = open_tracker()  # now: another thread may read the stream
    return config, manager_type(
        run_id=run_id,
        handlers=[
            *_handlers(inherited),
            *_handlers(model.callbacks),
            *(() if tracker is None else (tracker,)),
        ],
        inheritable_handlers=[],
        parent_run_id=manager.parent_run_id if manager else None,
        tags=[*(manager.tags if manager else ()), *config.get("tags", ()), *(model.tags or ())],
        inheritable_tags=[],
        metadata={
            **(manager.metadata if manager else {}),
            **config.get("metadata", {}),
            **(model.metadata or {}),
        },
        inheritable_metadata={},
    )


def _handlers(callbacks: list[BaseCallbackHandler] | BaseCallbackManager | None) -> list[BaseCallbackHandler]:
    if isinstance(callbacks, BaseCallbackManager):
        return callbacks.handlers
    return callbacks or []


def first_in_run(stream: Iterator[T], manager: AnyRunManager) -> Iterator[T]:
    """Yield what `stream` does; its first step, which sends the request, is handed the run."""
    try:
        with handed_over(manager):
            first = next(stream, None)
        if first is not None:
            yield first
            yield from stream
    finally:
        if (close := getattr(stream, "close", None)) is not None:
            close()


async def afirst_in_run(stream: AsyncIterator[T], manager: AnyRunManager) -> AsyncIterator[T]:
    """Yield what `stream` does; as `first_in_run`."""
    try:
        with handed_over(manager):
            item = await anext(stream, None)
        while item is not None:
            yield item
            item = await anext(stream, None)
    finally:
        if (aclose := getattr(stream, "aclose", None)) is not None:
            await aclose()


def on_wait(call: Call, limiter: BaseRateLimiter | None = None) -> Callable[[RetryEvent], None]:
    """Return what is told before each wait: the run's handlers, the span, and a LangChain rate limiter."""
    run: Any = call.run

    def tell(event: RetryEvent) -> None:
        if call.span is not None:
            call.span.on_retry(event)
        if run is not None:
            run.on_retry(retry_call_state(event))
        if limiter is not None:  # LangChain asks it once a call: the next attempt is one more
            limiter.acquire(blocking=True)

    return tell


def aon_wait(call: Call, limiter: BaseRateLimiter | None = None) -> Callable[[RetryEvent], Awaitable[None]]:
    """Return what is told before each wait; as `on_wait`."""
    run: Any = call.run

    async def tell(event: RetryEvent) -> None:
        if call.span is not None:
            call.span.on_retry(event)
        if run is not None:
            await run.on_retry(retry_call_state(event))
        if limiter is not None:
            await limiter.aacquire(blocking=True)

    return tell
