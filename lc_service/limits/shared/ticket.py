"""A ticket: an attempt's turn among all processes, as Redis gave it. A value and how to ask for it."""

from __future__ import annotations

from dataclasses import dataclass

_LEAST_LOOK_SECONDS = 1.0
_PLACE_SECONDS = 0.03


@dataclass(slots=True)
class Ticket:
    """What is known of one attempt's turn.

    Attributes:
        units: What it asks of each limit.
        asked_at: When Redis was asked; None where no reply is awaited.
        due_at: When it may be sent; None before Redis said so.
        look_at: When to ask again how long it takes.
        epoch: Which of Redis's states it was given by.
        offset_seconds: Redis's clock minus ours.
        position: What had been asked of each limit by all, up to and with this.
        sent_at: When it went out.
    """

    units: tuple[float, float]
    asked_at: float | None = None
    due_at: float | None = None
    look_at: float = 0.0
    epoch: str = ""
    offset_seconds: float = 0.0
    position: tuple[float, float] = (0.0, 0.0)
    sent_at: float | None = None

    @property
    def is_given(self) -> bool:
        """Whether Redis has counted it."""
        return self.due_at is not None

    @property
    def redis_sent_at(self) -> float:
        """When it went out, by Redis's clock."""
        return (self.sent_at or 0.0) + self.offset_seconds

    def read(self, reply: list[float], epoch: str, now: float) -> None:
        """Take over what Redis replied.

        Args:
            reply: Its time, a pause, whether there was a place, the wait, the positions.
            epoch: The state's.
            now: Our time.
        """
        redis_now, _, has_place, wait_seconds, *position = reply
        self.asked_at = None
        if not has_place:
            self.look_at = now + _PLACE_SECONDS
            return
        self.epoch = epoch
        self.offset_seconds = redis_now - now
        self.position = (position[0], position[1])
        self.due_at = now + wait_seconds
        # What is far away may come nearer: limits change, and what others asked for is given back.
        self.look_at = now + max(_LEAST_LOOK_SECONDS, wait_seconds / 2)
