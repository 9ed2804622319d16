"""Who may send: requests, tokens and concurrency admitted in one step, in the order of arrival.

Invariant: only the first in the line is ever looked at, so nothing small passes a large one, and each step
takes the same time however many wait. Pure: time is an argument, nothing sleeps, and no lock is taken.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from lc_service.limits.concurrency import Concurrency
from lc_service.limits.line import Line, Rank
from lc_service.limits.meter import Meter
from lc_service.limits.mirror import Mark
from lc_service.limits.pause import Pause
from lc_service.limits.rate_limits import RateLimits
from lc_service.limits.told import DIMENSIONS, Dimension, Told, read_told
from lc_service.limits.waiting import Waiting, units_of

_SOONER_SECONDS = 0.001
"""A wait that became shorter by less than this is not worth waking anybody."""


class Outcome(NamedTuple):
    """How an attempt ended, as far as limits go.

    Attributes:
        is_admitted: Whether the server let it in; None where nobody knows.
        is_rejected: Whether it was refused for a rate limit.
        is_overloaded: Whether the server said that it has too much to do.
        exceeded: The limit that the rejection names, or None.
        retry_after_seconds: The wait that it asks for, or None.
        used_tokens: What the attempt used; None where that is not known.
        latency_seconds: Time to the whole answer; None where there was none.
    """

    is_admitted: bool | None = None
    is_rejected: bool = False
    is_overloaded: bool = False
    exceeded: Dimension | None = None
    retry_after_seconds: float | None = None
    used_tokens: int | None = None
    latency_seconds: float | None = None


_UNUSED = Outcome(used_tokens=0)


class Admission:
    """The line before one endpoint, credential and model; not thread-safe.

    Args:
        limits: What the user says.
        now: The time.
    """

    def __init__(self, limits: RateLimits, now: float) -> None:
        caps = (limits.requests_per_minute, limits.tokens_per_minute)
        self._meters = tuple(Meter(name, cap, now) for name, cap in zip(DIMENSIONS, caps, strict=True))
        self._concurrency = Concurrency(limits.max_concurrency, now)
        self._places: dict[Hashable, int] = {}
        self._line: Line[Waiting] = Line()
        self._pause = Pause(now)
        self._unseen_count = 0

    @property
    def waiting_count(self) -> int:
        """Attempts that wait."""
        return len(self._line)

    @property
    def first(self) -> Waiting | None:
        """The first in the line, or None."""
        return self._line.first

    @property
    def parties(self) -> Iterable[Hashable]:
        """Those who hold a place."""
        return self._places.keys()

    @property
    def in_flight_count(self) -> int:
        """Attempts that are under way."""
        return self._concurrency.in_flight

    def never_fits(self, tokens: int, least_tokens: int, now: float) -> float | None:
        """Return the limit of tokens a minute that a request exceeds by itself, or None.

        Args:
            tokens: What it is charged against the user's own limit.
            least_tokens: What a server charges at least.
            now: The time.
        """
        meter = self._meters[1]
        told = meter.told_limit(now)
        for limit, needed in ((meter.cap_per_minute, tokens), (told, least_tokens)):
            if limit is not None and needed > limit:
                return limit
        return None

    def join(self, waiting: Waiting, now: float) -> None:
        """Stand in line, last.

        First stands one whose own party holds a place, with an open stream: whoever waits for that to end may
        wait for this. Then an attempt whose call was admitted before.
        """
        # In the dark whoever goes only asks: let each in turn, or one call's retries are soon used up.
        rank = Rank.RETRY if waiting.is_retry and not self._pause.is_dark else Rank.NEW
        self._line.join(waiting, Rank.URGENT if waiting.party in self._places else rank)
        self.admit(now)

    def put_first(self, waiting: Waiting, now: float) -> None:
        """Stand before everybody: others wait for this one that nobody can tell."""
        self._line.put_first(waiting)
        self.admit(now)

    def leave(self, waiting: Waiting, now: float) -> None:
        """Step out of the line, or back from an admission that was not used."""
        if waiting.marks:
            self._return(waiting, now)
        elif not self._line.leave(waiting):
            return
        self.admit(now)

    def _return(self, waiting: Waiting, now: float) -> None:
        """Take back an admission that nobody used."""
        cost = waiting.marks[0].cost
        self._end(waiting, _UNUSED, now)
        self._meters[0].give_back(cost)

    def admit(self, now: float) -> None:
        """Admit from the head of the line whoever may go, and tell the next how long to wait."""
        while (head := self._line.first) is not None:
            seconds = self._seconds_until(head, now)
            if seconds is None or seconds > 0:
                if self._let_wait(head, None if seconds is None else now + seconds):
                    return
                continue
            self._line.leave(head)
            self._concurrency.enter()
            self._places[head.party] = self._places.get(head.party, 0) + 1
            head.marks = self._take(head, now)
            head.is_admitted = True
            self._pause.let_go(now)
            if not head.wake():  # its event loop is gone
                self._return(head, now)

    def _take(self, head: Waiting, now: float) -> list[Mark]:
        return [meter.take(units, now) for meter, units in zip(self._meters, units_of(head), strict=True)]

    def _let_wait(self, head: Waiting, ready_at: float | None) -> bool:
        known = head.ready_at
        head.ready_at = ready_at
        is_sooner = ready_at is not None and (known is None or ready_at < known - _SOONER_SECONDS)
        if is_sooner and not head.wake():
            self._line.leave(head)
            return False
        return True

    def _seconds_until(self, waiting: Waiting, now: float) -> float | None:
        seconds = 0.0 if waiting.party in self._places else self._concurrency.seconds_until_room(now)
        if seconds is None:
            return None
        for meter, units in zip(self._meters, units_of(waiting), strict=True):
            seconds = max(seconds, meter.seconds_until(units, now))
        return max(seconds, self._pause.seconds_left(now, is_retry=waiting.is_retry))

    def send(self, waiting: Waiting, now: float) -> None:
        """Take note that an admitted request goes out."""
        if waiting.marks and not waiting.marks[0].is_sent:
            self._unseen_count += 1
        waiting.marks = [
            meter.send(mark, now) for meter, mark in zip(self._meters, waiting.marks, strict=False)
        ]

    def see(self, waiting: Waiting, headers: Mapping[str, str], now: float) -> None:
        """Learn from the head of a response, of whatever status."""
        if not waiting.marks:
            return
        if not waiting.marks[0].is_sent:  # nobody said when: a client of the caller's own sent it
            self.send(waiting, waiting.marks[0].at)
        self._unseen_count -= not waiting.told
        waiting.told = [read_told(headers, name) for name in DIMENSIONS]
        for meter, told, mark in zip(self._meters, waiting.told, waiting.marks, strict=True):
            if told is None:
                meter.forget_round()
            else:
                meter.see(told, mark, now, is_last=not self._unseen_count)
                self._concurrency.trust()
        self.admit(now)

    def settle(self, waiting: Waiting, outcome: Outcome, now: float) -> None:
        """End an attempt: give back what it did not use, learn from how it ended, and let the next one go."""
        if waiting.marks:
            self._end(waiting, outcome, now)
            self.admit(now)

    def _end(self, waiting: Waiting, outcome: Outcome, now: float) -> None:
        if not waiting.marks[0].is_sent:
            self.send(waiting, now)
        if not waiting.told:
            self._unseen_count -= 1
            for meter in self._meters:
                meter.forget_round()
        marks, waiting.marks = waiting.marks, ()
        self._leave_place(waiting.party, outcome, marks[0].at, now)
        if outcome.is_rejected:
            self._reject(waiting, marks, outcome, now)
            return
        for meter, mark in zip(self._meters, marks, strict=True):
            if outcome.is_admitted:
                meter.admitted(mark, now)
                self._pause.prove(mark, now)
            else:
                meter.void(mark, now)
        if outcome.used_tokens is not None:
            self._meters[1].give_back(marks[1].cost - outcome.used_tokens)

    def _leave_place(self, party: Hashable, outcome: Outcome, sent_at: float, now: float) -> None:
        if outcome.latency_seconds is not None:
            self._concurrency.answered(outcome.latency_seconds, now)
        if outcome.is_overloaded:
            self._concurrency.overloaded(sent_at, now)
        self._concurrency.leave()
        places = self._places.pop(party) - 1
        if places:
            self._places[party] = places

    def _reject(self, waiting: Waiting, marks: Sequence[Mark], outcome: Outcome, now: float) -> None:
        told = waiting.told or (None, None)
        exceeded = outcome.exceeded or _exceeded(told, marks)
        for meter, mark, said in zip(self._meters, marks, told, strict=True):
            if meter.dimension == exceeded:
                meter.rejected(mark, said, now)
            else:
                meter.void(mark, now)
        if outcome.retry_after_seconds is not None:
            self._pause.begin(outcome.retry_after_seconds, marks[0], now)
        elif not any(meter.is_paced for meter in self._meters) or self._is_at_a_loss(told):
            self._pause.begin_dark(marks[0], now)

    def _is_at_a_loss(self, told: Sequence[Told | None]) -> bool:
        """Whether a rejection tells nothing though the server's other answers do."""
        return not any(told) and any(meter.mirror is not None for meter in self._meters)


def _exceeded(told: Sequence[Told | None], marks: Sequence[Mark]) -> Dimension:
    """Return the limit that a rejection is about where it does not say so itself."""
    for name, said, mark in zip(DIMENSIONS, told, marks, strict=True):
        if said is not None and said.remaining < mark.cost:
            return name
    return "requests"
