"""Alarms: what wakes a thread or a task that waits, from any thread and from a closing generator too.

Invariant: setting one never blocks. Does not know what is waited for.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress


class ThreadAlarm(threading.Event):
    """Wakes one thread, once.

    A bare lock: setting an ordinary Event takes its lock, which this very thread may hold where the garbage
    collector closes a generator in the midst of a wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bell = threading.Lock()
        self._bell.acquire()
        self._unset = [True]

    def is_set(self) -> bool:
        """Whether it has been set."""
        return not self._unset

    def set(self) -> None:
        """Wake the thread, or do not let it wait."""
        with suppress(IndexError):  # set before; taking from a list is atomic
            self._unset.pop()
            self._bell.release()

    def clear(self) -> None:
        """Refuse: it rings once."""
        raise NotImplementedError("An alarm rings once: make another.")

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is set, for `timeout` seconds at most; return whether it was."""
        return self.is_set() or self._bell.acquire(timeout=-1 if timeout is None else timeout)


class TaskAlarm:
    """Wakes one task of the event loop that it is made in, once, or as often as it is renewed.

    Attributes:
        loop: That loop.
        future: What the task waits for.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self._thread_id = threading.get_ident()

    def set(self) -> None:
        """Wake the task, or do not let it wait."""
        if threading.get_ident() == self._thread_id:
            self._finish()
        else:
            with suppress(RuntimeError):  # that loop is closed
                self.loop.call_soon_threadsafe(self._finish)

    def renew(self) -> None:
        """Make it ring again where it has. For the task itself, which then looks before it waits."""
        if self.future.done():
            self.future = self.loop.create_future()

    def _finish(self) -> None:
        if not self.future.done() and not self.loop.is_closed():
            self.future.set_result(None)
