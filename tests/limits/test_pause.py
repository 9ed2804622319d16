"""Pauses: told ones, and those in the dark, of a server that rejects and says nothing."""

from __future__ import annotations

import pytest

from lc_service.limits.admission import Admission, Outcome
from lc_service.limits.mirror import Mark
from lc_service.limits.pause import MAX_PAUSE_SECONDS, Pause
from lc_service.limits.rate_limits import LEARNED

START = 1_000.0
REJECTED = Outcome(is_admitted=False, is_rejected=True, used_tokens=0)


def sent(at: float) -> Mark:
    return Mark(1.0, False, at, 1.0, True)


def test_nothing_is_held_back_at_first():
    pause = Pause(START)
    assert pause.seconds_left(START, is_retry=False) == 0
    assert not pause.is_dark


def test_a_told_pause_holds_everybody_but_retries_and_is_spread_at_its_end():
    pause = Pause(START)
    pause.begin(2.0, sent(START), START)
    assert 2.0 <= pause.seconds_left(START, is_retry=False) <= 2.2
    assert pause.seconds_left(START, is_retry=True) == 0
    assert pause.seconds_left(START + 1, is_retry=False) == pytest.approx(pause.until - START - 1)


def test_the_longest_pause_is_a_minute():
    pause = Pause(START)
    pause.begin(86_400.0, sent(START), START)
    assert pause.seconds_left(START, is_retry=False) <= MAX_PAUSE_SECONDS * 1.1


def test_where_more_was_asked_for_one_asks_after_each_minute_until_it_comes_through():
    """A day's limit that is used up: a hundred that ask at once after a minute would be rejected at once."""
    admission = Admission(LEARNED, START)
    attempts = [Attempt(call) for call in range(100)]
    asked = 0
    now = START
    for attempt in attempts:
        admission.join(attempt, now)
    for minute in range(4):
        going = [attempt for attempt in attempts if attempt.marks]
        assert len(going) == (4 if minute == 0 else 1)
        for attempt in going:
            admission.send(attempt, now)
        for attempt in going:
            admission.settle(attempt, REJECTED._replace(retry_after_seconds=7_200.0), now + 0.1)
            asked += 1
        first = admission.first
        assert first is not None
        assert 60 <= first.ready_at - now <= 67
        now = first.ready_at
        admission.admit(now)
    (proof,) = (attempt for attempt in attempts if attempt.marks)
    admission.send(proof, now)
    admission.settle(proof, Outcome(is_admitted=True), now + 0.1)
    assert sum(bool(attempt.marks) for attempt in attempts) >= 4


def test_a_shorter_pause_ends_no_longer_one():
    pause = Pause(START)
    pause.begin(10.0, sent(START), START)
    until = pause.until
    pause.begin(1.0, sent(START), START)
    assert pause.until == until


def test_what_was_sent_before_the_rejected_request_proves_nothing():
    pause = Pause(START)
    pause.begin(10.0, sent(START), START)
    pause.prove(sent(START - 1), START + 1)
    assert pause.seconds_left(START + 1, is_retry=False) > 0
    pause.prove(sent(START + 1), START + 2)
    assert pause.seconds_left(START + 2, is_retry=False) == 0


def test_in_the_dark_each_request_that_meets_the_same_end_doubles_the_pause_up_to_five_seconds():
    pause = Pause(START)
    now, pauses = START, []
    for _ in range(8):
        pause.begin_dark(sent(now), now)
        pauses.append(pause.until - now)
        now = pause.until
    assert pauses == [pytest.approx(seconds, rel=0.1) for seconds in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5)]
    pause.prove(sent(now), now + 0.1)
    assert not pause.is_dark
    pause.begin_dark(sent(now + 1), now + 1)
    assert pause.until - now - 1 <= 0.11


def test_requests_that_were_under_way_together_are_one_end():
    pause = Pause(START)
    for _ in range(64):
        pause.begin_dark(sent(START), START + 0.2)
    assert pause.seconds_left(START + 0.2, is_retry=False) <= 0.11


def test_in_the_dark_retries_wait_too_and_one_goes_after_each_pause():
    pause = Pause(START)
    pause.begin_dark(sent(START), START)
    pause.begin_dark(sent(START + 0.2), START + 0.2)
    assert pause.seconds_left(START + 0.2, is_retry=True) > 0
    now = pause.until
    pause.let_go(now)
    assert pause.until == pytest.approx(now + 0.2)


class Attempt:
    def __init__(self, call: int) -> None:
        self.call, self.tokens, self.party = call, 10, object()
        self.is_retry = self.is_admitted = False
        self.ready_at: float | None = None
        self.marks, self.told = (), ()

    def wake(self) -> bool:
        return True


def test_a_server_that_counts_by_the_clock_and_rejects_in_silence_costs_no_call_its_retries():
    """LiteLLM's proxy: 120 a minute, limit and remaining without a reset, and 429s without any header."""
    admission = Admission(LEARNED, START)
    now, window, count, rejections = START, 0.0, 0, dict.fromkeys(range(150), 0)
    line = [Attempt(call) for call in rejections]
    for attempt in line:
        admission.join(attempt, now)
    while line and now < START + 180:
        if now // 60 != window:
            window, count = now // 60, 0
        going = [attempt for attempt in line if attempt.is_admitted]
        for attempt in going:
            line.remove(attempt)
            admission.send(attempt, now)
            count += 1
            if count <= 120:
                told = {
                    "x-ratelimit-limit-requests": "120",
                    "x-ratelimit-remaining-requests": str(120 - count),
                }
                admission.see(attempt, told, now)
                admission.settle(attempt, Outcome(is_admitted=True, used_tokens=10, latency_seconds=0.1), now)
            else:
                admission.see(attempt, {}, now)
                admission.settle(attempt, REJECTED, now)
                rejections[attempt.call] += 1
                again = Attempt(attempt.call)
                again.is_retry = True
                line.append(again)
                admission.join(again, now)
        if not going:
            first = admission.first
            now = max(now + 1e-6, first.ready_at if first is not None and first.ready_at else now)
            admission.admit(now)
    assert not line
    assert now < START + 90
    assert max(rejections.values()) <= 2
