"""Budgets that hold for whatever is called in a block: `hold_to`, which follows the context.

Invariant: blocks nest, and a call is held to the budgets of all blocks around it. Reserves nothing itself:
models of this package ask for the budgets around them at each call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lc_service.accounting.budget import Budget

_budgets: ContextVar[tuple[Budget, ...]] = ContextVar("lc_service_budgets", default=())


def budgets_around() -> tuple[Budget, ...]:
    """Return the budgets of the blocks around the caller, the outermost first."""
    return _budgets.get()


@contextmanager
def hold_to(*budgets: Budget) -> Iterator[None]:
    """Hold every model call made inside a `with` block to `budgets`, beside those of its own model.

    Follows asyncio tasks, batches, `asyncio.to_thread` and agents, as all that copies the context does (a
    bare `threading.Thread` needs `contextvars.copy_context().run`). A call belongs to the block that it
    begins in.
    Only models of this package ask; others are not held.
    """
    token = _budgets.set((*_budgets.get(), *budgets))
    try:
        yield
    finally:
        with suppress(ValueError):  # collected with its loop: in another context
            _budgets.reset(token)
