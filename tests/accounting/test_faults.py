"""Whatever happens to an attempt, the count says what was billed, or says that it cannot know."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_core.exceptions import ModelError

from lc_service import RetryWithExponentialBackoff, UsageReport, track_usage
from lc_service.models.chat import ReliableChatOpenAI
from lc_service.models.embeddings import ReliableOpenAIEmbeddings
from lc_service.simulator import Fault, Simulator

KEY = "sk-test-accounting-0123456789"
QUESTION = "Describe the harbour of a small town at dawn: the boats, the birds, the people who work there."
QUICK = {"slow": {"delay_seconds": 0.01}, "stall": {"delay_seconds": 0.2}}


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(max_lifetime_seconds=300) as simulator:
        model(simulator).batch([f"{QUESTION} {number}" for number in range(20)])  # the estimator learns
        yield simulator


def model(sim: Simulator, **options: Any) -> ReliableChatOpenAI:
    return ReliableChatOpenAI(
        model="gpt-4.1-mini",
        api_key=KEY,
        base_url=sim.base_url,
        retry=RetryWithExponentialBackoff(0, 0, 3, quota=None),
        **options,
    )


def invoke(sim: Simulator) -> None:
    model(sim).invoke(QUESTION)


def ainvoke(sim: Simulator) -> None:
    asyncio.run(model(sim).ainvoke(QUESTION))


def responses(sim: Simulator) -> None:
    model(sim, use_responses_api=True).invoke(QUESTION)


def stream(sim: Simulator) -> None:
    for _ in model(sim).stream(QUESTION):
        pass


def astream(sim: Simulator) -> None:
    async def drain() -> None:
        async for _ in model(sim).astream(QUESTION):
            pass

    asyncio.run(drain())


def responses_stream(sim: Simulator) -> None:
    for _ in model(sim, use_responses_api=True).stream(QUESTION):
        pass


def abatch(sim: Simulator) -> None:
    asyncio.run(model(sim).abatch([QUESTION, f"{QUESTION} Briefly."], return_exceptions=True))


def embed(sim: Simulator) -> None:
    ReliableOpenAIEmbeddings(
        api_key=KEY,
        base_url=sim.base_url,
        chunk_size=2,
        retry=RetryWithExponentialBackoff(0, 0, 3, quota=None),
    ).embed_documents([QUESTION, "Two", "Three"])


CALLS = [invoke, ainvoke, responses, stream, astream, responses_stream, abatch, embed]
FAULTS = [
    *(Fault(kind, **QUICK.get(kind, {})) for kind in sorted(Fault.KINDS)),
    Fault("cut", after_chunks=0),
    Fault("error_event", after_chunks=0),
    Fault("stall", after_chunks=0, delay_seconds=0.2),
    Fault("cut", after_chunks=30),
]
NEVER_BILLED = {
    "rate_limit", "rate_limit_seconds", "rate_limit_date", "rate_limit_reset", "rate_limit_bare",
    "request_too_large", "insufficient_quota", "server_error", "bad_gateway", "unavailable",
    "gateway_timeout", "not_json", "context_length", "bad_request", "unauthorized",
    "forbidden", "not_found", "timeout", "conflict", "unprocessable",
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{fault.after_chunks}")
def test_the_count_is_the_bill_or_says_that_it_is_not(
    fault: Fault, call: Any, sim: Simulator, fake_clock: Any
) -> None:
    sim.reset()
    sim.set_faults([fault])
    with track_usage() as usage, contextlib.suppress(openai.OpenAIError, ModelError):
        call(sim)
    assert sim.wait_until_idle()
    assert usage.attempts == len(sim.requests)
    assert_honest(usage, sim)
    if fault.kind in NEVER_BILLED:
        assert (usage.estimated, usage.unknown) == (0, 0)
        assert usage.group_by("status").get("failed", UsageReport()).total.total_tokens == 0


def assert_honest(usage: UsageReport, sim: Simulator) -> None:
    counted, billed = usage.total, sim.bill.total
    if not usage.estimated and not usage.unknown:
        assert (counted.input_tokens, counted.output_tokens) == (billed.input_tokens, billed.output_tokens)
    elif not usage.unknown:
        assert abs(counted.total_tokens - billed.total_tokens) <= max(0.15 * billed.total_tokens, 3)
    else:  # a lower bound
        assert counted.total_tokens <= 1.15 * billed.total_tokens
        assert usage.cost_usd is None
