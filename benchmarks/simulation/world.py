"""A world: processes with limiters of their own, a network, and one server that enforces its limits.

Invariant: limiter, retry decision and server are the real ones; only time, latency and clocks are made up.
Costs no CPU time in the world: what a machine could send at most is not simulated.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from lc_service.limits.admission import Admission, Outcome
from lc_service.limits.mirror import Mark
from lc_service.limits.told import Told
from lc_service.retry.errors import ErrorKind, Verdict
from lc_service.retry.policy import RetryWithExponentialBackoff, decide
from lc_service.retry.retry_after import retry_after_seconds
from lc_service.simulator.limits import Decision, RateLimiter
from simulation.clock import SkewedClock
from simulation.events import BEGINNING_SECONDS, Events
from simulation.scenario import Scenario

NETWORK_SECONDS = 0.002
"""One way, give or take a half: requests overtake each other."""
TIMER_SECONDS = 0.001
"""How late an event loop wakes whoever sleeps."""
_PATIENCE_FLOORS = 20
_MOST_OFFSET_SECONDS = 86_400.0
_MODEL = "gpt-4.1-mini"


@dataclass
class Log:
    """What happened, in the world's time since its beginning.

    Attributes:
        admitted: (time, tokens) of each request that the server let in.
        rejected: Times of rejections.
        first_sent: Numbers of the items in the order in which their first attempts went out.
        answered: Times of answers.
        lost: Calls that gave up.
        looks: Times that somebody in line slept and looked again.
    """

    admitted: list[tuple[float, int]] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)
    first_sent: list[int] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    lost: int = 0
    looks: int = 0


class World:
    """One run of a scenario.

    Args:
        scenario: What to run.
        seed: What chance is drawn from.
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.events = Events()
        self.log = Log()
        self.chance = random.Random(seed)
        self.policy = RetryWithExponentialBackoff()
        self.server = RateLimiter(scenario.limits)
        self.make_admission = scenario.fleet()
        items = list(enumerate(scenario.sizes()))
        count = scenario.processes
        self.processes = [Process(self, self._clock(), items[first::count]) for first in range(count)]

    def _clock(self) -> SkewedClock:
        drift = self.scenario.drift
        if not drift:
            return SkewedClock()
        offset_seconds = self.chance.uniform(0, _MOST_OFFSET_SECONDS)
        return SkewedClock(offset_seconds, self.chance.uniform(-drift, drift))

    def run(self) -> Log:
        """Let it happen; what takes 20 times the floor is cut off, and its items count as lost."""
        random.seed(self.chance.random())  # the limiter's own jitter draws from there
        for seconds, limits in self.scenario.changes:
            moment = BEGINNING_SECONDS + seconds
            self.events.at(moment, self.server.set_limits, limits, moment)
        for process in self.processes:
            process.begin()
        self.events.run(until=BEGINNING_SECONDS + _PATIENCE_FLOORS * self.scenario.floor_seconds())
        return self.log

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return self.events.now - BEGINNING_SECONDS

    def network_seconds(self) -> float:
        return NETWORK_SECONDS * self.chance.uniform(0.5, 1.5)

    def arrive(self, attempt: Attempt) -> None:
        """Have the server decide over a request that has come to it."""
        tokens = attempt.call.size
        decision = self.server.admit(_MODEL, tokens, self.events.now)
        seconds = self.network_seconds()
        if decision.is_admitted:
            self.log.admitted.append((self.seconds, tokens))
            seconds += self.scenario.latency_seconds * self.chance.uniform(0.8, 1.0)
        else:
            self.log.rejected.append(self.seconds)
        self.events.after(seconds, attempt.call.process.receive, attempt, decision)


class Call:
    """One item on its way through its attempts."""

    __slots__ = ("attempts", "began_at", "number", "process", "size")

    def __init__(self, process: Process, number: int, size: int) -> None:
        self.process = process
        self.number = number
        self.size = size
        self.attempts = 0
        self.began_at = process.now


class Attempt:
    """One try of a call, as the limiter knows it: see `Waiting`."""

    __slots__ = (
        "alarms", "call", "is_admitted", "is_retry", "marks", "party", "ready_at", "sent_at", "tokens",
        "told",
    )  # fmt: skip

    def __init__(self, call: Call) -> None:
        call.attempts += 1
        self.call = call
        self.party = id(self)
        self.tokens = round(call.size * call.process.world.scenario.reckoned)
        self.is_retry = call.attempts > 1
        self.is_admitted = False
        self.ready_at: float | None = None
        self.marks: Sequence[Mark] = ()
        self.told: Sequence[Told | None] = ()
        self.alarms = 0
        self.sent_at = 0.0

    def wake(self) -> bool:
        self.call.process.wake(self)
        return True


class Process:
    """One process: workers over their share of the items, before a line of their own.

    Args:
        world: Where it is.
        clock: What it takes for the time.
        items: (number, tokens) of each item.
    """

    def __init__(self, world: World, clock: SkewedClock, items: Sequence[tuple[int, int]]) -> None:
        self.world = world
        self.clock = clock
        self.items = deque(items)
        self.admission: Admission = world.make_admission(world.scenario.told, self.now)

    @property
    def now(self) -> float:
        """What its clock shows."""
        return self.clock.shows(self.world.events.now)

    def begin(self) -> None:
        for _ in range(self.world.scenario.workers):
            self.take_next()

    def take_next(self) -> None:
        if self.items:
            self.ask(Call(self, *self.items.popleft()))

    def ask(self, call: Call) -> None:
        self.admission.join(Attempt(call), self.now)

    def wake(self, attempt: Attempt) -> None:
        """Do as an event loop whose task is woken: in its next turn, send, or sleep until another time."""
        attempt.alarms += 1
        if attempt.is_admitted:
            self.world.events.after(0.0, self.send, attempt)
        elif attempt.ready_at is not None:
            self._sleep(attempt, attempt.ready_at)

    def _sleep(self, attempt: Attempt, ready_at: float) -> None:
        moment = max(self.clock.time_when(ready_at), self.world.events.now)
        self.world.events.at(moment + TIMER_SECONDS, self._look, attempt, attempt.alarms)

    def _look(self, attempt: Attempt, alarm: int) -> None:
        if alarm != attempt.alarms:
            return  # woken in between
        self.world.log.looks += 1
        attempt.ready_at = None  # as the limiter: whoever is first now is told anew
        self.admission.admit(self.now)
        if alarm == attempt.alarms and attempt.ready_at is not None:
            self._sleep(attempt, attempt.ready_at)

    def send(self, attempt: Attempt) -> None:
        attempt.sent_at = self.now
        self.admission.send(attempt, self.now)
        if not attempt.is_retry:
            self.world.log.first_sent.append(attempt.call.number)
        self.world.events.after(self.world.network_seconds(), self.world.arrive, attempt)

    def receive(self, attempt: Attempt, decision: Decision) -> None:
        """Read a response: its headers first, then how it ended."""
        headers = {name.decode(): value.decode() for name, value in decision.headers}
        self.admission.see(attempt, headers, self.now)
        if decision.is_admitted:
            latency_seconds = self.now - attempt.sent_at
            outcome = Outcome(
                is_admitted=True, used_tokens=attempt.call.size, latency_seconds=latency_seconds
            )
            self.admission.settle(attempt, outcome, self.now)
            self.world.log.answered.append(self.world.seconds)
            self.take_next()
        else:
            self._retry(attempt, decision, retry_after_seconds(headers))

    def _retry(self, attempt: Attempt, decision: Decision, asked_seconds: float | None) -> None:
        outcome = Outcome(
            is_admitted=False, is_rejected=True, exceeded=decision.exceeded, retry_after_seconds=asked_seconds
        )
        self.admission.settle(attempt, outcome, self.now)
        call = attempt.call
        wait_seconds = decide(
            self.world.policy,
            Verdict(kind=ErrorKind.RATE_LIMIT, is_transient=True, retry_after_seconds=asked_seconds),
            attempt=call.attempts,
            elapsed_seconds=self.now - call.began_at,
            draw=self.world.chance.random(),
        )
        if wait_seconds is None:
            self.world.log.lost += 1
            self.take_next()
            return
        wake_at = self.clock.time_when(self.now + wait_seconds) + TIMER_SECONDS
        self.world.events.at(wake_at, self.ask, call)
