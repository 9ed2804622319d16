"""Models under a budget: refused before anything is sent, settled after everything that was."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware

from lc_service import (
    Budget,
    BudgetExceeded,
    OpenAIService,
    ReliableOpenAIEmbeddings,
    RetryWithExponentialBackoff,
    TruncatedResponseError,
    UsageLedger,
    track_usage,
)
from lc_service.accounting.spending import Amount
from lc_service.simulator import Fault

NOTHING = Amount()


def test_a_call_that_does_not_fit_is_not_sent(simulate: Any, make_model: Any) -> None:
    server = simulate()
    budget = Budget(tokens=20, strict=True)
    model = make_model(budget=budget, max_tokens=50)
    calls = [
        lambda: model.invoke("Hello"),
        lambda: asyncio.run(model.ainvoke("Hello")),
        lambda: list(model.stream("Hello")),
        lambda: model.batch(["Hello", "Hi"]),
    ]
    with track_usage() as usage:
        for call in calls:
            with pytest.raises(BudgetExceeded) as caught:
                call()
            assert caught.value.requested.tokens > 50
    assert server.requests == []
    assert (usage.calls, usage.attempts) == (0, 0)
    assert (budget.spent, budget.reserved) == (NOTHING, NOTHING)


def test_what_a_call_used_is_what_the_budget_lost(simulate: Any, make_model: Any) -> None:
    server = simulate(faults=["rate_limit", "no_finish"])
    budget = Budget(usd=1, tokens=100_000)
    with track_usage() as usage:
        make_model(budget=budget).invoke("Hello")
        list(make_model(budget=budget).stream("Hello"))
        asyncio.run(make_model(budget=[budget]).ainvoke("Hello"))
    assert budget.spent.tokens == server.bill.total.total_tokens == usage.total.total_tokens
    assert budget.spent.usd == usage.cost_usd > 0
    assert budget.reserved == NOTHING


@pytest.mark.parametrize("kind", ["unauthorized", "reset", "not_json", "server_error"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_failed_call_gives_its_reservation_back(
    kind: str, is_stream: bool, simulate: Any, make_model: Any
) -> None:
    simulate(faults=[kind])
    budget = Budget(tokens=10_000)
    model = make_model(budget=budget, retry=RetryWithExponentialBackoff(max_retries=0))
    with pytest.raises((openai.OpenAIError, ValueError)):
        list(model.stream("Hello")) if is_stream else model.invoke("Hello")
    assert budget.reserved == NOTHING
    # a lost connection may have been billed: the reservation is taken for the bill
    assert (budget.spent.tokens > 0) == (kind == "reset")


def test_a_cut_stream_is_charged_at_least_its_reservation(simulate: Any, make_model: Any) -> None:
    server = simulate(faults=[Fault("cut", after_chunks=3)])
    budget = Budget(tokens=100_000, strict=True)
    with pytest.raises(TruncatedResponseError):
        list(make_model(budget=budget, max_tokens=500).stream("Hello"))
    assert budget.spent.tokens >= 500 > server.bill.total.total_tokens
    assert budget.reserved == NOTHING


async def test_a_cancelled_call_is_charged_its_reservation(simulate: Any, make_model: Any) -> None:
    server = simulate(faults=[Fault("slow", delay_seconds=5)])
    budget = Budget(tokens=100_000, strict=True)
    task = asyncio.create_task(make_model(budget=budget, max_tokens=500).ainvoke("Hello"))
    for _ in range(500):
        if server.requests:
            break
        await asyncio.sleep(0.005)
    assert budget.reserved.tokens > 500
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert budget.spent.tokens > 500
    assert budget.reserved == NOTHING


async def test_an_abandoned_stream_gives_its_reservation_back(simulate: Any, make_model: Any) -> None:
    simulate(chunk_delay_seconds=0.002)
    budget = Budget(tokens=100_000)
    stream = make_model(budget=budget).astream("Hello")
    await anext(stream)
    assert budget.reserved.tokens > 0
    await stream.aclose()
    for _ in range(200):
        if budget.reserved == NOTHING:
            break
        await asyncio.sleep(0.005)
    assert budget.reserved == NOTHING
    assert budget.spent.tokens > 0


def test_a_strict_budget_is_never_exceeded_by_threads_and_tasks(simulate: Any, make_model: Any) -> None:
    server = simulate()
    one = make_model(max_tokens=12)
    one.invoke("Hello 1")
    each = server.bill.total.total_tokens
    limit = 40 * each + 200
    server.reset()
    budget = Budget(tokens=limit, strict=True)
    model = make_model(budget=budget, max_tokens=12)
    outcomes: list[Any] = []
    lock = threading.Lock()

    def keep(outcome: Any) -> None:
        with lock:
            outcomes.append(outcome)

    def call() -> None:
        try:
            keep(model.invoke("Hello 1"))
        except BudgetExceeded as refusal:
            keep(refusal)

    async def tasks() -> None:
        for outcome in await asyncio.gather(
            *(model.ainvoke("Hello 1") for _ in range(50)), return_exceptions=True
        ):
            keep(outcome)

    with ThreadPoolExecutor(9) as pool:
        waiting = [pool.submit(call) for _ in range(50)] + [pool.submit(asyncio.run, tasks())]
        for each_future in waiting:
            each_future.result()
    refused = [outcome for outcome in outcomes if isinstance(outcome, BudgetExceeded)]
    assert len(outcomes) == 100
    assert len(refused) + server.bill.requests == 100
    assert server.bill.total.total_tokens == budget.spent.tokens <= limit
    assert server.bill.requests >= 38, "refused while there was room"


def test_retry_middleware_does_not_retry_it_and_fallbacks_are_not_asked(
    simulate: Any, make_model: Any
) -> None:
    server = simulate()
    model = make_model(budget=Budget(tokens=5))
    for middleware in (
        ModelRetryMiddleware(max_retries=3, initial_delay=0),
        ModelFallbackMiddleware(make_model()),
    ):
        agent = create_agent(model, tools=[], middleware=[middleware])
        with pytest.raises(BudgetExceeded):
            agent.invoke({"messages": [{"role": "user", "content": "Hello"}]})
        with pytest.raises(BudgetExceeded):
            asyncio.run(agent.ainvoke({"messages": [{"role": "user", "content": "Hello"}]}))
    assert server.requests == []


def test_a_second_attempt_has_to_fit_too(simulate: Any, make_model: Any) -> None:
    server = simulate(faults=["no_finish"] * 3)
    with pytest.raises(BudgetExceeded) as caught:
        make_model(budget=Budget(tokens=1, strict=True), max_tokens=12).invoke("Hello")
    budget = Budget(tokens=caught.value.requested.tokens, strict=True)
    with pytest.raises(BudgetExceeded):
        make_model(budget=budget, max_tokens=12).invoke("Hello")
    assert server.bill.requests == len(server.requests) == 1
    assert 0 < budget.spent.tokens == server.bill.total.total_tokens


def test_embeddings_are_held_to_it(simulate: Any, port: int) -> None:
    server = simulate()
    budget = Budget(usd=Decimal("0.01"))
    embeddings = ReliableOpenAIEmbeddings(
        api_key="sk-x", base_url=f"http://127.0.0.1:{port}/v1", budget=budget, model="text-embedding-3-small"
    )
    with track_usage() as usage:
        embeddings.embed_documents(["one", "two"])
        asyncio.run(embeddings.aembed_query("three"))
    assert budget.spent.usd == usage.cost_usd > 0
    spent = server.bill.requests
    poor = embeddings.model_copy(update={"budget": Budget(tokens=1)})
    with pytest.raises(BudgetExceeded):
        poor.embed_documents(["one", "two"])
    assert server.bill.requests == spent


def test_a_tag_has_a_budget_of_its_own(simulate: Any, make_model: Any) -> None:
    server = simulate()
    model = make_model(budget=Budget(tokens=1, tag="toys"))
    model.invoke("Hello", {"tags": ["work"]})
    for call in (model.invoke, lambda *args: list(model.stream(*args))):
        with pytest.raises(BudgetExceeded):
            call("Hello", {"tags": ["toys"]})
    assert server.bill.requests == 1


def test_a_service_has_one_budget_and_one_ledger(simulate: Any, port: int, tmp_path: Path) -> None:
    server = simulate(faults=["rate_limit"])
    path = tmp_path / "usage.db"
    with UsageLedger(path) as ledger:
        budget = Budget(tokens=100_000, ledger=ledger)
        service = OpenAIService(
            "sk-x",
            base_url=f"http://127.0.0.1:{port}/v1",
            budget=budget,
            retry=RetryWithExponentialBackoff(0, 0, 2),
        )
        service.chat_completion("Hello")
        asyncio.run(service.achat_completion("Hello"))
        service.embed(["one"])
        assert list(service.stream_chat("Hello"))
        billed = server.bill.total.total_tokens
        assert budget.spent.tokens == billed == service.usage.total.total_tokens
        assert budget.reserved == NOTHING
        rows = list(ledger.records())
    assert [row.status for row in rows] == ["failed", "ok", "ok", "ok", "ok"]
    assert sum(row.usage.total_tokens for row in rows) == billed
    again = Budget(tokens=100_000, ledger=UsageLedger(path))
    assert again.spent.tokens == billed, "a restart remembers"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_field_that_is_set_later_holds(is_async: bool, simulate: Any, make_model: Any, port: int) -> None:
    server = simulate()
    chat = make_model()
    embeddings = ReliableOpenAIEmbeddings(api_key="sk-x", base_url=f"http://127.0.0.1:{port}/v1")
    for model in (chat, embeddings):
        model.budget = Budget(tokens=1, strict=True)
    chat.max_tokens = 5
    with pytest.raises(BudgetExceeded):
        asyncio.run(chat.ainvoke("Hello")) if is_async else chat.invoke("Hello")
    with pytest.raises(BudgetExceeded):
        asyncio.run(embeddings.aembed_query("Hello")) if is_async else embeddings.embed_query("Hello")
    assert server.requests == []


def test_a_refusal_at_a_retry_names_the_failure_behind_it(simulate: Any, make_model: Any) -> None:
    simulate(faults=["no_finish"])
    with pytest.raises(BudgetExceeded) as caught:
        make_model(budget=Budget(tokens=1, strict=True), max_tokens=12).invoke("Hello")
    budget = Budget(tokens=caught.value.requested.tokens, strict=True)
    with pytest.raises(BudgetExceeded) as caught:
        make_model(budget=budget, max_tokens=12).invoke("Hello")
    assert isinstance(caught.value.__cause__, TruncatedResponseError)


def test_an_outage_does_not_use_a_budget_up(make_model: Any) -> None:
    budget = Budget(tokens=10_000)
    for call in (
        lambda model: model.invoke("Hello"),
        lambda model: asyncio.run(model.ainvoke("Hello")),
        lambda model: list(model.stream("Hello")),
    ):
        with pytest.raises(openai.APIConnectionError):
            call(make_model(budget=budget, base_url="http://127.0.0.1:9/v1"))
    assert budget.spent == NOTHING
