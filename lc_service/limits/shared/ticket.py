"""A ticket: an attempt's turn among all processes, as Redis gave it. A value and how to ask for it.

Invariant: one that Redis counted is given until Redis says that it knows nothing of it. Asks nobody itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lc_service.limits.mirror import Mark
from lc_service.limits.shared.call import Reply

_LOOK_SECONDS = 1.0
_PLACE_SECONDS = 0.03
"""How long to wait before asking again for a place."""


@dataclass(slots=True, eq=False)
class Ticket:
    """What is known of one attempt's turn.

    Attributes:
        units: What it asks of each limit.
        asked_at: When Redis was asked; None where no reply is awaited.
        due_at: When it may be sent; None before Redis said so.
        look_at: When to ask again: for a turn, or how long it still takes.
        epoch: Which of Redis's states it was given by.
        offset_seconds: Redis's clock minus ours.
        position: What had been asked of each limit by all, up to and with this.
        sent_at: When it went out.
        sent: What had gone out of all that was asked for, up to and with this; None before Redis said so.
    """

    units: tuple[float, float]
    asked_at: float | None = None
    due_at: float | None = None
    look_at: float = 0.0
    epoch: float = 0.0
    offset_seconds: float = 0.0
    position: tuple[float, float] = (0.0, 0.0)
    sent_at: float | None = None
    sent: tuple[float, float] | None = None

    @property
    def is_given(self) -> bool:
        """Whether Redis has counted it."""
        return self.due_at is not None

    @property
    def redis_sent_at(self) -> float:
        """When it went out, by Redis's clock."""
        return (self.sent_at or 0.0) + self.offset_seconds

    @property
    def marks(self) -> tuple[Mark, Mark]:
        """Where the counts of all stood when it went out, by this process's clock."""
        (requests, tokens), (all_requests, all_tokens) = self.units, self.sent or self.position
        at = self.sent_at or 0.0
        return Mark(requests, False, at, all_requests, True), Mark(tokens, False, at, all_tokens, True)

    def read_sent(self, reply: Reply) -> None:
        """Take over what Redis replied when it went out."""
        if reply is not None and float(reply[1]) == self.epoch:
            self.sent = (float(reply[3]), float(reply[4]))

    def read(self, reply: Sequence[float], now: float) -> None:
        """Take over what Redis replied.

        Args:
            reply: Its time, its epoch, a pause, whether there is a turn, the wait, the positions.
            now: Our time.
        """
        redis_now, self.epoch, pause_seconds, is_given, wait_seconds, *position = reply
        if not is_given:
            self.due_at = None
            self.look_at = now + _PLACE_SECONDS
            return
        self.offset_seconds = redis_now - now
        self.position = (position[0], position[1])
        self.due_at = now + wait_seconds
        # What is far away may come nearer: pauses end by proof, limits change, others give their turns back.
        self.look_at = now + (_LOOK_SECONDS if pause_seconds else max(_LOOK_SECONDS, wait_seconds / 2))
