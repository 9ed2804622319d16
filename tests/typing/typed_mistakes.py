"""What type checkers must find before a program runs: each marked line is an error to both of them.

A mark that is not needed is an error as well. Read by type checkers, never run.
"""

from __future__ import annotations

from decimal import Decimal

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel

from chains import build_ask_chain, build_classify_chain, build_extract_chain, build_translate_chain
from lc_service import (
    Budget,
    ModelPrice,
    OpenAIService,
    RateLimits,
    ReliableChatOpenAI,
    ReliableOpenAIEmbeddings,
    RetryWithExponentialBackoff,
    TokenUsage,
    track_usage,
)
from lc_service.agents import BudgetMiddleware


class Boat(BaseModel):
    name: str


service = OpenAIService()
model = service.chat_model
policy = RetryWithExponentialBackoff()
prompt = ChatPromptTemplate.from_template("Describe {boat}.")


def fetch(page: int, *, language: str = "en") -> bytes:
    raise NotImplementedError


async def afetch(page: int) -> bytes:
    raise NotImplementedError


def wrong_answers() -> None:
    chain = prompt | service.chat_model | StrOutputParser()
    number: int = chain.invoke({"boat": "Aurora"})  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    texts: list[int] = chain.batch([{"boat": "Aurora"}])  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    chain.invoke("Aurora")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    content: bytes = service.chat_completion("Hello")["content"]  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    service.chat_completion("Hello")["tokens"]  # type: ignore[typeddict-item]  # pyright: ignore[reportGeneralTypeIssues]
    vectors: list[float] = service.embed(["Aurora"])  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del number, texts, content, vectors


def wrong_arguments_of_a_policy() -> None:
    policy.execute(fetch, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    policy.execute(fetch, 1, langauge="de")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    policy.execute(fetch)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    page: str = policy.execute(fetch, 1)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    RetryWithExponentialBackoff(jitter="some")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryWithExponentialBackoff(deadline_seconds="30")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    del page


async def what_is_not_awaitable() -> None:
    await policy.aexecute(fetch, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    page: str = await policy.aexecute(afetch, 1)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    del page


def wrong_arguments_of_models() -> None:
    OpenAIService(modle="gpt-5.4-mini")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    OpenAIService(budget=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ReliableChatOpenAI(retry=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ReliableChatOpenAI(budget=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ReliableChatOpenAI(ledger="usage.db")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ReliableChatOpenAI(rate_limits="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ReliableChatOpenAI(nonsense=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ReliableOpenAIEmbeddings(budget=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    model.with_retry(policy)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def wrong_values() -> None:
    RateLimits(requests_per_minute="60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Budget(tokens=0.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Budget(1, 2, True, 4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    BudgetMiddleware(requests=3, per="week")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ModelPrice(input_usd_per_million=0.1, output_usd_per_million=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ModelPrice(input_usd_per_million=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def values_that_do_not_change() -> None:
    usage = TokenUsage(input_tokens=1)
    usage.input_tokens = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    policy.max_retries = 9  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def an_unknown_cost_is_not_a_number() -> None:
    with track_usage() as usage:
        cost: Decimal = usage.cost_usd  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
        doubled = usage.cost_usd * 2  # type: ignore[operator]  # pyright: ignore[reportOptionalOperand]
    usage.total = TokenUsage()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    usage.group_by()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    del cost, doubled


def wrong_inputs_of_chains() -> None:
    build_ask_chain(model).invoke({"context": "Tide tables"})  # type: ignore[typeddict-item]  # pyright: ignore[reportArgumentType]
    build_ask_chain(model).invoke({"question": 3})  # type: ignore[typeddict-item]  # pyright: ignore[reportArgumentType]
    build_translate_chain(model).invoke({"text": "Hello"})  # type: ignore[typeddict-item]  # pyright: ignore[reportArgumentType]
    build_extract_chain(model, {"type": "object"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    boats: list[Boat] = build_extract_chain(model, Boat).invoke({"text": "The Aurora came in."})  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    build_classify_chain(model, ["a"], method="guess")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    build_classify_chain(model, ["a"]).invoke({"text": "It blows."})[0]  # type: ignore[literal-required]  # pyright: ignore[reportGeneralTypeIssues]
    build_ask_chain("gpt-5.4-mini")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    del boats
