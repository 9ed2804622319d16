"""Run a chain over the documents, each item on its own, and keep what came of each.

However a run ends, `result()` tells what was done until then. Prints nothing: whoever watches is called
after every item and before every retry.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import openai
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from lc_service import clock
from lc_service.accounting.ledger import UsageLedger
from lc_service.accounting.usage import TokenUsage
from lc_service.accounting.usage_report import UsageReport
from lc_service.data import Document, load_documents
from lc_service.demo.failure import describe, is_hopeless
from lc_service.demo.result import INTERRUPTED, DemoResult, ItemResult, Line, by_line
from lc_service.demo.target import ChainFactory
from lc_service.retry.event import RetryEvent
from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.service import OpenAIService
from lc_service.settings import ServiceSettings
from lc_service.simulator import Bill, Fault, FaultPlan, ServerLimits, Simulator

_KEY = SecretStr("simulated")
_LIFETIME_SECONDS = 86_400.0
# What a retry survives. All are free but "no_finish": that answer is billed, and so has to be counted.
_FAULTS: tuple[str | Fault, ...] = (
    "rate_limit", "rate_limit_reset", "rate_limit_bare", Fault("rate_limit_seconds", retry_after_seconds=1),
    "server_error", "bad_gateway", "unavailable", "gateway_timeout", "timeout", "conflict",
    "reset", "not_json", "broken_json", "no_finish", Fault("slow", delay_seconds=0.5),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """What a run against the simulator meets.

    Attributes:
        faults: Share of requests that meet a fault, 0 to 1.
        requests_per_minute: The server's limit; None is unlimited.
        tokens_per_minute: The server's limit; None is unlimited.
        latency_seconds: The time the server takes for an answer.
        seed: Another seed gives other faults.
        concurrency: Items in progress at a time.
        model: The chat model; the settings' own where None.
        ledger: Keeps every attempt; None for none.
    """

    faults: float = 0.2
    requests_per_minute: float | None = 540.0
    tokens_per_minute: float | None = 200_000.0
    latency_seconds: float = 1.6
    seed: int = 7
    concurrency: int = 16
    model: str | None = None
    ledger: UsageLedger | None = None


class DemoJob:
    """One run of a chain over documents; of no use after it.

    Args:
        factory: Makes the chain from a model.
        documents: The items.
        settings: What the run meets.

    Attributes:
        watch: Called with the job, in its loop, whenever something changed; it should be quick.
    """

    def __init__(self, factory: ChainFactory, documents: Sequence[Document], settings: DemoSettings) -> None:
        self.watch: Callable[[DemoJob], None] = lambda _: None
        self.documents = documents
        self.retries: Counter[str] = Counter()
        self.finished: list[ItemResult] = []
        self.usage = UsageReport()
        self._tallies: dict[str, _CallTally] = {}
        self._factory = factory
        self.settings = settings
        self._expected: dict[str, str] = {}
        self._lock = threading.Lock()
        self._started, self._ended = clock.now(), 0.0
        self._stopped_by: str | None = None
        self._bill: Bill | None = None
        self._server_requests: int | None = None

    def rehearse(self) -> TokenUsage:
        """Learn each item's answer from a simulator without faults, one item at a time, with stock LangChain.

        Returns:
            What the items used: an estimate for the real thing.
        """
        with Simulator(max_lifetime_seconds=_LIFETIME_SECONDS) as simulator:
            asyncio.run(self._rehearse(simulator.base_url))
            total = simulator.bill.total
        return TokenUsage(input_tokens=total.input_tokens, output_tokens=total.output_tokens)

    async def _rehearse(self, base_url: str) -> None:
        model = ServiceSettings.load(model=self.settings.model).model
        async with openai.DefaultAsyncHttpxClient() as client:  # closed with its loop; a shared one is not
            stock = ChatOpenAI(
                model=model, base_url=base_url, api_key=_KEY, max_retries=0, http_async_client=client
            )
            chain = self._factory(stock)
            for document in self.documents:
                # an item that fails here has no answer to compare: it will be lost in the run, and told
                with contextlib.suppress(Exception):
                    self._expected[document.id] = _text(await chain.ainvoke(chain_input(document)))

    def run_simulated(self) -> DemoResult:
        """Run against a simulator with rate limits and faults; the result has its bill."""
        settings = self.settings
        limits = ServerLimits(
            requests_per_minute=settings.requests_per_minute, tokens_per_minute=settings.tokens_per_minute
        )
        plan = FaultPlan(seed=settings.seed, rate=settings.faults, kinds=_FAULTS)
        # Full speed against a limit needs many short waits: the server always says when to come back.
        # No quota: that is for a server that is down, and this one is not, whatever share of requests fails.
        policy = RetryWithExponentialBackoff(
            0.1, 5.0, max_retries=1000, on_retry=self._count_retry, quota=None
        )
        with (
            self._stoppable(),
            Simulator(
                limits=limits,
                faults=plan,
                latency_seconds=settings.latency_seconds,
                max_lifetime_seconds=_LIFETIME_SECONDS,
            ) as simulator,
        ):
            self._bill = simulator.bill
            service = OpenAIService(
                api_key=_KEY,
                model=settings.model,
                base_url=simulator.base_url,
                retry=policy,
                budget=(),  # what is simulated costs nothing, whatever the settings say
                ledger=settings.ledger or False,
            )
            self._run(service)
            simulator.wait_until_idle()
            self._server_requests = len(simulator.requests)
        return self.result()

    def run_live(self) -> DemoResult:
        """Run against the API of the environment's key; the bill is the provider's.

        Raises:
            ConfigurationError: There is no key, or a setting is wrong. Nothing has been sent.
        """
        policy = replace(ServiceSettings.load().retry_policy(), on_retry=self._count_retry)
        self._expected.clear()
        with self._stoppable():
            settings = self.settings
            self._run(OpenAIService(model=settings.model, retry=policy, ledger=settings.ledger))
        return self.result()

    def _run(self, service: OpenAIService) -> None:
        self.usage = service.usage
        chain = self._factory(service.chat_model)
        self._started = clock.now()
        with self._stoppable():
            asyncio.run(self._run_items(chain))
        self._ended = clock.now()

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Let Ctrl-C end the block, and note it: what was done until then is the result."""
        try:
            yield
        except KeyboardInterrupt:
            self._stopped_by = INTERRUPTED

    async def _run_items(self, chain: Runnable[Any, Any]) -> None:
        waiting = iter(self.documents)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.settings.concurrency, len(self.documents))):
                group.create_task(self._work(chain, waiting))

    async def _work(self, chain: Runnable[Any, Any], waiting: Iterator[Document]) -> None:
        for document in waiting:
            if self._stopped_by:
                return
            tally = self._tallies[document.id] = _CallTally()
            answer = error = None
            try:
                answer = _text(await chain.ainvoke(chain_input(document), {"callbacks": [tally]}))
            except Exception as failure:  # noqa: BLE001  an item's failure is not the run's
                error = describe(failure)
                if is_hopeless(failure):
                    self._stopped_by = error
            self.finished.append(self._judge(document, answer, error, tally.attempts))
            self.watch(self)

    def _judge(self, document: Document, answer: str | None, error: str | None, attempts: int) -> ItemResult:
        expected = self._expected.get(document.id, answer)
        return ItemResult(
            id=document.id,
            language=document.language,
            answer=answer,
            attempts=attempts,
            error=error,
            is_wrong=answer is not None and answer != expected,
        )

    def _count_retry(self, event: RetryEvent) -> None:
        with self._lock:  # a chain may call its model from a thread
            self.retries[event.verdict.kind] += 1
        self.watch(self)

    def result(self) -> DemoResult:
        """Return what was done so far."""
        return DemoResult(
            items=len(self.documents),
            finished=tuple(self.finished),
            attempts=sum(tally.attempts for tally in self._tallies.values()),
            counted=by_line(self.usage),
            billed=None if self._bill is None else _billed(self._bill),
            server_requests=self._server_requests,
            retries=dict(self.retries.most_common()),
            seconds=(self._ended or clock.now()) - self._started,
            stopped_by=self._stopped_by,
        )


def _billed(bill: Bill) -> dict[Line, TokenUsage]:
    return {line: TokenUsage(**asdict(entry.usage)) for line, entry in bill.lines.items()}


class _CallTally(BaseCallbackHandler):
    """Count the attempts made for one item, whatever calls its chain makes."""

    run_inline = True

    def __init__(self) -> None:
        self.attempts = 0

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        """Say that chat models are understood; their attempts are counted as they end."""

    def on_llm_end(self, *_: Any, **__: Any) -> None:
        """Count the attempt that brought the answer."""
        self.attempts += 1

    def on_llm_error(self, *_: Any, **__: Any) -> None:
        """Count the last attempt of a call that failed."""
        self.attempts += 1

    def on_retry(self, *_: Any, **__: Any) -> None:
        """Count an attempt that failed and is made again."""
        self.attempts += 1


def choose_documents(count: int | None = None) -> list[Document]:
    """Return the first `count` documents of the data set, or all.

    Raises:
        ValueError: There are not so many.
    """
    documents = load_documents()
    if count is not None and not 1 <= count <= len(documents):
        raise ValueError(f"The data set has {len(documents)} documents: ask for 1 to {len(documents)}.")
    return documents[:count]


def chain_input(document: Document) -> dict[str, str]:
    """Return a document as the shipped chains take it: each finds the keys it needs and ignores the rest."""
    return {
        "title": document.title,
        "text": document.text,
        "target_language": "English",
        "question": f"What is the main point of “{document.title}”?",
        "context": document.text,
    }


def _text(answer: object) -> str:
    return answer.text if isinstance(answer, BaseMessage) else str(answer)
