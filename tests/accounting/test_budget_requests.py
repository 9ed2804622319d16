"""A limit of requests, budgets that hold for a block, and what is spent elsewhere."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from lc_service import Budget, BudgetExceeded, ReliableChatOpenAI, UsageLedger, UsageReport, track_usage
from lc_service.accounting.held import budgets_around, hold_to
from lc_service.accounting.record import AttemptRecord, AttemptStatus
from lc_service.accounting.spending import Amount, AttemptRequest, Limit
from lc_service.accounting.usage import TokenUsage
from lc_service.models.embeddings import ReliableOpenAIEmbeddings
from lc_service.simulator import Simulator


def request(**options: Any) -> AttemptRequest:
    wanted = {"model": "gpt-4o-mini", "input_tokens": 10, "max_input_tokens": None, "at": datetime.now(UTC)}
    return AttemptRequest(call_id=uuid4(), attempt=1, **{**wanted, **options})


def record(**options: Any) -> AttemptRecord:
    return AttemptRecord(run_id=uuid4(), model="gpt-4o-mini", **options)


def test_each_attempt_is_a_request_whatever_became_of_it() -> None:
    budget = Budget(requests=3)
    used = TokenUsage(input_tokens=5, output_tokens=2)
    budget.reserve(request()).settle(record(usage=used))
    budget.reserve(request()).settle(record(status=AttemptStatus.FAILED))
    budget.reserve(request()).release()
    open_one = budget.reserve(request())
    assert (budget.spent, budget.reserved) == (Amount(tokens=7, requests=2), Amount(requests=1))
    assert budget.remaining == Limit(requests=0)
    open_one.settle(record())
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve(request())
    assert caught.value.limit == Limit(requests=3)
    assert (caught.value.spent.requests, caught.value.requested) == (3, Amount(requests=1))
    assert "limit 3 requests, spent 3 requests" in str(caught.value)
    assert "max_tokens" not in str(caught.value)


def test_a_strict_limit_of_requests_needs_no_bounds_and_no_price() -> None:
    budget = Budget(strict=True, requests=1)
    reservation = budget.reserve(request(model="nobodys", max_output_tokens=None))
    assert reservation.amount == Amount(requests=1)


def test_limits_hold_together() -> None:
    budget = Budget(tokens=50, requests=2)
    budget.reserve(request(max_output_tokens=5)).settle(record())
    with pytest.raises(BudgetExceeded, match="limit 50 tokens and 2 requests"):
        budget.reserve(request(max_output_tokens=45))
    budget.reserve(request(max_output_tokens=5)).settle(record())
    with pytest.raises(BudgetExceeded, match="spent 0 tokens and 2 requests"):
        budget.reserve(request(max_output_tokens=5))


def test_a_request_waits_for_one_that_may_not_be_sent() -> None:
    budget = Budget(requests=1)
    first = budget.reserve(request())
    begun = threading.Event()

    def second() -> Amount:
        begun.set()
        return budget.reserve(request()).amount

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second)
        assert begun.wait(5)
        first.release()
        assert waiting.result(5) == Amount(requests=1)


def test_what_is_spent_elsewhere_is_charged_room_or_not() -> None:
    budget = Budget(usd=1, tokens=10)
    budget.spend(Amount(tokens=25, usd=Decimal("0.1")))
    assert budget.remaining == Limit(tokens=-15, usd=Decimal("0.9"))
    with pytest.raises(BudgetExceeded):
        budget.reserve(request(max_output_tokens=0))


def test_a_ledger_keeps_no_requests(tmp_path: Path) -> None:
    with UsageLedger(tmp_path / "usage.sqlite") as ledger:
        with pytest.raises(ValueError, match="keeps no count of requests"):
            Budget(requests=5, ledger=ledger)
        with pytest.raises(TypeError, match="charged by what is recorded"):
            Budget(tokens=5, ledger=ledger).spend(Amount(tokens=1))


def test_its_repr_names_it() -> None:
    assert repr(Budget(requests=5)) == "Budget(requests=5)"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(max_lifetime_seconds=60) as server:
        yield server


@pytest.fixture
def server(simulator: Simulator) -> Simulator:
    simulator.reset()
    return simulator


def make_model(server: Simulator, **options: Any) -> ReliableChatOpenAI:
    return ReliableChatOpenAI(model="gpt-4o-mini", api_key="k", base_url=server.base_url, **options)


CALLS: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda model: model.invoke("Hello"),
    "ainvoke": lambda model: asyncio.run(model.ainvoke("Hello")),
    "stream": lambda model: list(model.stream("Hello")),
    "batch": lambda model: model.batch(["Hello"]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_block_holds_every_call_to_its_budgets(call: Any, server: Any) -> None:
    outer, inner, own = Budget(requests=2), Budget(requests=1), Budget(requests=9)
    model = make_model(server, budget=own)
    with hold_to(outer):
        with hold_to(inner):
            assert budgets_around() == (outer, inner)
            call(model)
            with pytest.raises(BudgetExceeded):
                call(model)
        call(model)
        with pytest.raises(BudgetExceeded):
            call(model)
    call(model)
    assert budgets_around() == ()
    assert [budget.spent.requests for budget in (outer, inner, own)] == [2, 1, 3]
    assert len(server.requests) == 3


def test_a_block_holds_embeddings_too(server: Any) -> None:
    model = ReliableOpenAIEmbeddings(model="text-embedding-3-small", api_key="k", base_url=server.base_url)
    with hold_to(Budget(requests=1)):
        model.embed_query("Hello")
        with pytest.raises(BudgetExceeded):
            model.embed_query("Hello")
    assert len(server.requests) == 1


def test_a_tracker_may_add_to_a_report_of_the_callers(server: Any) -> None:
    report = UsageReport()
    for _ in range(2):
        with track_usage(into=report) as usage:
            make_model(server).invoke("Hello")
        assert usage is report
    assert report.calls == 2
    assert report.total.total_tokens == server.bill.total.total_tokens
