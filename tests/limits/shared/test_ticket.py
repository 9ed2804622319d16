"""A ticket: what Redis said of one turn."""

from __future__ import annotations

from lc_service.limits.shared.ticket import Ticket

NOW, REDIS_NOW, EPOCH = 50.0, 1_800_000_000.0, 7.5


def ticket_after(is_given: int, wait_seconds: float) -> Ticket:
    ticket = Ticket((1.0, 20.0))
    ticket.read([REDIS_NOW, EPOCH, 0.0, is_given, wait_seconds, 3.0, 60.0], NOW)
    return ticket


def test_nothing_is_given_before_redis_says_so() -> None:
    assert not Ticket((1.0, 20.0)).is_given


def test_a_turn_is_due_by_our_clock() -> None:
    ticket = ticket_after(1, 0.25)
    assert ticket.is_given
    assert ticket.due_at == NOW + 0.25
    assert (ticket.epoch, ticket.position) == (EPOCH, (3.0, 60.0))


def test_what_is_far_away_is_looked_at_half_way() -> None:
    assert ticket_after(1, 0.1).look_at == NOW + 1.0
    assert ticket_after(1, 40.0).look_at == NOW + 20.0


def test_a_refused_one_is_asked_for_again_soon() -> None:
    ticket = ticket_after(0, 0.0)
    assert not ticket.is_given
    assert NOW < ticket.look_at <= NOW + 0.05


def test_a_turn_that_redis_knows_nothing_of_is_not_given_any_more() -> None:
    ticket = ticket_after(1, 40.0)
    ticket.read([REDIS_NOW + 20, EPOCH + 1, 0.0, 0, 0.0, 0.0, 0.0], NOW + 20)
    assert not ticket.is_given


def test_when_it_went_out_is_told_by_rediss_clock() -> None:
    ticket = ticket_after(1, 0.25)
    ticket.sent_at = NOW + 1
    assert ticket.redis_sent_at == REDIS_NOW + 1
