"""What a program's author is told by type checkers of models, and of what counts and retries their calls.

Read by type checkers, never run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any, assert_type

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableSerializable
from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from lc_service import (
    AttemptRecord,
    Budget,
    CircuitBreaker,
    Hedge,
    ModelPrice,
    OpenAIService,
    RateLimits,
    ReliableAzureChatOpenAI,
    ReliableAzureOpenAIEmbeddings,
    ReliableChatOpenAI,
    ReliableOpenAIEmbeddings,
    RetryEvent,
    RetryWithExponentialBackoff,
    ServiceSettings,
    TokenCounter,
    TokenUsage,
    TruncatedResponseError,
    UsageLedger,
    UsageReport,
    init_chat_model,
    set_price,
    track_usage,
    with_retry,
)


class Boat(BaseModel):
    name: str


service = OpenAIService()
policy = RetryWithExponentialBackoff(0.5, max_retries=3, jitter="equal", deadline_seconds=30)
prompt = ChatPromptTemplate.from_template("Describe {boat}.")


def a_chain_keeps_its_types(stock: ChatOpenAI) -> None:
    chain = prompt | service.chat_model | StrOutputParser()
    assert_type(chain, RunnableSerializable[dict[str, Any], str])
    assert_type(prompt | stock | StrOutputParser(), RunnableSerializable[dict[str, Any], str])
    assert_type(prompt | service.chat_model, RunnableSerializable[dict[str, Any], AIMessage])
    assert_type(chain.invoke({"boat": "Aurora"}), str)
    assert_type(chain.batch([{"boat": "Aurora"}]), list[str])
    assert_type(chain.stream({"boat": "Aurora"}), Iterator[str])
    assert_type(chain.astream({"boat": "Aurora"}), AsyncIterator[str])


async def an_asynchronous_chain_keeps_its_types() -> None:
    chain = prompt | service.chat_model | StrOutputParser()
    assert_type(await chain.ainvoke({"boat": "Aurora"}), str)
    assert_type(await chain.abatch([{"boat": "Aurora"}]), list[str])


def models_are_those_of_langchain() -> None:
    model: ChatOpenAI = service.chat_model
    azure: AzureChatOpenAI = ReliableAzureChatOpenAI(azure_deployment="boats", retry=policy)
    embeddings: OpenAIEmbeddings = service.embeddings
    every: list[BaseChatModel | Embeddings] = [model, azure, embeddings]
    assert_type(service.chat_model, ReliableChatOpenAI)
    assert_type(service.embeddings, ReliableOpenAIEmbeddings)
    assert_type(init_chat_model("openai:gpt-5.4-mini"), ReliableChatOpenAI | ReliableAzureChatOpenAI)
    assert_type(prompt | init_chat_model("x") | StrOutputParser(), RunnableSerializable[dict[str, Any], str])
    del every


def a_model_answers_as_a_stock_one() -> None:
    model = service.chat_model
    assert_type(model.invoke("Hello"), AIMessage)
    assert_type(model.batch(["Hello"]), list[AIMessage])
    assert_type(model.stream("Hello"), Iterator[AIMessageChunk])
    assert_type(model.astream("Hello"), AsyncIterator[AIMessageChunk])
    assert_type(model.bind_tools([]), Runnable[LanguageModelInput, AIMessage])
    # LangChain's own type for it; who wants a Boat takes chains.build_extract_chain
    assert_type(model.with_structured_output(Boat), Runnable[LanguageModelInput, dict[Any, Any] | Any])


def a_model_takes_what_accounts_for_it(stock: ChatOpenAI, budget: Budget, ledger: UsageLedger) -> None:
    limits = RateLimits(requests_per_minute=60, tokens_per_minute=20_000, max_concurrency=4)
    ReliableChatOpenAI(
        model="gpt-5.4-mini",
        api_key=SecretStr("sk-..."),
        temperature=0.2,
        retry=policy,
        budget=[budget, Budget(tokens=1_000, per_day=True)],
        ledger=ledger,
        rate_limits=limits,
        circuit_breaker=CircuitBreaker(),
        hedge=Hedge(),
    )
    ReliableChatOpenAI(budget=budget, rate_limits="auto", telemetry=None, circuit_breaker=None, hedge=None)
    ReliableOpenAIEmbeddings(model="text-embedding-3-small", budget=budget, ledger=ledger, rate_limits=None)
    OpenAIService("sk-...", budget=budget, ledger="usage.db", rate_limits=limits, retry=policy)
    OpenAIService(api_key=SecretStr("sk-..."), model="gpt-5.4-mini", ledger=False, budget=[])
    assert_type(service.chat_model.with_fallbacks([stock]).invoke("Hello"), AIMessage)


def keys_and_names_are_given_as_langchain_takes_them() -> None:
    ReliableChatOpenAI(model="gpt-5.4-mini", api_key="sk-...", base_url="http://localhost/v1", timeout=30)
    ReliableChatOpenAI(api_key=lambda: "sk-...", max_tokens=100, max_retries=2)
    ReliableChatOpenAI(max_completion_tokens=100)
    ReliableOpenAIEmbeddings(api_key="sk-...", chunk_size=100)
    azure = ReliableAzureChatOpenAI(
        azure_deployment="boats",
        azure_endpoint="https://boats.openai.azure.com",
        api_version="2024-10-21",
        api_key="...",
        max_tokens=100,
    )
    assert_type(azure.with_retry(retry=policy), ReliableAzureChatOpenAI)
    ReliableAzureOpenAIEmbeddings(
        azure_deployment="vectors", azure_endpoint="https://boats.openai.azure.com", api_key="..."
    )


def a_retried_model_stays_a_model(stock: ChatOpenAI) -> None:
    chain = prompt | stock | StrOutputParser()
    assert_type(service.chat_model.with_retry(retry=policy), ReliableChatOpenAI)
    assert_type(service.chat_model.with_retry(stop_after_attempt=3), ReliableChatOpenAI)
    assert_type(with_retry(service.chat_model, policy), ReliableChatOpenAI)
    assert_type(with_retry(stock, policy), Runnable[LanguageModelInput, AIMessage])
    assert_type(with_retry(chain, policy), Runnable[dict[str, Any], str])
    assert_type(with_retry(chain).batch([{"boat": "Aurora"}]), list[str])


def fetch(page: int, *, language: str = "en") -> bytes:
    raise NotImplementedError


async def afetch(page: int, *, language: str = "en") -> bytes:
    raise NotImplementedError


async def a_policy_keeps_what_a_function_takes_and_returns() -> None:
    assert_type(policy.execute(fetch, 1, language="de"), bytes)
    assert_type(policy.execute(fetch, page=1), bytes)
    assert_type(policy.execute(lambda: 3), int)
    assert_type(await policy.aexecute(afetch, 1, language="de"), bytes)


def a_policy_tells_of_its_retries() -> None:
    def told(event: RetryEvent) -> None:
        assert_type(event.attempt, int)
        assert_type(event.wait_seconds, float)

    RetryWithExponentialBackoff(on_retry=told, retry_on=(KeyError,), quota=None)
    RetryWithExponentialBackoff(retry_on=lambda error: isinstance(error, KeyError))


async def the_service_answers_in_plain_values() -> None:
    answer = service.chat_completion([{"role": "user", "content": "Hello"}], temperature=0.2, max_tokens=9)
    assert_type(answer["content"], str)
    assert_type(answer["usage"], dict[str, int])
    assert_type(service.chat_completion("Hello")["role"], str)
    assert_type((await service.achat_completion([("user", "Hello")]))["content"], str)
    assert_type(service.stream_chat("Hello"), Iterator[str])
    assert_type(service.astream_chat("Hello"), AsyncIterator[str])
    assert_type(service.embed(["Aurora"]), list[list[float]])
    assert_type(await service.aembed(("Aurora", "Borealis")), list[list[float]])
    assert_type(service.get_token_usage(), dict[str, int])
    assert_type(service.usage, UsageReport)


def usage_is_counted_in_tokens_and_priced_in_decimals() -> None:
    with track_usage() as usage:
        service.chat_completion("Hello")
    assert_type(usage, UsageReport)
    assert_type(usage.total, TokenUsage)
    assert_type(usage.total.total_tokens, int)
    assert_type(usage.calls + usage.attempts + usage.unknown, int)
    assert_type(usage.cost_usd, Decimal | None)
    assert_type(usage.known_cost_usd, Decimal)
    assert_type(usage.group_by("model"), dict[str, UsageReport])
    assert_type(usage + service.usage, UsageReport)
    counter = TokenCounter()
    assert_type(counter.usage, UsageReport)
    assert_type(counter.get_stats(), dict[str, int])
    service.chat_model.invoke("Hello", config={"callbacks": [counter]})
    with track_usage(into=usage) as same:
        assert_type(same, UsageReport)


def budgets_and_ledgers_tell_what_was_spent() -> None:
    with UsageLedger("usage.db") as ledger:
        budget = Budget(usd="0.50", ledger=ledger, per_day=True, tag="boats")
        assert_type(ledger, UsageLedger)
        assert_type(budget.spent.usd, Decimal)
        assert_type(budget.remaining.usd, Decimal | None)
        assert_type(budget.limit.tokens, int | None)
        assert_type(ledger.records(), Iterator[AttemptRecord])
    Budget(Decimal("0.5"))
    Budget(tokens=10_000, strict=True)


def prices_take_exact_money_and_keep_decimals(record: AttemptRecord) -> None:
    price = ModelPrice(input_usd_per_million="0.10", output_usd_per_million=Decimal("0.4"))
    assert_type(price.input_usd_per_million, Decimal)
    assert_type(price.cached_input_usd_per_million, Decimal | None)
    set_price("boat-writer", ModelPrice(input_usd_per_million=1, output_usd_per_million=2))
    set_price("boat-writer", None, service_tier="flex")
    assert_type(record.cost_usd, Decimal | None)


def settings_make_what_a_service_is_made_of() -> None:
    settings = ServiceSettings.load(model="gpt-5.4-mini")
    assert_type(settings, ServiceSettings)
    assert_type(settings.retry_policy(), RetryWithExponentialBackoff)
    assert_type(settings.rate_limits(), RateLimits)
    assert_type(settings.budget_usd, Decimal | None)


def an_error_carries_what_came(error: TruncatedResponseError) -> None:
    assert_type(error.partial, AIMessage | None)
