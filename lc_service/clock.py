"""Time, in one place: now, wall, sleep, wait, and their async twins.

Everything in lc_service that waits or measures calls these through the module (`clock.sleep(...)`),
so a test replaces these functions and asserts exact waits without waiting.
"""

from __future__ import annotations

import asyncio
import threading
import time


def now() -> float:
    """Return seconds on a monotonic clock; only differences mean anything."""
    return time.monotonic()


def wall() -> float:
    """Return seconds since the epoch, for reading HTTP dates and dating records."""
    return time.time()


def sleep(seconds: float) -> None:
    """Block this thread for `seconds`."""
    time.sleep(seconds)


async def async_sleep(seconds: float) -> None:
    """Suspend this task for `seconds`."""
    await asyncio.sleep(seconds)


def wait(event: threading.Event, seconds: float | None) -> None:
    """Block this thread until `event` is set, for `seconds` at most; None sets no bound."""
    event.wait(seconds)


async def async_wait(future: asyncio.Future[None], seconds: float | None) -> None:
    """Suspend this task until `future` is done, for `seconds` at most; None sets no bound.

    The future is this task's own: it is cancelled with the task, and done after the wait.
    """
    if seconds is None:
        await future
        return
    timer = asyncio.get_running_loop().call_later(seconds, _finish, future)
    try:
        await future
    finally:
        timer.cancel()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
