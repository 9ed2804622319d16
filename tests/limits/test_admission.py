"""Who may send: in the order of arrival, all limits in one step, and nothing taken twice or kept for good."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lc_service.limits.admission import Admission, Outcome
from lc_service.limits.mirror import Mark
from lc_service.limits.pause import MAX_PAUSE_SECONDS
from lc_service.limits.rate_limits import LEARNED, RateLimits
from lc_service.limits.told import Told

START = 1_000.0
NO_HEADERS = httpx2.Headers()
ALONE = Outcome(is_admitted=True)
REJECTED = Outcome(is_admitted=False, is_rejected=True, used_tokens=0)


class Ticket:
    """An attempt that wants to be sent, and keeps count of what it is told."""

    def __init__(
        self,
        tokens: int = 0,
        *,
        is_retry: bool = False,
        party: Hashable = None,
        is_gone: bool = False,
        on_admitted: Callable[[Ticket], None] = lambda _: None,
    ) -> None:
        self.tokens = tokens
        self.party = id(self) if party is None else party
        self.is_retry = is_retry
        self.is_gone = is_gone
        self.is_admitted = False
        self.ready_at: float | None = None
        self.marks: Sequence[Mark] = ()
        self.told: Sequence[Told | None] = ()
        self.wakes = 0
        self.on_admitted = on_admitted

    def wake(self) -> bool:
        self.wakes += 1
        if self.is_admitted and not self.is_gone:  # one that is gone sends nothing
            self.on_admitted(self)
        return not self.is_gone


def line_of(limits: RateLimits = LEARNED) -> Admission:
    return Admission(limits, START)


def join(admission: Admission, now: float = START, **about: Any) -> Ticket:
    ticket = Ticket(**about)
    admission.join(ticket, now)
    return ticket


def at_once(admission: Admission, now: float, outcome: Outcome = ALONE, **about: Any) -> Ticket:
    """Admit, send and settle one."""
    ticket = join(admission, now, **about)
    assert ticket.is_admitted
    admission.send(ticket, now)
    admission.settle(ticket, outcome, now)
    return ticket


def headers(**said: Any) -> Mapping[str, str]:
    """Return headers such as `limit_tokens=100` for x-ratelimit-limit-tokens."""
    return httpx2.Headers({f"x-ratelimit-{name.replace('_', '-')}": str(said[name]) for name in said})


def drain(admission: Admission, tickets: list[Ticket], now: float) -> list[tuple[float, Ticket]]:
    """Let time pass to each moment that the first in the line was told, until all are admitted."""
    waiting = dict.fromkeys(t for t in tickets if not t.is_admitted)
    admitted: list[tuple[float, Ticket]] = []
    for _ in range(100 * len(tickets)):
        if not waiting:
            return admitted
        now = max(now, min(t.ready_at for t in waiting if t.ready_at is not None))
        admission.admit(now)
        for ticket in [t for t in waiting if t.is_admitted]:
            del waiting[ticket]
            admitted.append((now, ticket))
            admission.settle(ticket, Outcome(is_admitted=True, used_tokens=ticket.tokens), now)
    raise AssertionError(f"{len(waiting)} still wait")


# The order


@settings(max_examples=40)
@given(st.lists(st.sampled_from([10, 100, 1_000, 10_000]), min_size=1, max_size=40), st.booleans())
def test_whoever_came_first_goes_first_whatever_the_sizes(sizes, has_concurrency):
    admission = line_of(RateLimits(tokens_per_minute=60_000, max_concurrency=3 if has_concurrency else None))
    tickets = [join(admission, tokens=size) for size in sizes]
    order: list[Ticket] = []
    now = START
    while len(order) < len(tickets):
        came = [t for t in tickets if t.is_admitted and t not in order]
        if not came:
            now = tickets[len(order)].ready_at
            admission.admit(now)
        for ticket in came:
            order.append(ticket)
            admission.settle(ticket, Outcome(is_admitted=True, used_tokens=ticket.tokens), now)
    assert order == tickets


def test_a_large_request_waits_no_longer_than_its_place_in_the_line_demands():
    # 1,000 tokens a second, a second's worth at first
    admission = line_of(RateLimits(tokens_per_minute=60_000))
    tickets = [join(admission, tokens=size) for size in [1_000, *[10] * 50, 10_000, *[10] * 50]]
    times = {id(ticket): time - START for time, ticket in drain(admission, tickets, START)}
    # before it: 500 tokens; it goes when the bucket is whole again, and those behind it pay for it
    assert times[id(tickets[51])] == pytest.approx(1.5, abs=0.001)
    assert times[id(tickets[52])] == pytest.approx(1.5 + 9.01, abs=0.001)
    assert times[id(tickets[-1])] == pytest.approx(1.5 + 9.5, abs=0.001)


def test_a_newcomer_that_would_fit_does_not_pass_the_first_in_the_line():
    admission = line_of(RateLimits(tokens_per_minute=600))
    at_once(admission, START, tokens=5)
    large = join(admission, tokens=300)
    small = join(admission, tokens=1)
    admission.admit(START + 0.2)  # 7 of 10 are there: enough for the small one
    assert not large.is_admitted
    assert not small.is_admitted


def test_requests_and_tokens_are_taken_in_one_step_or_not_at_all():
    admission = line_of(RateLimits(requests_per_minute=60, tokens_per_minute=6_000))
    first = join(admission, tokens=100)
    assert first.is_admitted
    second = join(admission, tokens=100)
    assert not second.is_admitted
    assert second.marks == ()
    # of the tokens it took none while it waited for a request
    assert admission._meters[1].seconds_until(100, START) == pytest.approx(1.0)
    admission.admit(START + 1.0)
    assert [mark.cost for mark in second.marks] == [1.0, 100.0]


def test_a_retry_goes_before_those_that_were_never_admitted():
    admission = line_of(RateLimits(max_concurrency=1))
    running = join(admission)
    newcomer, retry = join(admission), join(admission, is_retry=True)
    admission.settle(running, ALONE, START)
    assert retry.is_admitted
    assert not newcomer.is_admitted


def test_retries_go_in_their_own_order():
    """A large retry is not starved by small ones that keep coming."""
    admission = line_of(RateLimits(max_concurrency=1))
    running = join(admission)
    retries = [join(admission, is_retry=True) for _ in range(5)]
    for retry in retries:
        admission.settle(running, ALONE, START)
        assert retry.is_admitted
        running = retry


def test_a_retry_leaves_its_place_to_others_while_it_sleeps():
    admission = line_of(RateLimits(max_concurrency=1))
    rejected, other = join(admission), join(admission)
    admission.send(rejected, START)
    admission.settle(rejected, Outcome(used_tokens=0), START)  # a 500
    assert other.is_admitted
    assert admission.in_flight_count == 1


def test_whoever_holds_a_place_is_let_in_beyond_the_limit():
    admission = line_of(RateLimits(max_concurrency=1))
    stream = join(admission, party="me")
    others = [join(admission) for _ in range(3)]
    assert join(admission, party="me").is_admitted
    admission.settle(stream, ALONE, START)
    assert not any(other.is_admitted for other in others)  # its other one is still under way
    assert admission.in_flight_count == 1


@pytest.mark.parametrize("retry_first", [True, False])
def test_a_retry_does_not_stand_in_the_way_of_one_that_it_waits_for(retry_first):
    """The place is the stream's, the stream waits for its nested call: that one goes before any retry."""
    admission = line_of(RateLimits(max_concurrency=1, requests_per_minute=60))
    stream = join(admission, party="me")
    about: list[dict[str, Any]] = [{"is_retry": True}, {"party": "me"}]
    tickets = [join(admission, **each) for each in (about if retry_first else about[::-1])]
    nested = tickets[1 if retry_first else 0]
    admission.admit(START + 1)
    assert nested.is_admitted
    for ticket in (nested, stream):
        admission.settle(ticket, ALONE, START + 1)
    admission.admit(START + 2)
    assert all(ticket.is_admitted for ticket in tickets)


def test_only_the_first_in_the_line_is_looked_at_and_told_a_time():
    admission = line_of(RateLimits(requests_per_minute=60, max_concurrency=1))
    looks = 0
    meter = admission._meters[0]
    seconds_until = meter.seconds_until

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(meter, name)

        def seconds_until(self, units: float, now: float) -> float:
            nonlocal looks
            looks += 1
            return seconds_until(units, now)

    admission._meters = (Counting(), admission._meters[1])  # type: ignore[assignment]
    tickets = [join(admission) for _ in range(10_000)]
    assert looks <= 10_001  # one for each that came, at most
    looks, now = 0, START
    for ticket in tickets[:100]:
        admission.settle(ticket, ALONE, now)
        now += 1.0
        admission.admit(now)
    assert looks <= 400
    assert sum(ticket.ready_at is not None for ticket in tickets[101:]) == 0
    assert sum(ticket.wakes for ticket in tickets[101:]) == 0


def test_leaving_from_the_middle_of_the_line_takes_no_walk():
    admission = line_of(RateLimits(max_concurrency=1))
    compared = 0

    class Shy(Ticket):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return self is other

        __hash__ = object.__hash__

    tickets = [Shy() for _ in range(2_000)]
    for ticket in tickets:
        admission.join(ticket, START)
    for ticket in random.Random(1).sample(tickets[1:], 1_999):
        admission.leave(ticket, START)
    assert admission.waiting_count == 0
    assert compared < 2_000


# What is taken is given back, once


def test_one_that_leaves_the_line_lets_the_next_one_go():
    admission = line_of(RateLimits(tokens_per_minute=600))
    at_once(admission, START, tokens=10)
    large, small = join(admission, tokens=600), join(admission, tokens=1)
    admission.leave(large, START + 0.5)
    assert small.is_admitted
    admission.leave(large, START + 0.5)  # once more: nothing
    assert admission.waiting_count == 0


def test_an_admission_that_is_not_used_costs_nothing():
    admission = line_of(RateLimits(requests_per_minute=60, tokens_per_minute=600))
    unused = join(admission, tokens=10)
    admission.leave(unused, START)
    assert admission.in_flight_count == 0
    assert join(admission, tokens=10).is_admitted


def test_one_whose_event_loop_is_gone_is_passed_over_and_costs_nothing():
    admission = line_of(RateLimits(max_concurrency=1, requests_per_minute=60))
    running = join(admission)
    gone, next_one = join(admission, is_gone=True), join(admission)
    admission.admit(START + 1)
    admission.settle(running, ALONE, START + 1)
    assert next_one.is_admitted
    assert not gone.marks
    assert admission.in_flight_count == 1


def test_tokens_that_were_not_used_are_given_back_at_the_end():
    admission = line_of(RateLimits(tokens_per_minute=6_000))
    first, second = join(admission, tokens=100), join(admission, tokens=80)
    assert second.ready_at == pytest.approx(START + 0.8)
    admission.settle(first, Outcome(is_admitted=True, used_tokens=20), START)
    assert second.is_admitted


def test_tokens_that_were_used_beyond_the_charge_are_taken_in_the_end():
    admission = line_of(RateLimits(tokens_per_minute=6_000))
    at_once(admission, START, Outcome(is_admitted=True, used_tokens=300), tokens=100)
    assert join(admission, tokens=100).ready_at == pytest.approx(START + 3.0)


def test_where_nobody_knows_what_was_used_the_charge_stands():
    admission = line_of(RateLimits(tokens_per_minute=6_000))
    at_once(admission, START, Outcome(is_admitted=None), tokens=100)
    assert join(admission, tokens=100).ready_at == pytest.approx(START + 1.0)


def test_settling_twice_is_settling_once():
    admission = line_of(RateLimits(tokens_per_minute=6_000, max_concurrency=5))
    ticket = join(admission, tokens=100)
    for _ in range(2):
        admission.settle(ticket, Outcome(is_admitted=True, used_tokens=50), START)
    assert admission.in_flight_count == 0
    assert join(admission, tokens=100).ready_at == pytest.approx(START + 0.5)


def test_what_is_settled_can_neither_be_seen_nor_left():
    admission = line_of()
    ticket = at_once(admission, START)
    admission.see(ticket, headers(limit_requests=100, remaining_requests=0), START)
    admission.leave(ticket, START)
    assert admission.in_flight_count == 0
    assert admission._meters[0].mirror is None


class World:
    """Random steps on one admission, and the accounts that must come out even."""

    def __init__(self, chance: random.Random, limits: RateLimits, *, tells: bool) -> None:
        self.chance, self.tells = chance, tells
        self.admission = Admission(limits, START)
        self.now = START
        self.tickets: list[Ticket] = []
        self.account: list[tuple[float, tuple[float, float]]] = []
        steps = [self.join] * 3 + [self.send, self.see, self.settle, self.settle, self.leave]
        self.steps = [*steps, self.let_pass, self.let_pass]

    def step(self) -> None:
        self.chance.choice(self.steps)()
        self.look()

    def look(self) -> None:
        under_way = [t for t in self.tickets if t.marks]
        assert self.admission.in_flight_count == len(under_way)
        assert sum(self.admission._places.values()) == len(under_way)

    def join(self) -> None:
        ticket = Ticket(
            on_admitted=lambda one: self.account.append((self.now, (1.0, one.tokens))),
            tokens=self.chance.choice([0, 1, 10, 100, 1_000]),
            is_retry=self.chance.random() < 0.2,
            party=self.chance.choice([None, None, None, "a", "b"]),
            is_gone=self.chance.random() < 0.05,
        )
        self.tickets.append(ticket)
        self.admission.join(ticket, self.now)

    def under_way(self) -> Ticket | None:
        some = [t for t in self.tickets if t.marks]
        return self.chance.choice(some) if some else None

    def send(self) -> None:
        if (ticket := self.under_way()) is not None:
            self.admission.send(ticket, self.now)

    def see(self) -> None:
        if (ticket := self.under_way()) is not None and self.tells:
            self.admission.see(
                ticket,
                headers(
                    limit_requests=self.chance.choice([600, 1_200]),
                    remaining_requests=self.chance.randrange(601),
                    limit_tokens=60_000,
                    remaining_tokens=self.chance.randrange(60_001),
                    reset_tokens="1s",
                ),
                self.now,
            )

    def settle(self) -> None:
        if (ticket := self.under_way()) is None:
            return
        used = self.chance.choice([None, 0, ticket.tokens // 2, ticket.tokens])
        pause = self.chance.choice([None, 0.1])
        outcome = self.chance.choice(
            [
                Outcome(is_admitted=True, used_tokens=used, latency_seconds=0.5),
                Outcome(used_tokens=used),
                Outcome(is_overloaded=True),
                REJECTED._replace(retry_after_seconds=pause),
                REJECTED._replace(exceeded="tokens", retry_after_seconds=pause),
            ]
        )
        if not outcome.is_rejected and outcome.used_tokens is not None:
            self.account.append((self.now, (0.0, outcome.used_tokens - ticket.tokens)))
        self.admission.settle(ticket, outcome, self.now)

    def leave(self) -> None:
        some = [t for t in self.tickets if not t.is_admitted or (t.marks and not t.marks[0].is_sent)]
        if some:
            ticket = self.chance.choice(some)
            if ticket.is_admitted:
                self.account.append((self.now, (-1.0, -ticket.tokens)))
            self.admission.leave(ticket, self.now)

    def let_pass(self) -> None:
        self.now += self.chance.choice([0.001, 0.1, 1.0, 10.0])
        self.admission.admit(self.now)


@pytest.mark.parametrize("tells", [False, True])
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_after_any_steps_places_and_accounts_come_out_even(tells, seed):
    chance = random.Random(seed)
    limits = RateLimits(
        requests_per_minute=chance.choice([None, 60, 600]),
        tokens_per_minute=chance.choice([None, 6_000]),
        max_concurrency=chance.choice([None, 1, 3]),
    )
    world = World(chance, limits, tells=tells)
    for _ in range(120):
        world.step()
    for ticket in world.tickets:
        if ticket.marks:
            world.admission.settle(ticket, Outcome(used_tokens=0), world.now)
        elif not ticket.is_admitted:
            world.admission.leave(ticket, world.now)
    for ticket in world.tickets:  # those that were let in by the last steps
        world.admission.settle(ticket, Outcome(used_tokens=0), world.now)
    assert world.admission.waiting_count == 0
    assert world.admission.in_flight_count == 0
    assert world.admission._places == {}
    assert [meter.pace._trials for meter in world.admission._meters] == [0, 0]
    later = world.now + 10_000
    world.admission._pause.prove(Mark(1.0, False, later), later)
    last = join(world.admission, later, tokens=10)
    world.admission.admit(later + 1)
    assert last.is_admitted


@pytest.mark.parametrize("tells", [False, True])
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_no_more_goes_out_than_the_users_own_limits_whatever_happens(tells, seed):
    """In any span: a second's worth, what accrues, and the one that overshoots it; what came back is free."""
    chance = random.Random(seed)
    limits = RateLimits(requests_per_minute=120, tokens_per_minute=6_000)
    world = World(chance, limits, tells=tells)
    for _ in range(150):
        world.step()
    # each step of the accounts: what was taken, or given back by a settlement
    requests = tokens = 0.0
    before = START
    for time, units in world.account:
        requests = max(0.0, requests - 2.0 * (time - before)) + units[0]
        tokens = max(0.0, tokens - 100.0 * (time - before)) + units[1]
        before = time
        if units[0] > 0:
            assert requests <= 2.0 + 1e-3
            assert tokens - units[1] <= max(0.0, 100.0 - units[1]) + 1e-3


# Limits that are the user's own, beside a server's


def tell(admission: Admission, now: float, **said: Any) -> None:
    """Let one request through that is answered with these headers."""
    ticket = join(admission, now)
    assert ticket.is_admitted
    admission.send(ticket, now)
    admission.see(ticket, headers(**said), now)
    admission.settle(ticket, Outcome(is_admitted=True, used_tokens=0), now)


def spend(
    admission: Admission, seconds: float, tokens: int, used: int | None = None, charge: float = 1.0
) -> int:
    """Ask without end against a server of a million tokens a minute; return how many went out."""
    now, count, level = START + 10, 0, 100_000.0
    until, before = now + seconds, START
    while True:
        ticket = join(admission, now, tokens=tokens)
        while not ticket.is_admitted:
            now = max(now + 1e-4, ticket.ready_at)
            admission.admit(now)
        if now > until:
            return count
        count += 1
        admission.send(ticket, now)
        level = min(1e6, level + (now - before) * 1e6 / 60) - charge * tokens
        before = now
        admission.see(ticket, headers(limit_tokens=1_000_000, remaining_tokens=int(level)), now)
        spent = tokens if used is None else used
        admission.settle(ticket, Outcome(is_admitted=True, used_tokens=spent), now)


def test_a_cap_holds_where_the_server_charges_less_than_is_reckoned():
    """A server that charges a tenth is no reason to send ten times what the user allows."""
    admission = line_of(RateLimits(tokens_per_minute=60_000))
    tell(admission, START, limit_tokens=1_000_000, remaining_tokens=100_000)
    assert spend(admission, 30, tokens=100, charge=0.1) <= 300 + 10 + 1


def test_a_cap_is_used_where_the_server_charges_more_than_is_reckoned():
    admission = line_of(RateLimits(tokens_per_minute=60_000))
    tell(admission, START, limit_tokens=1_000_000, remaining_tokens=100_000)
    assert spend(admission, 30, tokens=100, charge=2.0) >= 300


def test_what_was_not_used_of_a_cap_is_given_back_though_the_server_tells_a_limit():
    admission = line_of(RateLimits(tokens_per_minute=60_000))
    tell(admission, START, limit_tokens=1_000_000, remaining_tokens=100_000)
    assert spend(admission, 30, tokens=1_000, used=100) >= 300


# Never fits


def test_a_request_beyond_the_users_limit_is_told_at_once():
    admission = line_of(RateLimits(tokens_per_minute=1_000))
    assert admission.never_fits(1_001, 0, START) == 1_000
    assert admission.never_fits(1_000, 0, START) is None


def test_a_request_beyond_the_servers_limit_is_told_by_the_least_that_it_can_take():
    admission = line_of()
    assert admission.never_fits(10**9, 10**9, START) is None
    tell(admission, START, limit_tokens=500, remaining_tokens=500)
    assert admission.never_fits(10**9, 500, START) is None
    assert admission.never_fits(501, 501, START) == 500


def test_a_servers_limit_is_asked_again_when_it_was_told_long_ago():
    """Else who only sends large requests would never hear that the limit was raised."""
    admission = line_of()
    tell(admission, START, limit_tokens=500, remaining_tokens=500)
    assert admission.never_fits(501, 501, START + 59) == 500
    assert admission.never_fits(501, 501, START + 61) is None
    assert line_of(RateLimits(tokens_per_minute=9)).never_fits(10, 0, START + 10_000) == 9


# Pauses


def rejected_with(admission: Admission, now: float, retry_after_seconds: float | None) -> Ticket:
    outcome = Outcome(
        is_admitted=False, is_rejected=True, retry_after_seconds=retry_after_seconds, used_tokens=0
    )
    return at_once(admission, now, outcome)


def test_a_rejection_that_asks_for_a_wait_holds_everybody_back():
    admission = line_of()
    rejected_with(admission, START, 2.0)
    newcomers = [join(admission, START + 0.1) for _ in range(3)]
    assert not any(each.is_admitted for each in newcomers)
    assert START + 2.0 <= newcomers[0].ready_at <= START + 2.2
    admission.admit(START + 1.999)
    assert not newcomers[0].is_admitted
    admission.admit(START + 2.201)
    assert all(each.is_admitted for each in newcomers)


def test_a_retry_has_waited_by_itself():
    admission = line_of()
    rejected_with(admission, START, 2.0)
    assert join(admission, START + 1.0, is_retry=True).is_admitted


def test_clients_that_are_told_the_same_come_back_at_different_times():
    starts = set()
    for _ in range(20):
        admission = line_of()
        rejected_with(admission, START, 10.0)
        starts.add(join(admission, START).ready_at)
    assert len(starts) == 20
    assert all(START + 10 <= each <= START + 11 for each in starts)


def test_a_pause_is_a_minute_at_most():
    admission = line_of()
    rejected_with(admission, START, 86_400.0)
    assert join(admission, START).ready_at <= START + MAX_PAUSE_SECONDS * 1.1


@pytest.mark.parametrize("asked", [-5.0, 0.0])
def test_a_wait_of_nothing_is_no_pause(asked):
    admission = line_of()
    rejected_with(admission, START, asked)
    assert join(admission, START).is_admitted


def test_where_nothing_is_known_a_rejection_holds_back_for_a_moment():
    admission = line_of()
    rejected_with(admission, START, None)
    assert START + 0.1 <= join(admission, START).ready_at <= START + 0.11


def test_a_pause_is_ended_by_proof():
    admission = line_of()
    early = join(admission, START)
    admission.send(early, START)
    rejected_with(admission, START + 0.01, 30.0)
    waiting = join(admission, START + 0.02)
    retry = join(admission, START + 1.0, is_retry=True)
    admission.send(retry, START + 1.0)
    admission.settle(early, ALONE, START + 1.1)
    assert not waiting.is_admitted  # it was sent before the one that was rejected: no proof
    admission.settle(retry, ALONE, START + 1.2)
    assert waiting.is_admitted


def test_an_older_rejection_does_not_make_a_pause_easier_to_end():
    admission = line_of()
    old, between, young = (join(admission, START + when) for when in (0.0, 0.1, 0.2))
    for ticket, when in ((old, 0.0), (between, 0.1), (young, 0.2)):
        admission.send(ticket, START + when)
    pausing = REJECTED._replace(retry_after_seconds=30.0)
    admission.settle(young, pausing, START + 0.3)
    admission.settle(old, REJECTED._replace(retry_after_seconds=0.1), START + 0.4)
    admission.settle(between, ALONE, START + 0.5)  # sent before the one that was told 30 s
    assert not join(admission, START + 0.6).is_admitted


# Nonsense


NONSENSE = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["nan", "inf", "-inf", "-1", "0", "0.0", "1e-308", "5e-324", "1e308", "9" * 400, "1_0", "١٢", "", " "]
    ),
    st.integers(-5, 10**15).map(str),
    st.floats().map(str),
    st.floats(0, 1e9).map(lambda seconds: f"{seconds:f}s"),
    st.sampled_from(["31d", "744h", "1ns", "0s", "-1s", "6m0s", "999999999d"]),
)
FIELDS = ("limit_requests", "remaining_requests", "reset_requests", "limit_tokens", "remaining_tokens")


@settings(max_examples=300)
@given(
    answers=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from([*FIELDS, "reset_tokens"]), NONSENSE),
            st.sampled_from([ALONE, REJECTED, REJECTED._replace(exceeded="tokens"), Outcome()]),
            st.integers(0, 10_000),
            st.floats(0, 100),
        ),
        max_size=12,
    )
)
def test_no_headers_make_it_raise_or_lose_count(answers):
    admission = line_of()
    now = START
    for said, outcome, tokens, seconds in answers:
        now += seconds
        ticket = join(admission, now, tokens=tokens)
        for _ in range(100):
            if ticket.is_admitted:
                break
            assert ticket.ready_at is not None
            assert not math.isnan(ticket.ready_at)
            assert ticket.ready_at < now + 40 * 86_400 * 10_000
            now = max(now * (1 + 1e-12), ticket.ready_at)
            admission.admit(now)
        assert ticket.is_admitted
        admission.send(ticket, now)
        raw = {f"x-ratelimit-{name.replace('_', '-')}": value for name, value in said.items()}
        admission.see(ticket, _Plain(raw), now)
        admission.settle(ticket, outcome, now)
    assert admission.in_flight_count == 0


class _Plain(dict[str, str]):
    """Headers of any text: httpx would refuse some of these."""


@pytest.mark.parametrize("exceeded", ["requests", "tokens"])
def test_requests_of_no_tokens_can_be_rejected(exceeded):
    """An estimate that failed is 0: no division by what came through, and the next one still goes."""
    admission = line_of()
    for number in range(40):
        at_once(admission, START + number / 4)
    at_once(admission, START + 10.25, REJECTED._replace(exceeded=exceeded))
    assert admission.in_flight_count == 0
    assert join(admission, START + 11).is_admitted


def test_a_request_that_timed_out_may_have_been_charged():
    """The least that the others of its round were told does not know of it."""
    admission = line_of()
    said = {"limit_requests": 3_000, "reset_requests": "1s"}
    first = join(admission)
    admission.send(first, START)
    admission.see(first, headers(remaining_requests=9, **said), START)
    admission.settle(first, ALONE, START)
    answered, lost = join(admission), join(admission)
    for ticket in (answered, lost):
        admission.send(ticket, START)
    admission.settle(lost, Outcome(), START)
    admission.see(answered, headers(remaining_requests=9, **said), START)
    mirror = admission._meters[0].mirror
    assert mirror is not None
    assert mirror.level == 7
