"""`with_retry` for any runnable: our policy in place of LangChain's.

Each item of a batch retries by itself, so an answer stays on its input (langchain#35475); a stream is
retried until its first chunk. A `ReliableChatOpenAI` retries inside itself: it is re-configured, not wrapped.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast, overload

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBinding, RunnableBindingBase
from langchain_core.runnables.config import patch_config
from pydantic import InstanceOf

from lc_service.retry.event import retry_call_state
from lc_service.retry.policy import RetryWithExponentialBackoff, aretry_call, retry_call
from lc_service.retry.stream import AsyncReplay, Replay, aretry_stream, retry_stream

if TYPE_CHECKING:
    from langchain_core.callbacks.manager import (
        AsyncCallbackManagerForChainRun,
        CallbackManagerForChainRun,
    )

Input = TypeVar("Input")
Output = TypeVar("Output")


class _RetriesInside(Protocol):
    """A model of this package, whose own `with_retry` takes the policy."""

    def with_retry(self, *, retry: RetryWithExponentialBackoff) -> Self: ...


ModelT = TypeVar("ModelT", bound=_RetriesInside)


@overload
def with_retry(runnable: ModelT, policy: RetryWithExponentialBackoff | None = None) -> ModelT: ...
@overload
def with_retry(
    runnable: Runnable[Input, Output], policy: RetryWithExponentialBackoff | None = None
) -> Runnable[Input, Output]: ...
def with_retry(runnable: Any, policy: RetryWithExponentialBackoff | None = None) -> Any:
    """Return `runnable` with `policy` around each of its calls.

    Invoke, batch, `batch_as_completed`, stream, transform and their async twins are all retried. A batch
    retries item by item, in the item's own place; a stream until it has handed on its first chunk, after
    which an error passes through. LangChain's `on_retry` callbacks fire before each wait, and the runs of
    attempts after the first are tagged `retry:attempt:N`.

    What is retried is `classify`'s decision: failures of a model call or of the network. An error of another
    kind, such as a parser's, is retried where the policy's `retry_on` names it.

    Keep the retried part small: put this around the step that fails, not around a chain with a model in it
    that retries already. `ReliableChatOpenAI` and its bindings get the policy inside instead, and what
    this function returned before gets the new policy in place of its old one.

    Args:
        runnable: Any runnable.
        policy: When and how often to try again; the default policy where None.
    """
    policy = policy or RetryWithExponentialBackoff()
    if isinstance(runnable, RunnableRetryWithBackoff):
        return runnable.model_copy(update={"policy": policy})
    if _retries_inside(runnable):
        return runnable.with_retry(retry=policy)
    return RunnableRetryWithBackoff(bound=runnable, policy=policy)


def _retries_inside(runnable: Runnable[Any, Any]) -> bool:
    """Whether `runnable`, or what it binds, takes our policy itself: two retry layers would multiply."""
    while isinstance(runnable, RunnableBinding):
        runnable = runnable.bound
    return "retry" in inspect.signature(runnable.with_retry).parameters


class RunnableRetryWithBackoff(RunnableBindingBase[Input, Output]):  # type: ignore[no-redef]
    """A runnable retried by a `RetryWithExponentialBackoff`; made by `with_retry`. Thread- and loop-safe."""

    policy: InstanceOf[RetryWithExponentialBackoff]

    # The four batches are Runnable's own, which call invoke for each item; the binding's would hand the
    # whole list to the bound runnable, outside the retry.
    def batch(self, *args: Any, **kwargs: Any) -> list[Output]:
        """Invoke each input, each retried by itself; arguments as `Runnable.batch`."""
        return Runnable.batch(self, *args, **kwargs)

    async def abatch(self, *args: Any, **kwargs: Any) -> list[Output]:
        """Invoke each input, each retried by itself; arguments as `Runnable.abatch`."""
        return await Runnable.abatch(self, *args, **kwargs)

    def batch_as_completed(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, Any]]:
        """Yield `(index, output)` as they finish; arguments as `Runnable.batch_as_completed`."""
        return Runnable.batch_as_completed(self, *args, **kwargs)

    def abatch_as_completed(self, *args: Any, **kwargs: Any) -> AsyncIterator[tuple[int, Any]]:
        """Yield `(index, output)` as they finish; arguments as `Runnable.abatch_as_completed`."""
        return Runnable.abatch_as_completed(self, *args, **kwargs)

    def invoke(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> Output:  # noqa: A002
        """Invoke, retried."""
        return self._call_with_config(self._invoke, input, config, **kwargs)

    async def ainvoke(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> Output:  # noqa: A002
        """Invoke, retried."""
        return await self._acall_with_config(self._ainvoke, input, config, **kwargs)

    def stream(
        self,
        input: Input,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Output]:
        """Stream, retried until the first chunk."""
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(
        self,
        input: Input,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[Output]:
        """Stream, retried until the first chunk."""

        async def inputs() -> AsyncIterator[Input]:
            yield input

        async with aclosing(self.atransform(inputs(), config, **kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    def transform(
        self,
        input: Iterator[Input],  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Output]:
        """Transform, retried until the first chunk; what was read of the input is kept until then."""
        yield from self._transform_stream_with_config(input, self._transform, config, **kwargs)

    async def atransform(
        self,
        input: AsyncIterator[Input],  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[Output]:
        """Transform, retried until the first chunk; what was read of the input is kept until then."""
        outputs = self._atransform_stream_with_config(input, self._atransform, config, **kwargs)
        async with aclosing(cast("AsyncGenerator[Output]", outputs)) as chunks:
            async for chunk in chunks:
                yield chunk

    # The binding's would run the bound runnable's own events, outside the retry.
    def astream_events(self, *args: Any, **kwargs: Any) -> Any:
        """Stream events, retried as `astream`; versions 1 and 2, arguments as `Runnable.astream_events`."""
        return Runnable.astream_events(self, *args, **kwargs)

    def stream_events(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: version 3 of the events has no seam for a retry. Give the policy to the model itself.

        Raises:
            NotImplementedError: Always.
        """
        return Runnable.stream_events(self, *args, **kwargs)

    def _invoke(
        self,
        input_: Input,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Output:
        configs = _attempt_configs(config, run_manager)
        return retry_call(
            self.policy,
            lambda: super(RunnableRetryWithBackoff, self).invoke(input_, next(configs), **kwargs),
            lambda event: run_manager.on_retry(retry_call_state(event)),
        )

    async def _ainvoke(
        self,
        input_: Input,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Output:
        configs = _attempt_configs(config, run_manager)
        return await aretry_call(
            self.policy,
            lambda: super(RunnableRetryWithBackoff, self).ainvoke(input_, next(configs), **kwargs),
            lambda event: run_manager.on_retry(retry_call_state(event)),
        )

    def _transform(
        self,
        input_: Iterator[Input],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[Output]:
        configs = _attempt_configs(config, run_manager)
        replay = Replay(input_)
        return retry_stream(
            self.policy,
            lambda: super(RunnableRetryWithBackoff, self).transform(iter(replay), next(configs), **kwargs),
            lambda event: run_manager.on_retry(retry_call_state(event)),
            can_reopen=lambda: not replay.is_broken,
        )

    def _atransform(
        self,
        input_: AsyncIterator[Input],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Output]:
        configs = _attempt_configs(config, run_manager)
        replay = AsyncReplay(input_)
        return aretry_stream(
            self.policy,
            # not the binding's own atransform: it leaves the bound one open when it is closed early
            lambda: self.bound.atransform(
                aiter(replay), self._merge_configs(next(configs)), **{**self.kwargs, **kwargs}
            ),
            lambda event: run_manager.on_retry(retry_call_state(event)),
            can_reopen=lambda: not replay.is_broken,
        )


def _attempt_configs(
    config: RunnableConfig, run_manager: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun
) -> Iterator[RunnableConfig]:
    """Yield the config of attempt 1, 2, …: its runs are children of this one, tagged as LangChain does."""
    for attempt in itertools.count(1):
        tag = f"retry:attempt:{attempt}" if attempt > 1 else None
        yield patch_config(config, callbacks=run_manager.get_child(tag))
