"""Those who account for a call cannot fail it: what they raise is logged once, and the call goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


def guarded(what: str, observe: Callable[[T], None], seen: T) -> None:
    """Show what was seen of an attempt to one who follows it: its failure is not the call's nor another's."""
    try:
        observe(seen)
    except Exception as error:  # noqa: BLE001  see above
        log_once(what, error)


_logged: set[tuple[str, str]] = set()


def log_once(what: str, error: Exception) -> None:
    """Log a failure once a kind: not its text, which may quote what was sent, but where it was raised."""
    place = "?"
    traceback = error.__traceback__
    while traceback is not None:
        place = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    if (what, place) not in _logged:
        _logged.add((what, place))
        logger.error(
            "%s failed with %s in %s; calls go on. This is logged once.", what, type(error).__name__, place
        )
