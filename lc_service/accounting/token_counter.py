"""Count what calls use, from LangChain's callbacks: `TokenCounter` where attached, `track_usage` in a block.

One run is counted once, however many ways lead to a counter. Counts what the server reports, of any chat
model; prices nothing.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook
from tenacity import RetryCallState

from lc_service.accounting.failure import may_be_billed, paid_usage
from lc_service.accounting.record import NO_TOKENS, AttemptRecord, AttemptStatus, Certainty
from lc_service.accounting.usage import TokenUsage
from lc_service.accounting.usage_report import UsageReport

_UNKNOWN_MODEL = "unknown"


class TokenCounter(BaseCallbackHandler):
    """Count the tokens of every model call that this handler is told of.

    Attach it to a call (`config={"callbacks": [counter]}`), a chain (`with_config`), a model (`callbacks=`).
    Counts plain, streamed and batched calls, tools, structured output, several choices (`n`), the Responses
    API and `ReliableOpenAIEmbeddings`; an answer from LangChain's cache counts zero tokens; a paid attempt
    whose answer was cut off and retried counts too, and where its usage was not told it counts as unknown.
    Of a stream's attempts LangChain tells of the last alone. Thread-safe, and safe in any event loops.

    Example:
        >>> counter = TokenCounter()
        >>> counter.update({"prompt_tokens": 12, "completion_tokens": 3})
        >>> counter.get_stats()
        {'total_tokens': 15, 'prompt_tokens': 12, 'completion_tokens': 3}
    """

    run_inline = True  # in async runs a handler is otherwise sent through a thread: 100 µs a call
    # Starts and steps tell nothing about usage. Without this LangChain writes each prompt out as one text.
    ignore_chat_model = ignore_chain = ignore_agent = ignore_retriever = ignore_custom_event = True

    def __init__(self) -> None:
        self.usage = UsageReport()
        # The same handler, or an inner tracker and its outer one, can be told twice of one run's end, one
        # right after the other: the last few ends are enough to know.
        self._ended: dict[UUID, None] = {}
        # A model's error can be told again as the reason why the chain around it is retried.
        self._counted_errors: weakref.WeakSet[BaseException] = weakref.WeakSet()
        self._lock = threading.Lock()

    def update(self, usage: object) -> None:
        """Add the usage of a call that was made elsewhere.

        Args:
            usage: A mapping or an object with `prompt_tokens` and `completion_tokens`, or `input_tokens` and
                `output_tokens`; or a `TokenUsage`.

        Raises:
            TypeError: It has none of these.
        """
        read = usage if isinstance(usage, TokenUsage) else TokenUsage.read(usage)
        self.usage.add(AttemptRecord(run_id=uuid4(), model=_UNKNOWN_MODEL, usage=read))

    def get_stats(self) -> dict[str, int]:
        """Return `total_tokens`, `prompt_tokens` and `completion_tokens` so far."""
        total = self.usage.total
        return {
            "total_tokens": total.total_tokens,
            "prompt_tokens": total.input_tokens,
            "completion_tokens": total.output_tokens,
        }

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Count an answer."""
        if self._is_first(run_id):
            output = response.llm_output or {}
            message = _message(response)
            usage = answer_usage(output, message)
            self.usage.add(
                AttemptRecord(
                    run_id=run_id,
                    model=output.get("model_name") or _model_name(message),
                    operation=output.get("operation", "chat"),
                    certainty=Certainty.UNKNOWN if usage is None else Certainty.MEASURED,
                    usage=usage or NO_TOKENS,
                    service_tier=output.get("service_tier") or _metadata(message).get("service_tier"),
                )
            )

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Count a call that failed although it was, or may have been, paid for."""
        self._count_failure(error, is_call=self._is_first(run_id))

    def on_retry(self, retry_state: RetryCallState, **_: Any) -> None:
        """Count an attempt that failed although it was, or may have been, paid for."""
        if retry_state.outcome is not None:
            self._count_failure(retry_state.outcome.exception(), is_call=False)

    def _count_failure(self, error: BaseException | None, *, is_call: bool) -> None:
        if error is None:
            return
        usage = paid_usage(error)
        if usage is None and not may_be_billed(error):
            return
        with self._lock, contextlib.suppress(TypeError):  # a built-in exception takes no weak reference
            if error in self._counted_errors:
                return
            self._counted_errors.add(error)
        self.usage.add(
            AttemptRecord(
                run_id=uuid4(),
                attempt=1 if is_call else 2,
                model=_model_name(getattr(error, "partial", None)),
                status=AttemptStatus.FAILED,
                certainty=Certainty.UNKNOWN if usage is None else Certainty.MEASURED,
                usage=usage or NO_TOKENS,
            )
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what was counted; the copy counts on by itself, in another process."""
        return {"usage": self.usage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self.usage = state["usage"]

    def _is_first(self, run_id: UUID) -> bool:
        with self._lock:
            if run_id in self._ended:
                return False
            self._ended[run_id] = None
            if len(self._ended) > _REMEMBERED_RUNS:
                del self._ended[next(iter(self._ended))]
            return True


_REMEMBERED_RUNS = 256


def _message(response: LLMResult) -> AIMessage | None:
    for generations in response.generations:
        for generation in generations:
            if isinstance(generation, ChatGeneration) and isinstance(generation.message, AIMessage):
                return generation.message
    return None


def answer_usage(output: dict[str, Any], message: AIMessage | None) -> TokenUsage | None:
    """Return the usage of an answer, or None where nobody told it.

    `llm_output` comes first: with several choices each message repeats the whole call's usage.
    """
    metadata = message.usage_metadata if message is not None else None
    if not output and metadata is not None and "total_cost" in metadata:
        return TokenUsage()  # from LangChain's cache, which marks a hit by zeroing its cost
    try:
        return TokenUsage.read(output.get("token_usage") or metadata)
    except TypeError:
        return None


def _metadata(message: AIMessage | None) -> dict[str, Any]:
    return message.response_metadata if message is not None else {}


def _model_name(message: AIMessage | None) -> str:
    metadata = _metadata(message)
    return str(metadata.get("model_name") or metadata.get("model") or _UNKNOWN_MODEL)


class _Tracker(TokenCounter):
    """A counter that passes on what it is told to the tracker around it."""

    def __init__(self, outer: _Tracker | None) -> None:
        super().__init__()
        self.outer = outer

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        super().on_llm_end(response, run_id=run_id)
        if self.outer is not None:
            self.outer.on_llm_end(response, run_id=run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        super().on_llm_error(error, run_id=run_id)
        if self.outer is not None:
            self.outer.on_llm_error(error, run_id=run_id)

    def on_retry(self, retry_state: RetryCallState, **_: Any) -> None:
        super().on_retry(retry_state)
        if self.outer is not None:
            self.outer.on_retry(retry_state)


_tracker: ContextVar[_Tracker | None] = ContextVar("lc_service_tracker", default=None)
# Once, at import: LangChain keeps every hook for ever.
register_configure_hook(_tracker, inheritable=True)


@contextmanager
def track_usage() -> Iterator[UsageReport]:
    """Count every model call made inside a `with` block, whichever chain, agent or task makes it.

    Follows asyncio tasks, batches, RunnableParallel, `asyncio.to_thread` and whatever else copies the context
    (a bare `threading.Thread` needs `contextvars.copy_context().run`). Trackers nest: each counts what
    happens in its own block, inner blocks included, and none counts a call twice.

    Yields:
        A live report; it stays readable after the block.

    Example:
        >>> with track_usage() as usage:
        ...     pass  # chain.invoke(...)
        >>> usage.total.total_tokens
        0
    """
    tracker = _Tracker(_tracker.get())
    _tracker.set(tracker)
    try:
        yield tracker.usage
    finally:
        _close(tracker)


def _close(tracker: _Tracker) -> None:
    """Take `tracker` out of this context, wherever it stands there.

    Not by the token of `set`: a generator's block can end in another context, or after one begun later.
    """
    current = _tracker.get()
    if current is tracker:
        _tracker.set(tracker.outer)
    while current is not None:
        if current.outer is tracker:
            current.outer = tracker.outer
        current = current.outer
