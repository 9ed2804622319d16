"""The thread that carries the queue into the database, so that no caller's thread has to wait.

Invariant: what was queued before the interpreter, or a `multiprocessing` child, exits is written. A process
that is killed loses what its thread had not carried yet.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sys
import threading
import weakref
from typing import Literal

from lc_service.accounting.ledger.writer import Writer

_GATHER_SECONDS = 0.05  # half of what may be lost: the rest is for the commit
_RETRY_SECONDS = 1.0
_Order = Literal["write", "stop"]


class Courier:
    """Begins its thread when it is first woken; ends it in `close`. Thread-safe.

    Args:
        writer: Whose queue it carries.
        gathers: Whether it waits a little for more, which makes transactions larger and fewer.
    """

    def __init__(self, writer: Writer, *, gathers: bool) -> None:
        self._writer = writer
        self._gathers = gathers
        self._starting = threading.Lock()
        self._is_abandoned = False
        self._reset()
        with _registering:
            _all.add(self)

    def _reset(self) -> None:
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_awake = False

    def wake(self, *, may_wait: bool = True) -> None:
        """Let the thread write what has been queued before. Waits for nothing, not for a lock either.

        Args:
            may_wait: Write here if no thread can be started. While the interpreter exits, that is always so.
        """
        if not self._is_awake:  # it clears this before it writes, so what is queued now is not overlooked
            self._is_awake = True
            if not self._starting.acquire(blocking=False):  # perhaps this very thread has it: in a finalizer
                self._is_awake = False
                return  # whoever has it will wake the thread, or write
            try:
                has_started = self._has_started()
            finally:
                self._starting.release()
            if has_started:
                self._orders.put("stop" if self._is_abandoned else "write")
                return
            self._is_awake = False
            if may_wait or _is_exiting:
                self._writer.write()

    def abandon(self) -> None:
        """Let the thread write what is queued, and end. Takes no lock: for a garbage collector."""
        self._is_abandoned = True
        if self._thread is not None:
            self._orders.put("stop")

    def close(self) -> None:
        """End the thread, write what is queued, and close the connection. All begin anew when needed."""
        with self._starting:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._orders.put("stop")
                thread.join()
                self._reset()
        self._writer.flush()
        with self._writer.connection.lock:
            self._writer.connection.close()

    def _has_started(self) -> bool:
        with contextlib.suppress(RuntimeError):  # the interpreter ends: no more threads
            if self._thread is None and not _is_exiting:
                _close_all_when_a_child_exits()
                thread = threading.Thread(target=self._run, name="lc-service ledger", daemon=True)
                thread.start()
                self._thread = thread
        return self._thread is not None

    def _run(self) -> None:
        orders = self._orders
        order: _Order = "write"
        while order != "stop":
            order = "write"
            with contextlib.suppress(queue.Empty):
                order = orders.get(timeout=None if self._writer.fault.words is None else _RETRY_SECONDS)
            if self._gathers and order == "write":
                with contextlib.suppress(queue.Empty):
                    order = orders.get(timeout=_GATHER_SECONDS)
            if order == "stop":  # before it writes: what a finalizer queues later needs another thread
                self._thread = None
            self._is_awake = False
            self._writer.try_again()


_registering = threading.Lock()
_all: weakref.WeakSet[Courier] = weakref.WeakSet()
_is_exiting = False
_watched_process = 0


def _close_all() -> None:
    global _is_exiting  # noqa: PLW0603  the interpreter exits once
    _is_exiting = True
    with _registering:
        couriers = list(_all)
    for courier in couriers:
        courier.close()


def _close_all_when_a_child_exits() -> None:
    """See to children of `multiprocessing`, which leave without `atexit`."""
    global _watched_process  # noqa: PLW0603  once a process
    processes = sys.modules.get("multiprocessing.process")  # in such a child it has been imported
    if processes is None or processes.parent_process() is None or _watched_process == os.getpid():
        return
    _watched_process = os.getpid()
    from multiprocessing import util  # noqa: PLC0415  only there

    util.Finalize(None, _close_all, exitpriority=10)


def _begin_anew() -> None:
    """After a fork there is no thread, and the parent writes what it had queued."""
    global _registering  # noqa: PLW0603  another thread may have held it
    _registering = threading.Lock()
    for courier in list(_all):
        courier._starting = threading.Lock()  # noqa: SLF001  likewise
        courier._reset()  # noqa: SLF001
        courier._writer.forget()  # noqa: SLF001


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_begin_anew)
