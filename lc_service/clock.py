"""Time, in one place: now, wall, sleep, async_sleep.

Everything in lc_service that waits or measures calls these through the module (`clock.sleep(...)`),
so a test replaces these functions and asserts exact waits without waiting.
"""

from __future__ import annotations

import asyncio
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
