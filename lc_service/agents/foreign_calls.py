"""Calls of models that ask no budget, from inside an agent's steps: told to the run when they are answered.

Invariant: a call is told once to each run around it, and a call of this package's models, which is held
anyway, to none. Refuses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from langchain_core.tracers.context import register_configure_hook
from typing_extensions import override

from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.tracker import Tracker
from lc_service.accounting.usage_report import UsageReport


class _Told(UsageReport):
    """Keeps nothing: passes each call on."""

    def __init__(self, on_call: Callable[[AttemptRecord], None]) -> None:
        super().__init__()
        self._on_call = on_call

    @override
    def add(self, record: AttemptRecord) -> None:
        self._on_call(record)

    @override
    def add_cached(self, **about: Any) -> None:
        """Pass nothing on: LangChain's cache takes no money."""


class _ForeignCalls(Tracker):
    """A tracker of what is not shown attempt by attempt."""

    @override
    def on_attempt(self, record: AttemptRecord) -> None:
        """Do nothing: its model has asked."""


_innermost: ContextVar[_ForeignCalls | None] = ContextVar("lc_service_foreign_calls", default=None)
# Once, at import: LangChain keeps every hook for ever.
register_configure_hook(_innermost, inheritable=True)


@contextmanager
def foreign_calls(on_call: Callable[[AttemptRecord], None]) -> Iterator[None]:
    """Tell of each call in the block whose model is none of this package, when it has ended.

    Args:
        on_call: Told a record of the call: retries of the model's own are not seen.
    """
    tracker = _ForeignCalls(_innermost.get(), _Told(on_call))
    token = _innermost.set(tracker)
    try:
        yield
    finally:
        tracker.is_closed = True
        with suppress(ValueError):  # collected with its loop: in another context
            _innermost.reset(token)
