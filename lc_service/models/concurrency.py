"""Work on many items at once, a bounded number at a time, with the results in the items' order.

Invariant: when it returns or raises, nothing that it began is still running. Does not retry, nor wait for
anything but the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


async def work_in_order(
    work: Callable[[A], Awaitable[T]], items: Sequence[A], *, max_concurrency: int
) -> list[T]:
    """Return what `work` makes of each of `items`, in their order.

    After an error no more items are begun; those under way are finished, because they may be paid for, and
    then the first error is raised. When the caller is cancelled, all of them are, at once.

    Args:
        work: Called with one item; inherits the caller's context variables.
        items: What to work on.
        max_concurrency: How many items may be under way, at least 1.

    Raises:
        BaseException: Whatever `work` raised first.
    """
    results: dict[int, T] = {}
    errors: list[BaseException] = []
    waiting = iter(enumerate(items))

    async def worker() -> None:
        for index, item in waiting:
            try:
                results[index] = await work(item)
            except BaseException as error:
                errors.append(error)
                if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
                    raise
            if errors:  # and no error raised here: a task that fails takes its siblings with it
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(min(max_concurrency, len(items))):
            group.create_task(worker())
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(items))]
