"""What every test of this room needs: a simulator with a bill, and a counter to hold against it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig

from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.token_counter import TokenCounter
from lc_service.accounting.usage import TokenUsage
from lc_service.accounting.usage_report import UsageReport
from lc_service.models.chat import ReliableChatOpenAI
from lc_service.models.embeddings import ReliableOpenAIEmbeddings
from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.simulator import FaultPlan, Simulator

KEY = "sk-test-accounting-0123456789"
PLANS = {
    "clean": None,
    "rate_limited": FaultPlan.first("rate_limit"),
    "no_finish": FaultPlan.first("no_finish"),
    "cut": FaultPlan.first("cut"),
}


class Records:
    """Stands where a model has its ledger, and keeps the records in memory."""

    def __init__(self) -> None:
        self.all: list[AttemptRecord] = []

    def record(self, record: AttemptRecord) -> None:
        self.all.append(record)

    async def arecord(self, record: AttemptRecord) -> None:
        self.all.append(record)

    def post(self, record: AttemptRecord) -> None:
        self.all.append(record)


class Bench:
    """A simulator, models that talk to it, and a counter to attach to calls.

    Chat goes to a reasoning model with some effort, so that reasoning tokens are there to be counted.
    """

    def __init__(self, simulator: Simulator) -> None:
        self.sim = simulator
        self.counter = TokenCounter()
        self.records = Records()
        self.config: RunnableConfig = {"callbacks": [self.counter]}

    def model(self, cls: type = ReliableChatOpenAI, **options: Any) -> Any:
        options = {
            "model": "o4-mini",
            "reasoning_effort": "low",
            "api_key": KEY,
            "base_url": self.sim.base_url,
        } | options
        if cls is ReliableChatOpenAI:
            options.setdefault("ledger", self.records)
        if cls is ReliableChatOpenAI and "max_retries" not in options:
            options.setdefault("retry", _fast())
        return cls(**options)

    def embeddings(self, **options: Any) -> ReliableOpenAIEmbeddings:
        options = {
            "api_key": KEY,
            "base_url": self.sim.base_url,
            "retry": _fast(),
            "ledger": self.records,
        } | options
        return ReliableOpenAIEmbeddings(**options)

    @staticmethod
    def usage_of(billed: Any) -> TokenUsage:
        return TokenUsage(
            input_tokens=billed.input_tokens,
            cached_input_tokens=billed.cached_input_tokens,
            output_tokens=billed.output_tokens,
            reasoning_tokens=billed.reasoning_tokens,
        )

    def assert_counted(self, *reports: UsageReport, failed_calls: int = 0) -> None:
        """Hold each report against the bill: every kind of token, calls, models and operations.

        An attempt that was cut off belongs to the call that was answered in the end, but for `failed_calls`
        calls that were not.
        """
        bill = self.sim.bill
        assert bill.requests > 0, "nothing was billed: the test proves nothing"
        for report in reports:
            assert report.total == self.usage_of(bill.total)
            assert report.unknown == 0
            assert report.calls == bill.requests - bill.interrupted_requests + failed_calls
            assert _by(report, "operation") == self._billed_by(1)
            assert _by(report, "model") == self._billed_by(0)
        if records := self.records.all:  # a stock model makes none
            assert {report.attempts for report in reports} == {len(records)}
            assert sum((record.usage for record in records), TokenUsage()) == self.usage_of(bill.total)
            assert all(record.certainty == "measured" for record in records)

    def _billed_by(self, position: int) -> dict[str, TokenUsage]:
        groups: dict[str, TokenUsage] = {}
        for key, line in self.sim.bill.lines.items():
            groups[key[position]] = groups.get(key[position], TokenUsage()) + self.usage_of(line.usage)
        return groups


def _by(report: UsageReport, key: Any) -> dict[str, TokenUsage]:
    return {name: part.total for name, part in report.group_by(key).items()}


def _fast() -> RetryWithExponentialBackoff:
    return RetryWithExponentialBackoff(initial_delay=0.001, max_delay=0.001)


@pytest.fixture(scope="session")
def _simulators() -> Iterator[Callable[[str], Simulator]]:
    """Keep one simulator a plan: LangChain makes two HTTP clients for each new URL, which takes a while."""
    with contextlib.ExitStack() as stack:
        running: dict[str, Simulator] = {}

        def get(plan: str) -> Simulator:
            if plan not in running:
                running[plan] = stack.enter_context(Simulator(faults=PLANS[plan]))
            running[plan].reset()
            return running[plan]

        yield get


@pytest.fixture
def make_bench(_simulators: Callable[[str], Simulator]) -> Callable[[str], Bench]:
    """Make a bench with a fresh bill under one of `PLANS`."""
    return lambda plan: Bench(_simulators(plan))


@pytest.fixture
def bench(make_bench: Callable[[str], Bench]) -> Bench:
    return make_bench("clean")
