"""The line before shared limits, with a courier that carries nothing: what it asks, and what replies do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
import pytest

from lc_service.limits.admission import Outcome
from lc_service.limits.mirror import Mark
from lc_service.limits.rate_limits import LEARNED, RateLimits
from lc_service.limits.shared.admission import SharedAdmission
from lc_service.limits.shared.call import Call
from lc_service.limits.shared.ticket import Ticket
from lc_service.limits.told import Told

NOW, REDIS_NOW, EPOCH = 100.0, 5_000.0, 4_000.5
ANSWERED = Outcome(is_admitted=True, used_tokens=10, latency_seconds=0.1)
REJECTED = Outcome(is_admitted=False, is_rejected=True, used_tokens=0, retry_after_seconds=2.0)
UNSENT = Outcome(used_tokens=0)


class Permit:
    """An attempt that wants to be sent."""

    def __init__(self, tokens: int, party: object, *, is_retry: bool, is_gone: bool) -> None:
        self.tokens, self.party, self.is_retry, self.is_gone = tokens, party or id(self), is_retry, is_gone
        self.is_admitted = False
        self.ready_at: float | None = None
        self.marks: Sequence[Mark] = ()
        self.told: Sequence[Told | None] = ()

    def wake(self) -> bool:
        return not self.is_gone


class Redis:
    """Stands in for courier and server: keeps what is asked until the test replies."""

    def __init__(self) -> None:
        self.is_up = True
        self.lease_seconds = 60.0
        self.calls: list[Call] = []
        self.position = 0
        self.sent = 0

    def carry(self, call: Call) -> None:
        if call.arguments[0] == "send":
            self.sent += 1
            assert call.on_reply is not None
            said = (REDIS_NOW, EPOCH, 0.0, float(self.sent), 10.0 * self.sent)
            call.on_reply([str(one).encode() for one in said])
        else:
            self.calls.append(call)

    def asked(self) -> list[tuple[Any, ...]]:
        """Return what was asked since the last time."""
        calls, self.calls = self.calls, []
        return [tuple(call.arguments) for call in calls]

    def steps(self) -> list[str]:
        return [asked[0] for asked in self.asked()]

    def reply(
        self, wait: float = 0.0, *, is_given: bool = True, pause: float = 0.0, epoch: float = EPOCH
    ) -> None:
        """Answer all that wait for a reply."""
        calls, self.calls = self.calls, []
        for call in calls:
            if call.on_reply is not None:
                self.position += 1
                said = (REDIS_NOW, epoch, pause, int(is_given), wait, self.position, 10 * self.position)
                call.on_reply([str(one).encode() for one in said])

    def lose(self) -> None:
        self.is_up = False
        calls, self.calls = self.calls, []
        for call in calls:
            if call.on_reply is not None:
                call.on_reply(None)


class Line:
    """A shared admission, its Redis and a time that the test moves."""

    def __init__(self, limits: RateLimits = LEARNED) -> None:
        self.now = NOW
        self.redis = Redis()
        self.admission = SharedAdmission(limits, "state", self.redis, self._hear, NOW)  # type: ignore[arg-type]

    def _hear(self, waiting: Any, ticket: Ticket, reply: Any) -> None:
        self.admission.hear(waiting, ticket, reply, self.now)

    def join(
        self, tokens: int = 10, *, party: object = None, is_retry: bool = False, is_gone: bool = False
    ) -> Permit:
        permit = Permit(tokens, party, is_retry=is_retry, is_gone=is_gone)
        self.admission.join(permit, self.now)
        return permit

    def go(self, **about: Any) -> Permit:
        """Join, and be let in at once."""
        permit = self.join(**about)
        self.redis.reply()
        assert permit.is_admitted
        return permit

    def end(self, permit: Permit, outcome: Outcome = ANSWERED) -> None:
        self.admission.settle(permit, outcome, self.now)


def headers(limit: int = 600, remaining: int = 9) -> Mapping[str, str]:
    said = {"limit": limit, "remaining": remaining, "reset": "100ms"}
    return httpx2.Headers({f"x-ratelimit-{name}-requests": str(value) for name, value in said.items()})


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def places() -> Line:
    line = Line(RateLimits(max_concurrency=2))
    line.go()
    return line


# --- turns


def test_nobody_goes_before_redis_says_so(line: Line) -> None:
    permit = line.join()
    assert not permit.is_admitted
    assert line.redis.asked() == [("take", 0, 1.0, "", "", 10.0, "", "", "")]


def test_a_turn_that_is_due_goes_by_the_reply(line: Line) -> None:
    assert line.go().is_admitted
    assert not line.redis.calls, "one question for one decision"


def test_a_turn_of_later_waits_until_then(line: Line) -> None:
    permit = line.join()
    line.redis.reply(0.5)
    assert not permit.is_admitted
    assert permit.ready_at == NOW + 0.5
    line.now += 0.5
    line.admission.admit(line.now)
    assert permit.is_admitted
    assert not line.redis.calls


def test_only_the_first_asks_while_there_is_something_to_wait_for(line: Line) -> None:
    first, second = line.join(), line.join()
    assert line.redis.steps() == ["take"]
    line.admission.leave(first, NOW)
    assert line.redis.steps() == ["take"]
    assert not second.is_admitted


def test_many_ask_together_while_nothing_holds_them_back(line: Line) -> None:
    for _ in range(130):
        done = line.go()
        line.admission.send(done, line.now)
        line.admission.see(done, headers(), line.now)  # limits are told: 64 may be under way
        line.end(done)
    line.redis.asked()
    permits = [line.join() for _ in range(100)]
    assert len(line.redis.calls) == 1, "the first of them stood alone when it asked"
    line.redis.reply()
    assert permits[0].is_admitted
    assert line.redis.steps() == ["take"] * 32


def test_no_more_ask_than_there_is_room_for() -> None:
    line = Line(RateLimits(max_concurrency=3))
    line.go()
    for _ in range(10):
        line.join()
    line.redis.reply()
    assert line.redis.steps() == ["take"]


def test_a_far_turn_is_looked_at_again_and_may_come_nearer(line: Line) -> None:
    permit = line.join()
    line.redis.reply(10.0)
    line.now += 5
    line.admission.admit(line.now)
    assert line.redis.calls[0].arguments == ("look", EPOCH, 0, 1.0, 10.0, 1.0, 10.0)
    line.redis.reply(0.0)
    assert permit.is_admitted


def test_a_turn_of_a_state_that_was_lost_is_asked_for_anew(line: Line) -> None:
    permit = line.join()
    line.redis.reply(10.0)
    line.now += 5
    line.admission.admit(line.now)
    line.redis.reply(is_given=False, epoch=EPOCH + 1)
    line.now += 0.04
    line.admission.admit(line.now)
    assert line.redis.calls[0].arguments[0] == "take"
    line.redis.reply()
    assert permit.is_admitted


def test_a_retry_says_that_it_is_one(line: Line) -> None:
    line.join(is_retry=True)
    assert line.redis.asked()[0][:2] == ("take", 1)


# --- turns that are not used


def test_whoever_leaves_with_a_turn_gives_it_back(line: Line) -> None:
    permit = line.join()
    line.redis.reply(10.0)
    line.admission.leave(permit, line.now)
    assert line.redis.asked() == [("undo", EPOCH, 1.0, 10.0)]


def test_a_turn_that_comes_when_nobody_waits_is_given_back(line: Line) -> None:
    line.admission.leave(line.join(), line.now)
    line.redis.reply()
    assert line.redis.asked() == [("undo", EPOCH, 1.0, 10.0)]


def test_a_look_that_comes_when_nobody_waits_gives_nothing_back_again(line: Line) -> None:
    permit = line.join()
    line.redis.reply(10.0)
    line.now += 5
    line.admission.admit(line.now)
    (look,) = line.redis.calls
    line.admission.leave(permit, line.now)
    assert line.redis.steps() == ["look", "undo"]
    line.redis.calls = [look]
    line.redis.reply()
    assert not line.redis.calls


def test_an_admission_that_was_not_used_is_given_back(line: Line) -> None:
    permit = line.go()
    line.admission.leave(permit, line.now)
    assert line.redis.asked() == [("undo", EPOCH, 1.0, 10.0)]


def test_what_was_sent_is_not_given_back(line: Line) -> None:
    permit = line.go()
    line.admission.send(permit, line.now)
    line.end(permit, UNSENT)
    assert "undo" not in line.redis.steps()


def test_one_whose_loop_is_gone_gives_its_turn_back(line: Line) -> None:
    line.join(is_gone=True)
    line.redis.reply()
    assert line.redis.asked() == [("undo", EPOCH, 1.0, 10.0)]
    assert not line.admission.in_flight_count


def test_one_whose_loop_is_gone_while_it_waits_keeps_no_turn(line: Line) -> None:
    permit = line.join()
    line.redis.reply(10.0)
    permit.is_gone = True
    permit.ready_at = None  # whoever waits cares to be woken
    line.admission.admit(line.now)
    assert line.redis.asked() == [("undo", EPOCH, 1.0, 10.0)]
    assert not line.admission._tickets


def test_nothing_is_kept_of_what_is_done(line: Line) -> None:
    for _ in range(20):
        line.end(line.go())
    assert not line.admission._tickets
    assert not line.admission._sent


# --- what becomes of it


def test_headers_are_shown_to_all(line: Line) -> None:
    permit = line.go()
    line.now += 0.2
    line.admission.send(permit, line.now)
    line.admission.see(permit, headers(), line.now + 0.1)
    ((step, epoch, sent_at, remaining, position, rate, capacity, *_),) = line.redis.asked()
    assert (step, epoch, sent_at) == ("see", EPOCH, pytest.approx(REDIS_NOW + 0.2))
    assert (remaining, position, rate, capacity) == (9, 1.0, 10.0, pytest.approx(10.0))
    line.join()
    assert line.redis.asked()[0][:5] == ("take", 0, 1.0, 10.0, 10.0)


def test_each_request_is_told_when_it_goes_out_and_only_then(line: Line) -> None:
    used, unused = line.go(), line.go()
    assert line.redis.sent == 0
    line.admission.send(used, line.now)
    line.admission.send(used, line.now)
    line.admission.leave(unused, line.now)
    assert line.redis.sent == 1


def test_headers_that_tell_nothing_are_not(line: Line) -> None:
    permit = line.go()
    line.admission.see(permit, httpx2.Headers(), line.now)
    assert not line.redis.calls


def test_a_retry_after_is_a_pause_for_all(line: Line) -> None:
    permit = line.go()
    line.admission.send(permit, line.now)
    line.end(permit, REJECTED)
    rejected, (step, sent_at, seconds) = line.redis.asked()
    assert rejected == ("reject", EPOCH, 1.0, 10.0), "the server took nothing for it"
    assert (step, sent_at) == ("pause", REDIS_NOW)
    assert 2.0 <= seconds <= 2.2


def test_what_comes_through_during_a_pause_is_told(line: Line) -> None:
    permit, other = line.go(), line.join()
    line.redis.reply(2.0, pause=2.0)
    line.admission.send(permit, line.now)
    line.end(permit)
    asked, line.redis.calls = line.redis.calls, line.redis.calls[1:]
    assert [call.arguments[0] for call in asked] == ["prove", "look"], "and it may be over by that"
    line.redis.reply()
    assert other.is_admitted


def test_a_pause_is_looked_at_every_second(line: Line) -> None:
    line.join()
    line.redis.reply(60.0, pause=60.0)
    line.now += 1
    line.admission.admit(line.now)
    assert line.redis.steps() == ["look"]


def test_unused_tokens_are_given_back_where_only_a_cap_is_known() -> None:
    line = Line(RateLimits(tokens_per_minute=6_000))
    permit = line.go(tokens=50)
    line.admission.send(permit, line.now)
    line.end(permit)
    assert line.redis.asked() == [("give_back", EPOCH, 40.0)]


def test_a_rate_that_was_found_by_rejections_is_kept_to_by_each_process(line: Line) -> None:
    refused = REJECTED._replace(retry_after_seconds=None)
    for number in range(40):
        line.now += 0.1
        permit = line.join()
        line.redis.reply()
        if not permit.is_admitted:
            break
        line.admission.send(permit, line.now)
        line.end(permit, ANSWERED if number % 2 else refused)
        line.redis.asked()
    assert 10 < number < 39
    assert not line.redis.calls, "Redis knows nothing of that rate"
    assert line.now < permit.ready_at < line.now + 1


# --- places


def test_a_process_says_what_it_holds_when_it_asks_for_a_place(places: Line) -> None:
    places.join()
    *_, most, process, held, lease, is_urgent = places.redis.asked()[0]
    assert (most, held, lease, is_urgent) == (2, 1, 60.0, 0)
    assert process == places.admission._process


def test_a_refused_place_is_asked_for_again(places: Line) -> None:
    permit = places.join()
    places.redis.reply(is_given=False)
    assert not permit.is_admitted
    places.now += 0.05
    places.admission.admit(places.now)
    places.redis.reply()
    assert permit.is_admitted


def test_a_refused_place_is_asked_for_at_once_when_one_of_our_own_comes_free() -> None:
    line = Line(RateLimits(max_concurrency=2))
    first, second = line.go(), line.join()
    line.redis.reply(is_given=False)
    line.end(first)
    assert line.redis.calls[0].arguments == ("hold", line.admission._process, 0, 60.0)
    assert line.redis.calls[1].arguments[0] == "take"
    line.redis.reply()
    assert second.is_admitted


def test_a_party_that_holds_a_place_is_let_in_beyond_them() -> None:
    line = Line(RateLimits(max_concurrency=1))
    line.go(party="one")
    line.join(party="one")
    assert line.redis.asked()[0][-1] == 1


def test_a_renewal_counts_what_is_asked_for(places: Line) -> None:
    permit = places.join()
    places.redis.asked()
    places.admission.renew(places.now)
    assert places.redis.asked() == [("hold", places.admission._process, 2, 60.0)]
    places.admission.leave(permit, places.now)
    assert places.redis.asked() == [("hold", places.admission._process, 1, 60.0)]


# --- without Redis


def test_whoever_waits_for_a_reply_goes_by_itself_when_redis_is_lost(line: Line) -> None:
    permit = line.join()
    line.redis.lose()
    assert permit.is_admitted
    assert line.admission.in_flight_count == 1


def test_without_redis_nothing_is_asked_of_it(line: Line) -> None:
    line.redis.lose()
    permit = line.join()
    line.admission.send(permit, line.now)
    line.admission.see(permit, headers(remaining=0), line.now)
    line.end(permit)
    assert not line.redis.calls
    assert not line.join().is_admitted, "the process's own limiter has learned"


def test_a_turn_of_far_away_is_not_waited_for_when_redis_is_lost(line: Line) -> None:
    permit = line.join()
    line.redis.reply(50.0)
    line.redis.lose()
    line.admission.admit(line.now)
    assert permit.is_admitted


def test_a_reply_that_never_comes_is_waited_for_a_second(line: Line) -> None:
    permit = line.join()
    assert permit.ready_at == NOW + 1
    line.now += 1
    line.admission.admit(line.now)
    assert permit.is_admitted
    line.redis.reply()
    assert line.redis.asked() == [("undo", EPOCH, 1.0, 10.0)], "the turn that came too late"


def test_a_redis_that_is_back_is_asked_again(line: Line) -> None:
    line.redis.lose()
    line.end(line.join())
    line.redis.is_up = True
    permit = line.join()
    assert not permit.is_admitted
    line.redis.reply()
    assert permit.is_admitted


def test_caps_hold_without_redis() -> None:
    line = Line(RateLimits(requests_per_minute=60, max_concurrency=3))
    line.redis.lose()
    assert [line.join().is_admitted for _ in range(3)] == [True, False, False]
