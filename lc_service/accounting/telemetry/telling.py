"""How OpenTelemetry is told: on the caller's thread, or by another one where a generator is being closed.

Invariant: what fails is kept away from the call, and a finalizer never enters the SDK: its own thread may
hold the SDK's locks at that moment. Knows no spans and no metrics.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, cast

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., None])
_logged: set[str] = set()


def harmless(method: F) -> F:
    """Keep what goes wrong in telemetry away from the call, and log its kind once."""

    @functools.wraps(method)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  the call matters more than what is told of it
            kind = type(error).__name__
            if kind not in _logged and len(_logged) < 100:
                _logged.add(kind)
                logger.error(  # noqa: TRY400  a traceback may quote what was sent
                    "Telemetry failed with %s; calls go on. This is logged once.", kind
                )

    return cast("F", guarded)


def is_closing(error: BaseException | None = None) -> bool:
    """Tell whether a generator is being closed: the garbage collector may do it, in the midst of anything.

    Args:
        error: What ends the call; what is being handled counts as well, and what led to either.
    """
    seen: set[int] = set()
    for each in (error, sys.exc_info()[1]):
        while isinstance(each, BaseException) and id(each) not in seen:
            if isinstance(each, GeneratorExit):
                return True
            seen.add(id(each))
            each = each.__context__  # noqa: PLW2901  up the chain
    return False


def hand_over(telling: Callable[[], None]) -> None:
    """Let another thread call this soon, in the order in which it was handed over. Never waits for it.

    At exit it is called before the providers shut down that were there by then.
    """
    _waiting.append(telling)
    atexit.unregister(_tell_all)
    atexit.register(_tell_all)  # after all that are registered by now, so it runs before them
    if not sys.is_finalizing():  # a thread would not begin any more, and its start would wait for that
        with contextlib.suppress(RuntimeError):  # no more threads: the next one tells it, or the exit
            threading.Thread(target=_tell_all, name="lc-service telemetry", daemon=True).start()


_waiting: deque[Callable[[], None]] = deque()
_telling = (
    threading.Lock()
)  # held by nobody who may be interrupted by one who wants it: he only starts a thread


@harmless
def _tell_all() -> None:
    with _telling, contextlib.suppress(IndexError):
        while True:
            harmless(_waiting.popleft())()


def _begin_anew() -> None:
    """After a fork the parent tells what was handed over there."""
    global _telling  # noqa: PLW0603  another thread may have held it
    _telling = threading.Lock()
    _waiting.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_begin_anew)
