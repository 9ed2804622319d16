"""Run one procedure in two ways: blocking a thread, or suspending a task.

A procedure is a generator that yields what takes time and receives its result; whatever goes wrong there, a
cancellation included, closes it. Knows nothing of budgets.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import cache
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Step(Protocol):
    """Something that takes time."""

    def run(self) -> Any:
        """Do it, blocking the thread."""

    async def arun(self) -> Any:
        """Do it, suspending the task."""


Procedure = Generator[Step, Any, T]


def run(procedure: Procedure[T]) -> T:
    """Run `procedure` in this thread."""
    with closing(procedure):
        try:
            step = next(procedure)
            while True:
                step = procedure.send(step.run())
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def arun(procedure: Procedure[T]) -> T:
    """Run `procedure` in this task."""
    with closing(procedure):
        try:
            step = next(procedure)
            while True:
                step = procedure.send(await step.arun())
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class InThread:
    """A step that blocks, on a disk or a network: a task has it done by a thread.

    Args:
        function: What to do.
        undo: Is given its result where the task was cancelled before it could receive it.
    """

    def __init__(self, function: Callable[[], T], undo: Callable[[T], None]) -> None:
        self._function = function
        self._undo = undo

    def run(self) -> Any:
        """Do it here."""
        return self._function()

    async def arun(self) -> Any:
        """Do it in a thread."""
        future = threads().submit(self._function)
        try:
            return await asyncio.wrap_future(future)
        except BaseException:
            if not future.cancel():
                threads().submit(self._undo_result, future)
            raise

    def _undo_result(self, future: Future[Any]) -> None:
        if future.exception() is None:
            self._undo(future.result())


@cache
def threads() -> ThreadPoolExecutor:
    """Return the threads in which tasks have blocking steps done.

    Not the event loop's own: there, calls that wait for room could keep out the one that gives it back.
    """
    return ThreadPoolExecutor(max_workers=4, thread_name_prefix="lc_service-budget")


if hasattr(os, "register_at_fork"):  # a forked process has the pool and none of its threads
    os.register_at_fork(after_in_child=threads.cache_clear)
