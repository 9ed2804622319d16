"""Models against a server with limits, over a socket: what is sent, when, and what is given back."""

from __future__ import annotations

import asyncio
import gc

import pytest

from lc_service.accounting.budget import Budget
from lc_service.accounting.spending import Amount
from lc_service.limits import registry
from lc_service.limits.rate_limits import RateLimits
from lc_service.models.embeddings import ReliableOpenAIEmbeddings
from lc_service.retry.exceptions import RequestExceedsLimitError
from lc_service.simulator import Fault, ServerLimits


def the_limiter():
    (limiter,) = registry._limiters.values()
    return limiter


async def soon(condition) -> None:
    for _ in range(2_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come to pass")


async def ask(model, count: int, at_once: int, **options) -> list:
    places = asyncio.Semaphore(at_once)

    async def call(number: int):
        async with places:
            return await model.ainvoke(f"Number {number}?", **options)

    return await asyncio.gather(*(call(number) for number in range(count)))


def rejections(sim) -> int:
    return len(sim.requests) - sim.bill.requests


async def test_a_limit_of_requests_is_met_almost_without_rejections(simulate, make_model):
    sim = simulate(limits=ServerLimits(requests_per_minute=2_400))
    answers = await ask(make_model(), 60, at_once=20)
    assert all(f"Number {number}?" in answer.text for number, answer in enumerate(answers))
    assert rejections(sim) <= 2
    assert the_limiter().admission.in_flight_count == 0


async def test_a_limit_of_tokens_is_met_almost_without_rejections(simulate, make_model):
    sim = simulate(limits=ServerLimits(tokens_per_minute=60_000))
    answers = await ask(make_model(max_tokens=20), 50, at_once=10)
    assert len(answers) == 50
    assert rejections(sim) <= 2


def test_without_rate_limits_all_is_sent_at_once(simulate, make_model):
    sim = simulate(limits=ServerLimits(requests_per_minute=60))
    model = make_model(rate_limits=None, max_retries=0)
    got = model.batch(["Hello"] * 15, {"max_concurrency": 15}, return_exceptions=True)
    assert len(sim.requests) == 15
    assert sum(isinstance(each, Exception) for each in got) == rejections(sim) >= 3
    assert not registry._limiters


async def test_a_call_that_is_cancelled_in_line_sends_nothing_and_costs_nothing(simulate, make_model):
    sim = simulate(faults=[Fault("slow", delay_seconds=0.2)])
    budget = Budget(tokens=10_000)
    model = make_model(rate_limits=RateLimits(max_concurrency=1), budget=budget)
    first = asyncio.create_task(model.ainvoke("first"))
    await soon(lambda: sim.requests)
    reserved = budget.reserved
    second = asyncio.create_task(model.ainvoke("second"))
    await soon(lambda: the_limiter().admission.waiting_count == 1)
    assert budget.reserved != reserved
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert budget.reserved == reserved
    await first
    assert len(sim.requests) == 1
    assert budget.reserved == Amount()
    assert the_limiter().admission.in_flight_count == 0


@pytest.mark.parametrize("how", ["closed", "collected"])
def test_a_stream_that_nobody_reads_on_gives_its_place_back(how, simulate, make_model):
    simulate()
    model = make_model(rate_limits=RateLimits(max_concurrency=1))
    stream = model.stream("Tell me a long story.")
    next(stream)
    assert the_limiter().admission.in_flight_count == 1
    if how == "closed":
        stream.close()
    del stream
    gc.collect()
    assert the_limiter().admission.in_flight_count == 0
    assert "again" in model.invoke("again").text


async def test_an_async_stream_that_nobody_reads_on_gives_its_place_back(simulate, make_model):
    simulate()
    model = make_model(rate_limits=RateLimits(max_concurrency=1))
    stream = model.astream("Tell me a long story.")
    await anext(stream)
    assert the_limiter().admission.in_flight_count == 1
    await stream.aclose()
    assert the_limiter().admission.in_flight_count == 0


async def test_a_call_within_its_own_stream_does_not_wait_for_it(simulate, make_model):
    simulate()
    model = make_model(rate_limits=RateLimits(max_concurrency=1))
    async with asyncio.timeout(10):
        async for chunk in model.astream("outer"):
            if chunk.text:
                assert "inner" in (await model.ainvoke("inner")).text
    for _ in model.stream("outer"):
        assert "inner" in model.invoke("inner").text
        break
    assert the_limiter().admission.waiting_count == 0


@pytest.mark.parametrize("how", ["invoke", "stream", "ainvoke", "astream"])
def test_what_can_never_fit_is_not_sent_and_says_what_to_do(how, simulate, make_model):
    sim = simulate()
    budget = Budget(tokens=10_000)
    model = make_model(rate_limits=RateLimits(tokens_per_minute=100), max_tokens=200, budget=budget)

    async def astream() -> None:
        async for _ in model.astream("Hello"):
            pass

    ways = {
        "invoke": lambda: model.invoke("Hello"),
        "stream": lambda: list(model.stream("Hello")),
        "ainvoke": lambda: asyncio.run(model.ainvoke("Hello")),
        "astream": lambda: asyncio.run(astream()),
    }
    with pytest.raises(RequestExceedsLimitError) as caught:
        ways[how]()
    for words in ("Nothing was sent", "Shorten the prompt", "max_tokens", "tokens_per_minute in RateLimits"):
        assert words in str(caught.value)
    assert caught.value.tokens_per_minute == 100
    assert sim.requests == []
    assert budget.reserved == Amount()


async def test_a_rejected_call_is_retried_when_it_was_asked_to_come_back(simulate, make_model):
    sim = simulate(faults=[Fault("rate_limit", retry_after_seconds=0.02)])
    assert "Hello" in (await make_model().ainvoke("Hello")).text
    assert len(sim.requests) == 2
    assert the_limiter().admission.in_flight_count == 0


@pytest.mark.parametrize("fault", ["server_error", "reset", "not_json", "bad_request", "no_finish"])
def test_a_call_that_fails_gives_its_place_back(fault, simulate, make_model):
    simulate(faults=[fault])
    model = make_model(rate_limits=RateLimits(max_concurrency=1), max_retries=0)
    with pytest.raises(Exception):  # noqa: B017  which one is the fault matrix's
        model.invoke("Hello")
    assert the_limiter().admission.in_flight_count == 0
    assert "again" in model.invoke("again").text


def test_models_of_one_endpoint_key_and_name_share_a_limiter(simulate, make_model):
    simulate()
    make_model().invoke("Hello")
    make_model(temperature=1).invoke("Hello")
    assert len(registry._limiters) == 1
    make_model(api_key="sk-test-another").invoke("Hello")
    assert len(registry._limiters) == 2
    make_model(model="gpt-4.1").invoke("Hello")
    assert len(registry._limiters) == 3
    make_model(organization="another").invoke("Hello")
    assert len(registry._limiters) == 4
    make_model(rate_limits=RateLimits(max_concurrency=9)).invoke("Hello")
    assert len(registry._limiters) == 5


def test_embeddings_have_a_limiter_of_their_own(simulate, make_model):
    simulate()
    make_model().invoke("Hello")
    embeddings = make_model(ReliableOpenAIEmbeddings, model="text-embedding-3-small")
    embeddings.embed_query("Hello")
    assert len(registry._limiters) == 2
    assert all(limiter.admission.in_flight_count == 0 for limiter in registry._limiters.values())


def test_no_key_is_kept(simulate, make_model, key):
    simulate()
    make_model().invoke("Hello")
    assert key not in repr(registry._limiters)
