"""Count what happens in a block: `track_usage`, which follows LangChain's config and the context.

Invariant: trackers nest, and none counts a call twice. A tracker ends with its block, wherever that ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.outputs import LLMResult
from langchain_core.tracers.context import register_configure_hook

from lc_service.accounting.token_counter import TokenCounter
from lc_service.accounting.usage_report import UsageReport


class Tracker(TokenCounter):
    """A counter that passes on LangChain's callbacks to the tracker around it.

    Once closed it counts only what began before: LangChain, or another context, may still hold it.
    """

    def __init__(self, outer: Tracker | None, usage: UsageReport | None = None) -> None:
        super().__init__()
        if usage is not None:
            self.usage = usage
        self.outer = outer
        self.is_closed = False

    def _begin(self, run_id: UUID, about: Mapping[str, Any]) -> None:
        if not self.is_closed:
            super()._begin(run_id, about)
        if self.outer is not None:
            self.outer._begin(run_id, about)  # noqa: SLF001  one of its own kind

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Count a call that has ended, and tell the tracker around this one."""
        if self._is_counted(run_id):
            super().on_llm_end(response, run_id=run_id, **kwargs)
        if self.outer is not None:
            self.outer.on_llm_end(response, run_id=run_id, **kwargs)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Count what a call that failed may have used, and tell the tracker around this one."""
        if self._is_counted(run_id):
            super().on_llm_error(error, run_id=run_id, **kwargs)
        if self.outer is not None:
            self.outer.on_llm_error(error, run_id=run_id, **kwargs)

    def _is_counted(self, run_id: UUID) -> bool:
        return not self.is_closed or run_id in self._runs


_looks: list[Callable[[], Iterable[TokenCounter]]] = []
_tracker: ContextVar[Tracker | None] = ContextVar("lc_service_tracker", default=None)
# Once, at import: LangChain keeps every hook for ever.
register_configure_hook(_tracker, inheritable=True)


def open_tracker() -> TokenCounter | None:
    """Return the tracker of the innermost block of this context that has not ended, or None."""
    return _innermost()


def _innermost() -> Tracker | None:
    """As `open_tracker`; those around it that have ended are taken out, or they would pile up."""
    innermost = _open_from(_tracker.get())
    tracker = innermost
    while tracker is not None:
        tracker.outer = _open_from(tracker.outer)
        tracker = tracker.outer
    return innermost


def _open_from(tracker: Tracker | None) -> Tracker | None:
    while tracker is not None and tracker.is_closed:
        tracker = tracker.outer
    return tracker


def counters_among(handlers: Iterable[object]) -> tuple[TokenCounter, ...]:
    """Return the counters that a run's attempts are shown to, each once.

    They are those among its handlers, the tracker of this context, and the trackers around each, as long as
    their blocks have not ended; and those that are found elsewhere, where none of these counts for them.
    """
    found: dict[int, TokenCounter] = {}
    for handler in (*handlers, _tracker.get()):
        counter = handler
        while isinstance(counter, TokenCounter):
            if not getattr(counter, "is_closed", False):
                found[id(counter)] = counter
            counter = getattr(counter, "outer", None)
    for look in _looks:
        for other in look():
            if all(other.usage is not each.usage for each in found.values()):
                found[id(other)] = other
    return tuple(found.values())


def look_also(look: Callable[[], Iterable[TokenCounter]]) -> None:
    """Have counters looked for as each call begins, by a function that is quick and never raises."""
    _looks.append(look)


@contextmanager
def track_usage(into: UsageReport | None = None) -> Iterator[UsageReport]:
    """Count every model call made inside a `with` block, whichever chain, agent or task makes it.

    Follows asyncio tasks, batches, RunnableParallel, `asyncio.to_thread` and whatever else copies the context
    (a bare `threading.Thread` needs `contextvars.copy_context().run`). Trackers nest: each counts what
    happens in its own block, inner blocks included, and none counts a call twice.

    A call that runs when the block ends is counted to its end, with its retries. One that begins later is
    not, even in a task that was begun in the block: wait for such tasks inside it.
    A block in a generator counts only in the context of the step that began it: where each step runs in a
    context of its own, as in Starlette's thread pool, put the block around the generator.

    Args:
        into: A report to add to; None for a new one. Of nested blocks only one may add to it.

    Yields:
        A live report; it stays readable after the block.

    Example:
        >>> with track_usage() as usage:
        ...     pass  # chain.invoke(...)
        >>> usage.total.total_tokens
        0
    """
    tracker = Tracker(_innermost(), into)
    _tracker.set(tracker)
    try:
        yield tracker.usage
    finally:
        # Not by the token of `set`: a generator's block can end in another context, or after one begun
        # later, and the context it began in goes on with a tracker that is closed.
        tracker.is_closed = True
        _tracker.set(_innermost())
