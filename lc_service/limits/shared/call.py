"""A call to Redis: one step of the script, its arguments, and who is told the reply. Values.

Knows nothing of how a call is carried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

Reply = Sequence[bytes] | None
Argument = str | float | int


class Call(NamedTuple):
    """One step of the script.

    Attributes:
        key: The state that it is about.
        arguments: The step's name, then what it asks for; the time is added.
        on_reply: Told the reply, in the courier's thread; None where nobody waits for one.
    """

    key: str
    arguments: Sequence[Argument]
    on_reply: Callable[[Reply], None] | None = None


def shown(value: float | None) -> Argument:
    """Return a number as the script reads it; what is not known is empty."""
    return "" if value is None or not math.isfinite(value) else value
