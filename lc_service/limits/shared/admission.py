"""The line of one process before limits that it shares: its first ask Redis for their turns among all.

Invariant: while Redis is away this is the process's own admission and nothing else, which never stopped
learning. Pure but for what it hands to the courier; time is an argument.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from lc_service.limits.admission import Admission, Outcome
from lc_service.limits.mirror import Mark
from lc_service.limits.pace import Pace
from lc_service.limits.rate_limits import RateLimits
from lc_service.limits.shared.call import Argument, Call, Reply
from lc_service.limits.shared.courier import Courier
from lc_service.limits.shared.learning import Learning
from lc_service.limits.shared.ticket import Ticket
from lc_service.limits.told import DIMENSIONS
from lc_service.limits.waiting import Waiting, units_of

_PATIENCE_SECONDS = 1.0
"""How long a reply is waited for that neither comes nor fails."""
_MOST_AT_ONCE = 32
"""How many of the line ask together, while nothing holds them back."""

OnReply = Callable[[Waiting, Ticket, Reply], None]


class SharedAdmission(Admission):
    """The line of one process before limits that several share; not thread-safe.

    Args:
        limits: What the user says.
        key: Names the state in Redis.
        courier: Carries what is asked.
        on_reply: Brings a reply back to `hear`, in the order of all other steps.
        now: The time.
    """

    def __init__(self, limits: RateLimits, key: str, courier: Courier, on_reply: OnReply, now: float) -> None:
        super().__init__(limits, now)
        caps = (limits.requests_per_minute, limits.tokens_per_minute)
        self._learning = [Learning(name, cap) for name, cap in zip(DIMENSIONS, caps, strict=True)]
        self._own_paces = tuple(Pace(1.0) for _ in DIMENSIONS)
        self._most_places = limits.max_concurrency
        self._key = key
        self._process = uuid.uuid4().hex[:12]
        self._courier = courier
        self._on_reply = on_reply
        self._tickets: dict[Waiting, Ticket] = {}
        self._sent: dict[Waiting, Ticket] = {}
        self._is_paused = False
        self._in_a_row = 0  # replies that told nobody to wait

    # --- asking for a turn

    def join(self, waiting: Waiting, now: float) -> None:
        """Stand in line, last; as `Admission.join`."""
        if self._courier.is_up:  # it looks by then whatever comes: it need not be woken to be told so
            waiting.ready_at = now + _PATIENCE_SECONDS
        super().join(waiting, now)

    def _seconds_until(self, waiting: Waiting, now: float) -> float | None:
        if not self._courier.is_up:
            return super()._seconds_until(waiting, now)
        seconds = 0.0 if waiting.party in self._places else self._concurrency.seconds_until_room(now)
        if seconds is None or (seconds := max(seconds, self._own_seconds(waiting, now))) > 0:
            return seconds
        ticket = self._tickets.get(waiting)
        if ticket is None:
            self._ask_together(waiting, now)
            return _PATIENCE_SECONDS
        if ticket.due_at is not None and ticket.due_at <= now:
            return 0.0
        if ticket.asked_at is not None:
            left = ticket.asked_at + _PATIENCE_SECONDS - now
            return left if left > 0 else super()._seconds_until(waiting, now)
        if ticket.look_at <= now:
            self._ask(waiting, ticket, now)
            return _PATIENCE_SECONDS
        return min(ticket.due_at or ticket.look_at, ticket.look_at) - now

    def _own_seconds(self, waiting: Waiting, now: float) -> float:
        """Return the wait for the rate that this process found by itself, where the server tells none."""
        seconds = 0.0
        for meter, pace, units in zip(self._meters, self._own_paces, units_of(waiting), strict=True):
            found = meter.found_per_second(now)
            if found is None:
                pace.rate_per_second = None
            else:
                pace.set_rate(found, 0.0, now)
                seconds = max(seconds, pace.seconds_until(units, now))
        return seconds

    def _ask_together(self, head: Waiting, now: float) -> None:
        """Ask for the first, and while nothing holds anybody back for those after it, as room allows."""
        asking = [head]
        room = self._concurrency.limit - self.in_flight_count - len(self._tickets)
        asking += islice(self._line, 1, max(1, min(room, 1 + self._in_a_row // 4, _MOST_AT_ONCE)))
        for waiting in asking:
            if waiting not in self._tickets:
                self._tickets[waiting] = Ticket(units_of(waiting))
                self._ask(waiting, self._tickets[waiting], now)

    def _ask(self, waiting: Waiting, ticket: Ticket, now: float) -> None:
        if ticket.is_given:
            asked: tuple[Argument, ...] = (
                "look",
                ticket.epoch,
                int(waiting.is_retry),
                *ticket.position,
                *ticket.units,
            )
        else:
            units = [
                one
                for learning, units in zip(self._learning, ticket.units, strict=True)
                for one in (units, *learning.pace())
            ]
            asked = ("take", int(waiting.is_retry), *units, *self._place_for(waiting))
        ticket.asked_at = now

        def reply(said: Reply) -> None:
            self._on_reply(waiting, ticket, said)

        self._courier.carry(Call(self._key, asked, reply))

    def _place_for(self, waiting: Waiting) -> tuple[Argument, ...]:
        if self._most_places is None:
            return ("",)
        is_urgent = int(waiting.party in self._places)
        return self._most_places, self._process, self._held, self._courier.lease_seconds, is_urgent

    def hear(self, waiting: Waiting, ticket: Ticket, reply: Reply, now: float) -> None:
        """Take note of a reply, and let go whoever may."""
        is_looking = ticket.is_given
        is_here = self._tickets.get(waiting) is ticket
        ticket.asked_at = None
        if reply is None:
            ticket.look_at = now
        elif is_here or not is_looking:  # one that left gave back what it knew of
            said = [float(one) for one in reply]
            ticket.read(said, now)
            self._is_paused = said[2] > 0
            self._in_a_row = self._in_a_row + 1 if said[3] and not said[4] else 0
            if not is_here:
                self._give_back_turn(ticket)
        self.admit(now)

    # --- places

    @property
    def _held(self) -> int:
        """Places that are this process's, those included that it has just asked for."""
        waiting = sum(ticket.is_given or ticket.asked_at is not None for ticket in self._tickets.values())
        return self.in_flight_count + waiting

    def renew(self, _now: float) -> None:
        """Say how many places this process holds, which prolongs their lease."""
        if self._most_places is not None:
            self._tell("hold", self._process, self._held, self._courier.lease_seconds)

    def _drop(self, waiting: Waiting, now: float) -> None:
        ticket = self._tickets.pop(waiting, None)
        if ticket is not None:
            self._give_back_turn(ticket)
            self.renew(now)

    def _give_back_turn(self, ticket: Ticket) -> None:
        if ticket.is_given:
            self._tell("undo", ticket.epoch, *ticket.units)

    def _tell(self, *arguments: Argument, on_reply: Callable[[Reply], None] | None = None) -> None:
        if self._courier.is_up:
            self._courier.carry(Call(self._key, arguments, on_reply))

    def _let_wait(self, head: Waiting, ready_at: float | None) -> bool:
        if super()._let_wait(head, ready_at):
            return True
        self._drop(head, ready_at or 0.0)  # nobody waits for it any more
        return False

    def leave(self, waiting: Waiting, now: float) -> None:
        """Step out of the line, or back from an admission that was not used."""
        if not waiting.is_admitted:
            self._drop(waiting, now)
        super().leave(waiting, now)

    # --- what becomes of it

    def _take(self, head: Waiting, now: float) -> list[Mark]:
        units = units_of(head)
        for pace, one in zip(self._own_paces, units, strict=True):
            pace.take(one, now)
        ticket = self._tickets.pop(head, None)
        if ticket is None or not ticket.is_given or not self._courier.is_up:
            return super()._take(head, now)
        self._sent[head] = ticket
        return [meter.take(one, now, may_try=False) for meter, one in zip(self._meters, units, strict=True)]

    def send(self, waiting: Waiting, now: float) -> None:
        """Take note that an admitted request goes out."""
        super().send(waiting, now)
        if (ticket := self._sent.get(waiting)) is not None and ticket.sent_at is None:
            ticket.sent_at = now
            self._tell("send", ticket.epoch, *ticket.units, on_reply=ticket.read_sent)

    def see(self, waiting: Waiting, headers: Mapping[str, str], now: float) -> None:
        """Learn from the head of a response, of whatever status, and show it to the others."""
        super().see(waiting, headers, now)
        ticket = self._sent.get(waiting)
        if ticket is not None and ticket.sent is not None and any(waiting.told):
            known = zip(self._learning, waiting.told, ticket.marks, strict=True)
            seen = [one for learning, told, mark in known for one in learning.see(told, mark, now)]
            self._tell("see", ticket.epoch, ticket.redis_sent_at, *seen)

    def _end(self, waiting: Waiting, outcome: Outcome, now: float) -> None:
        was_sent = waiting.marks[0].is_sent or outcome.is_admitted is not None
        if not was_sent and waiting in self._sent:
            self._sent[waiting].sent_at = now  # which nobody need be told
        super()._end(waiting, outcome, now)
        self.renew(now)
        if (ticket := self._sent.pop(waiting, None)) is not None:
            self._tell_end(ticket, outcome, was_sent=was_sent)
        for waits in self._tickets.values():
            if self._is_paused or not waits.is_given:  # the pause may be over, and there is a place
                waits.look_at = now

    def _tell_end(self, ticket: Ticket, outcome: Outcome, *, was_sent: bool) -> None:
        if not was_sent and outcome.used_tokens == 0:
            self._give_back_turn(ticket)
        elif outcome.is_admitted and self._is_paused:
            self._tell("prove", ticket.redis_sent_at)
        is_used = was_sent and not outcome.is_rejected and outcome.used_tokens is not None
        if is_used and self._meters[1].mirror is None and self._meters[1].is_paced:
            self._tell("give_back", ticket.epoch, ticket.units[1] - (outcome.used_tokens or 0))

    def _reject(self, waiting: Waiting, marks: Sequence[Mark], outcome: Outcome, now: float) -> None:
        super()._reject(waiting, marks, outcome, now)
        ticket = self._sent.get(waiting)
        if ticket is None:
            return
        told = waiting.told or (None, None)
        for learning, said, mark in zip(self._learning, told, ticket.marks, strict=True):
            learning.rejected(said, mark, now)
        self._tell("reject", ticket.epoch, *ticket.units)
        if self._pause.until > now:
            self._is_paused = True
            self._tell("pause", ticket.redis_sent_at, self._pause.until - now)
