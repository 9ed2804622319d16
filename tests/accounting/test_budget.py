"""What a budget reserves, charges and says, in one process and without waiting."""

from __future__ import annotations

import copy
import decimal
import gc
import pickle
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from lc_service.accounting import expected_output
from lc_service.accounting.budget import Budget, Reservation, account, areserve_all, reserve_all
from lc_service.accounting.budget.exceeded import BudgetExceeded
from lc_service.accounting.budget.request_amount import (
    DEFAULT_OUTPUT_TOKENS,
    UnboundedRequestError,
    UnpricedModelError,
)
from lc_service.accounting.budget.waiting_line import Hold, Party
from lc_service.accounting.pricing import ModelPrice, max_cost, price, set_price
from lc_service.accounting.record import AttemptRecord, AttemptStatus, Certainty
from lc_service.accounting.spending import Amount, AttemptRequest, Limit
from lc_service.accounting.usage import TokenUsage
from lc_service.retry.errors import classify

MODEL = "gpt-4o-mini"
NOON = 1_800_014_400.0  # 2027-01-15 12:00 UTC


@pytest.fixture(autouse=True)
def _nothing_learnt() -> Iterator[None]:
    expected_output.forget()
    yield
    expected_output.forget()


def request(**facts: Any) -> AttemptRequest:
    usual = {
        "call_id": uuid4(),
        "attempt": 1,
        "model": MODEL,
        "input_tokens": 40,
        "max_input_tokens": 50,
        "max_output_tokens": 50,
        "at": datetime.fromtimestamp(NOON, UTC),
    }
    return AttemptRequest(**(usual | facts))


def record(reservation: Reservation, tokens: int, **facts: Any) -> AttemptRecord:
    usual = {
        "run_id": uuid4(),
        "model": MODEL,
        "usage": TokenUsage(input_tokens=tokens),
        "started_at": datetime.fromtimestamp(NOON, UTC),
        "reserved_tokens": reservation.amount.tokens,
        "reserved_usd": reservation.amount.usd,
    }
    return AttemptRecord(**(usual | facts))


# --- what it takes ---


@pytest.mark.parametrize(
    ("arguments", "usd", "tokens"),
    [
        ({"usd": 0.1}, Decimal("0.1"), None),
        ({"usd": "0.50"}, Decimal("0.50"), None),
        ({"usd": Decimal(5)}, Decimal(5), None),
        ({"usd": 3, "tokens": 1_000}, Decimal(3), 1_000),
        ({"tokens": 0}, None, 0),
    ],
)
def test_limits_are_taken_as_they_look(arguments: dict[str, Any], usd: Decimal, tokens: int) -> None:
    assert Budget(**arguments).limit == Limit(usd=usd, tokens=tokens)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({}, "limit"),
        ({"usd": -1}, "usd"),
        ({"usd": float("nan")}, "usd"),
        ({"usd": float("inf")}, "usd"),
        ({"usd": "five"}, "usd"),
        ({"usd": True}, "usd"),
        ({"usd": [1]}, "usd"),
        ({"tokens": -1}, "tokens"),
        ({"tokens": 1.5}, "tokens"),
        ({"tokens": "100"}, "tokens"),
        ({"tokens": True}, "tokens"),
        ({"tokens": 1, "tag": ""}, "tag"),
        ({"tokens": 1, "tag": 5}, "tag"),
    ],
)
def test_what_is_no_limit_is_refused_at_once(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Budget(**arguments)


# --- how much is reserved ---


def test_a_strict_budget_reserves_the_most_that_the_request_allows() -> None:
    reservation = Budget(tokens=1_000, strict=True).reserve(request(max_output_tokens=70, choices=2))
    assert reservation.amount == Amount(tokens=120)


def test_a_strict_budget_asks_for_a_bound() -> None:
    budget = Budget(tokens=10**9, strict=True)
    with pytest.raises(UnboundedRequestError, match="max_tokens") as caught:
        budget.reserve(request(max_output_tokens=None))
    assert isinstance(caught.value, ValueError)
    assert not classify(caught.value).is_transient
    with pytest.raises(UnboundedRequestError, match="pictures") as caught:
        budget.reserve(request(max_input_tokens=None))
    assert "max_tokens" not in str(caught.value), "that would not help"
    assert budget.reserved == Amount()
    Budget(tokens=10**9).reserve(request(max_input_tokens=None)).release()


def test_a_budget_reserves_what_recent_answers_let_expect() -> None:
    budget = Budget(tokens=10**9)
    assert budget.reserve(request(max_output_tokens=None)).amount.tokens == 40 + DEFAULT_OUTPUT_TOKENS
    assert (
        budget.reserve(request(max_output_tokens=None, choices=2)).amount.tokens
        == 40 + 2 * DEFAULT_OUTPUT_TOKENS
    )
    for tokens in range(1, 101):
        usage = TokenUsage(input_tokens=1, output_tokens=tokens)
        expected_output.learn(AttemptRecord(run_id=uuid4(), model=MODEL, usage=usage))
    assert budget.reserve(request(max_output_tokens=None)).amount.tokens == 40 + 95
    assert budget.reserve(request(max_output_tokens=None, choices=3)).amount.tokens == 40 + 3 * 95
    assert budget.reserve(request(max_output_tokens=60)).amount.tokens == 40 + 60


@pytest.mark.parametrize("strict", [True, False])
def test_embeddings_have_no_output(strict: bool) -> None:
    asked = request(operation="embeddings", model="text-embedding-3-small", max_output_tokens=None)
    reservation = Budget(tokens=100, usd=1, strict=strict).reserve(asked)
    assert reservation.amount.tokens == (50 if strict else 40)
    assert 0 < reservation.amount.usd < Decimal("0.00001")


def test_usd_are_reserved_at_the_price_of_that_time_and_tier() -> None:
    asked = request(max_output_tokens=30, service_tier="priority")
    usual = price(TokenUsage(input_tokens=40, output_tokens=30), MODEL, at=asked.at, service_tier="priority")
    assert Budget(usd=1).reserve(asked).amount == Amount(tokens=70, usd=usual)
    most = max_cost(50, 30, MODEL, at=asked.at, service_tier="priority")
    assert Budget(usd=1, strict=True).reserve(asked).amount == Amount(tokens=80, usd=most)
    # nobody said which tier: it may be served by the dearest
    assert Budget(usd=1, strict=True).reserve(request(max_output_tokens=30)).amount.usd == most
    assert Budget(usd=1).reserve(request(max_output_tokens=30)).amount.usd < usual


@pytest.mark.parametrize("strict", [True, False])
def test_the_price_is_that_of_the_day(strict: bool) -> None:
    budget = Budget(usd=1, strict=strict)
    before = budget.reserve(request(model="o3", service_tier="default", at=datetime(2025, 5, 1, tzinfo=UTC)))
    after = budget.reserve(request(model="o3", service_tier="default", at=datetime(2025, 7, 1, tzinfo=UTC)))
    assert before.amount.usd == 5 * after.amount.usd, "80 % off since June 2025"


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("facts", [{"model": "no-such-model"}, {"service_tier": "no-such-tier"}])
def test_an_unknown_price_is_refused_and_not_counted_as_free(strict: bool, facts: dict[str, str]) -> None:
    budget = Budget(usd=1_000, strict=strict)
    with pytest.raises(UnpricedModelError, match=r"set_price.*tokens=") as caught:
        budget.reserve(request(**facts))
    assert isinstance(caught.value, ValueError)
    assert not caught.value.is_retryable
    assert not classify(caught.value).is_transient
    assert budget.reserved == Amount()


def test_a_budget_of_tokens_asks_for_no_price() -> None:
    budget = Budget(tokens=1_000)
    reservation = budget.reserve(request(model="no-such-model"))
    assert reservation.amount.usd == 0
    reservation.settle(record(reservation, 30, model="no-such-model"))
    assert budget.spent == Amount(tokens=30)


def test_an_own_price_lets_a_private_model_in() -> None:
    set_price("private", ModelPrice(input_usd_per_million="1000", output_usd_per_million="2000"))
    try:
        reservation = Budget(usd=1).reserve(request(model="private"))
        assert reservation.amount.usd == Decimal("0.14")
    finally:
        set_price("private", None)


# --- both limits hold ---


def test_both_limits_hold() -> None:
    asked = request()
    for limits in ({"usd": 10, "tokens": 89}, {"usd": "0.0000001", "tokens": 1_000}):
        with pytest.raises(BudgetExceeded) as caught:
            Budget(**limits).reserve(asked)
        assert "USD" in str(caught.value)
        assert "tokens" in str(caught.value)
    Budget(usd=10, tokens=90).reserve(asked)


def test_the_limit_itself_can_be_used() -> None:
    budget = Budget(tokens=200, strict=True)
    first, second = budget.reserve(request()), budget.reserve(request())
    assert budget.remaining == Limit(tokens=0)
    for each in (first, second):
        each.settle(record(each, 100))
    assert budget.spent == Amount(tokens=200)
    with pytest.raises(BudgetExceeded):
        budget.reserve(request(max_input_tokens=1, max_output_tokens=0))
    budget.reserve(request(max_input_tokens=0, max_output_tokens=0)).release()


def test_a_refusal_tells_its_numbers() -> None:
    budget = Budget(usd=1, tokens=150, strict=True, per_day=True, name="nightly")
    reservation = budget.reserve(request(service_tier="default"))
    reservation.settle(record(reservation, 60))
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve(request(service_tier="default"))
    error = caught.value
    assert error.budget == "nightly"
    assert error.limit == Limit(usd=Decimal(1), tokens=150)
    assert error.spent == Amount(tokens=60, usd=Decimal("0.000009"))
    assert error.reserved == Amount()
    assert error.requested == Amount(tokens=100, usd=reservation.amount.usd)
    for part in ("nightly", "limit 1.000000 USD and 150 tokens", "60 tokens", "100 tokens", "00:00 UTC"):
        assert part in str(error)
    assert "00:00 UTC" not in str(_refusal(Budget(tokens=1)))


def _refusal(budget: Budget) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve(request())
    return caught.value


# --- settling ---


@pytest.mark.parametrize(
    ("facts", "tokens", "is_as_reserved"),
    [
        ({}, 30, False),
        ({"status": AttemptStatus.FAILED, "usage": TokenUsage()}, 0, False),
        ({"certainty": Certainty.ESTIMATED}, 100, True),
        ({"certainty": Certainty.UNKNOWN, "usage": TokenUsage()}, 100, True),
        ({"certainty": Certainty.ESTIMATED, "usage": TokenUsage(input_tokens=130)}, 130, True),
        ({"certainty": Certainty.ESTIMATED, "usage": TokenUsage(output_tokens=900)}, 900, False),
        ({"model": "no-such-model"}, 30, True),
    ],
)
def test_an_attempt_is_charged_what_is_known_or_else_what_was_reserved(
    facts: dict[str, Any], tokens: int, is_as_reserved: bool
) -> None:
    budget = Budget(usd=1, tokens=1_000, strict=True)
    reservation = budget.reserve(request())
    assert budget.reserved == reservation.amount
    done = record(reservation, 30, **facts)
    reservation.settle(done)
    assert budget.reserved == Amount()
    assert budget.spent == Amount(
        tokens=tokens, usd=reservation.amount.usd if is_as_reserved else done.cost_usd
    )


def test_settling_above_the_reservation_shows_and_stops_all_further_calls() -> None:
    budget = Budget(tokens=100)
    reservation = budget.reserve(request())
    reservation.settle(record(reservation, 250))
    assert budget.spent == Amount(tokens=250)
    assert budget.remaining == Limit(tokens=-150)
    with pytest.raises(BudgetExceeded):
        budget.reserve(request(input_tokens=0, max_output_tokens=0))


def test_only_the_first_end_of_a_reservation_counts() -> None:
    budget = Budget(tokens=1_000, strict=True)
    settled, released = budget.reserve(request()), budget.reserve(request())
    for _ in range(3):
        settled.settle(record(settled, 30))
        settled.release()
        released.release()
        released.settle(record(released, 30))
    assert (budget.spent, budget.reserved) == (Amount(tokens=30), Amount())


def test_only_one_of_many_threads_settles() -> None:
    budget = Budget(tokens=10_000, strict=True)
    for _ in range(20):
        reservation = budget.reserve(request())
        barrier = threading.Barrier(4)

        def settle(reservation: Reservation = reservation, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            reservation.settle(record(reservation, 7))

        threads = [threading.Thread(target=settle) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (budget.spent, budget.reserved) == (Amount(tokens=140), Amount())


def test_settling_never_raises(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object, **__: object) -> Amount:
        raise RuntimeError("secret")

    budget = Budget(tokens=1_000, strict=True)
    reservation = budget.reserve(request())
    monkeypatch.setattr(account, "charge", broken)
    reservation.settle(record(reservation, 30))
    assert (budget.spent, budget.reserved) == (Amount(tokens=100), Amount())
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_a_stream_that_the_garbage_collector_closes_settles_inside_of_a_budget() -> None:
    """The collector runs its finalizers wherever memory is taken, in the midst of the budget's sums too."""
    budget = Budget(tokens=10_000, strict=True)
    limit = budget._allowance.account._limit

    class Collected:
        """Settles when it is collected."""

        def __init__(self) -> None:
            self.reservation = budget.reserve(request())
            self.cycle = self

        def __del__(self) -> None:
            self.reservation.settle(record(self.reservation, 10))

    class Collecting:
        usd, tokens = limit.usd, limit.tokens

        def has_room_for(self, amount: Amount) -> bool:
            gc.collect()
            return limit.has_room_for(amount)

    Collected()
    budget._allowance.account._limit = Collecting()
    thread = threading.Thread(target=budget.reserve, args=(request(),), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "it waits for itself"
    assert len(budget._allowance._line.open_holds()) == 1, "what was settled meanwhile waits for nobody"
    assert (budget.spent, budget.reserved) == (Amount(tokens=10), Amount(tokens=100))


def test_money_adds_up_whatever_the_program_does_to_decimals() -> None:
    with decimal.localcontext(decimal.Context(prec=3, rounding=decimal.ROUND_DOWN)):
        budget = Budget(usd=1)
        for _ in range(10):
            reservation = budget.reserve(request())
            reservation.settle(record(reservation, 12_345))
    assert budget.spent.usd == Decimal("0.0185175")
    assert budget.reserved.usd == 0
    assert budget.remaining.usd == Decimal("0.9814825")


# --- tags, days, several budgets ---


def test_a_tagged_budget_is_about_its_calls_alone() -> None:
    budget = Budget(tokens=150, strict=True, tag="eval")
    other = budget.reserve(request(tags=("prod",), max_output_tokens=None))
    assert other.amount == Amount()
    other.settle(record(other, 1_000))
    other.release()
    assert budget.spent == budget.reserved == Amount()
    budget.reserve(request(tags=("prod", "eval")))
    assert budget.reserved == Amount(tokens=100)


def test_a_daily_budget_begins_anew_at_midnight_utc(fake_clock: Any) -> None:
    fake_clock.wall_time = NOON
    budget = Budget(tokens=150, strict=True, per_day=True)
    first = budget.reserve(request())
    first.settle(record(first, 100))
    fake_clock.advance(12 * 3_600 - 1)
    with pytest.raises(BudgetExceeded):
        budget.reserve(request())
    night = budget.reserve(request(max_output_tokens=0))
    fake_clock.advance(1)
    assert budget.spent == budget.reserved == Amount()
    assert budget.remaining == Limit(tokens=150)
    day = budget.reserve(request())
    night.settle(record(night, 50))
    assert budget.spent == Amount(), "it belongs to the day on which it began"
    assert budget.reserved == Amount(tokens=100)
    day.settle(record(day, 90))
    assert budget.spent == Amount(tokens=90)


def test_a_clock_set_back_brings_no_day_back(fake_clock: Any) -> None:
    fake_clock.wall_time = NOON
    budget = Budget(tokens=100, strict=True, per_day=True)
    reservation = budget.reserve(request())
    fake_clock.wall_time -= 86_400
    assert budget.reserved == Amount(tokens=100)
    reservation.settle(record(reservation, 100))
    with pytest.raises(BudgetExceeded):
        budget.reserve(request())


def test_who_asks_at_midnight_with_yesterdays_date_counts_for_today(fake_clock: Any) -> None:
    """One thread looks at the clock, another begins the new day, then the first one asks."""
    fake_clock.wall_time = NOON
    budget = Budget(tokens=100, strict=True, per_day=True)
    account, asked = budget._allowance.account, request()
    hold = Hold(asked, Amount(tokens=60), datetime(2027, 1, 14, tzinfo=UTC), Party.current())
    assert budget.reserved == Amount()
    assert account.try_reserve(hold)[0]
    assert budget.reserved == Amount(tokens=60)
    account.release(hold)
    assert budget.reserved == Amount()


def test_other_budgets_do_not_look_at_the_day(fake_clock: Any) -> None:
    fake_clock.wall_time = NOON
    budget = Budget(tokens=100, strict=True)
    reservation = budget.reserve(request())
    fake_clock.advance(86_400)
    assert budget.reserved == Amount(tokens=100)
    reservation.settle(record(reservation, 60))
    assert budget.spent == Amount(tokens=60)


async def test_several_budgets_are_taken_all_or_none() -> None:
    wide, daily, other = (
        Budget(usd=1, tokens=1_000),
        Budget(tokens=500, strict=True, per_day=True),
        Budget(tokens=1, tag="eval"),
    )
    reservation = await areserve_all([daily, wide, other, daily], request())
    assert reservation.amount == Amount(tokens=100, usd=wide.reserved.usd)
    assert (wide.reserved.tokens, daily.reserved.tokens) == (90, 100)
    reservation.settle(record(reservation, 30))
    assert (wide.spent.tokens, daily.spent.tokens) == (30, 30)
    assert wide.reserved == daily.reserved == Amount()

    with pytest.raises(BudgetExceeded) as caught:
        reserve_all([wide, daily, other], request(tags=("eval",)))
    assert caught.value.limit == other.limit
    with pytest.raises(UnpricedModelError):
        reserve_all([daily, wide], request(model="no-such-model"))
    assert wide.reserved == daily.reserved == Amount()
    again = await areserve_all([wide, daily], request())
    await again.arelease()
    assert wide.reserved == daily.reserved == Amount()
    assert (wide.spent.tokens, daily.spent.tokens) == (30, 30)


def test_no_budgets_reserve_nothing() -> None:
    reservation = reserve_all([], request())
    assert reservation.amount == Amount()
    reservation.settle(record(reservation, 30))


# --- as an object ---


def test_it_says_what_it_is_and_no_more() -> None:
    class Ledger:
        def __repr__(self) -> str:
            return "postgresql://me:secret@host"

    assert repr(Budget(usd=0.5)) == "Budget(usd='0.5')"
    whole = Budget(usd=5, tokens=10, strict=True, per_day=True, tag="eval", name="n", ledger=Ledger())
    assert repr(whole) == (
        "Budget(usd='5', tokens=10, strict=True, per_day=True, tag='eval', name='n', ledger=Ledger)"
    )


def test_a_copy_would_double_the_limit() -> None:
    budget = Budget(usd=5)
    with pytest.raises(TypeError, match="ledger"):
        pickle.dumps(budget)
    assert copy.copy(budget) is budget
    assert copy.deepcopy([budget])[0] is budget


def test_a_budget_with_a_ledger_travels() -> None:
    ledger = SimpleNamespace(url="postgresql://host")
    budget = Budget(5, 10, True, per_day=True, tag="eval", name="n", ledger=ledger)
    travelled = pickle.loads(pickle.dumps(budget))
    assert repr(travelled) == repr(budget)
    assert travelled.limit == budget.limit
    assert travelled.ledger == ledger
