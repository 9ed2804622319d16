"""What other middleware asks of models in hooks of its own: counted to the run whose graph is around it.

Invariant: a call is shown to a run once. Calls of the agent's model and tools are inside the run anyway; here
are those of nodes that nothing can be wrapped around, such as `SummarizationMiddleware`'s. Refuses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from langchain_core.runnables.config import var_child_runnable_config
from typing_extensions import override

from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.token_counter import TokenCounter
from lc_service.accounting.tracker import look_also

_READ_KEY = "__pregel_read"
"""Where langgraph puts the function that reads a running graph's state, as it stands between two steps."""
_channels: set[str] = set()


class OwnCalls(TokenCounter):
    """Shown the attempts that a run's steps know nothing of. Thread-safe.

    Args:
        on_attempt: Told each attempt.
        is_inside: Whether the caller is in a step of the run, which sees to its calls by itself.
    """

    def __init__(
        self, on_attempt: Callable[[AttemptRecord], None], is_inside: Callable[[], bool] = lambda: False
    ) -> None:
        super().__init__()
        self._on_attempt = on_attempt
        self.is_inside = is_inside

    @override
    def on_call(self, run_id: UUID) -> None:
        """Keep nothing: it is no handler, so nobody tells it of the end."""

    @override
    def on_attempt(self, record: AttemptRecord) -> None:
        self._on_attempt(record)


def count_own_calls(channel: str) -> None:
    """Count for the runs that are kept in this channel of an agent's state, from now on."""
    _channels.add(channel)


def _around() -> Iterator[TokenCounter]:
    config = var_child_runnable_config.get()
    read: Any = None if config is None else config.get("configurable", {}).get(_READ_KEY)
    if read is None:
        return
    for channel in _channels:
        counter = getattr(_value(read, channel), "own_calls", None)
        if isinstance(counter, OwnCalls) and not counter.is_inside():
            yield counter


def _value(read: Any, channel: str) -> object:
    try:
        return read(channel, False)
    except Exception:  # noqa: BLE001  another graph's node; or langgraph has changed: no reason to fail a call
        return None


look_also(_around)
