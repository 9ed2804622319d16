"""What a program's author is told by type checkers of agents' middleware, the simulator and the documents.

Read by type checkers, never run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.tools import BaseTool
from langchain_openai import ChatOpenAI
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel

from lc_service import OpenAIService, RetryWithExponentialBackoff
from lc_service.agents import BudgetMiddleware, RetryMiddleware, UsageMiddleware
from lc_service.data import Document, load_documents
from lc_service.simulator import Bill, Fault, FaultPlan, ServedRequest, ServerLimits, Simulator, run_simulator


class Boat(BaseModel):
    name: str


@dataclass
class Harbour:
    name: str


service = OpenAIService()


def middleware_stands_beside_the_stock_one(tools: list[BaseTool]) -> None:
    policy = RetryWithExponentialBackoff(max_retries=2)
    agent = create_agent(
        service.chat_model,
        tools,
        middleware=[
            BudgetMiddleware("0.50", per="thread", on_exceeded="raise"),
            BudgetMiddleware(requests=20),
            UsageMiddleware(),
            RetryMiddleware(policy, tools=["search", *tools], on_failure="tell"),
            ToolRetryMiddleware(),
        ],
    )
    graph: CompiledStateGraph[Any, Any, Any, Any] = agent
    graph.invoke({"messages": [("user", "Hello")]})


def a_response_format_and_a_context_are_allowed() -> None:
    create_agent(
        service.chat_model,
        [],
        middleware=[UsageMiddleware(), RetryMiddleware(on_failure=lambda error: type(error).__name__)],
        response_format=Boat,
        context_schema=Harbour,
    )


def a_middleware_alone_is_enough(stock: ChatOpenAI) -> None:
    create_agent(stock, [], middleware=[UsageMiddleware()])
    create_agent(service.chat_model, [], middleware=[BudgetMiddleware(tokens=1_000, strict=True)])


def the_simulator_is_a_server_in_a_block() -> None:
    limits = ServerLimits(requests_per_minute=60, tokens_per_minute=10_000)
    with Simulator(limits=limits, faults=["rate_limit", None, Fault("reset")]) as simulator:
        assert_type(simulator, Simulator)
        assert_type(simulator.base_url, str)
        assert_type(simulator.bill, Bill)
        assert_type(simulator.bill.total.input_tokens, int)
        assert_type(simulator.requests, list[ServedRequest])
    Simulator(faults=FaultPlan(rate=0.3))
    assert_type(run_simulator(port=0, stop_after_seconds=0.1), Bill)


def the_documents_are_values() -> None:
    documents = load_documents()
    assert_type(documents, list[Document])
    assert_type(documents[0].text, str)
