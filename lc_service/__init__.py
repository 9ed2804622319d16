"""Reliable, accounted-for access to OpenAI models for LangChain programs.

Every public name is importable from here and loaded on first use: `import lc_service` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lc_service.accounting.budget.account import BudgetUnavailableError
    from lc_service.accounting.budget.budget import Budget
    from lc_service.accounting.budget.exceeded import BudgetExceeded
    from lc_service.accounting.budget.request_amount import UnboundedRequestError, UnpricedModelError
    from lc_service.accounting.ledger.error import LedgerError
    from lc_service.accounting.ledger.ledger import UsageLedger
    from lc_service.accounting.pricing.cost import ModelPrice, set_price
    from lc_service.accounting.record import AttemptRecord
    from lc_service.accounting.telemetry.telemetry import Telemetry
    from lc_service.accounting.token_counter import TokenCounter
    from lc_service.accounting.tracker import track_usage
    from lc_service.accounting.usage import TokenUsage
    from lc_service.accounting.usage_report import UsageReport
    from lc_service.limits.circuit import CircuitBreaker
    from lc_service.limits.hedge import Hedge
    from lc_service.limits.rate_limits import RateLimits
    from lc_service.models.azure import ReliableAzureChatOpenAI, ReliableAzureOpenAIEmbeddings
    from lc_service.models.by_name import init_chat_model
    from lc_service.models.chat import ReliableChatOpenAI
    from lc_service.models.embeddings import ReliableOpenAIEmbeddings
    from lc_service.retry.event import RetryEvent
    from lc_service.retry.exceptions import (
        CircuitOpenError,
        MalformedResponseError,
        RequestExceedsLimitError,
        ResponseFailedError,
        TruncatedResponseError,
    )
    from lc_service.retry.policy import RetryWithExponentialBackoff
    from lc_service.retry.quota import RetryQuota
    from lc_service.retry.runnable import with_retry
    from lc_service.service import OpenAIService
    from lc_service.settings import ConfigurationError, ServiceSettings

_HOME = {
    "AttemptRecord": "lc_service.accounting.record",
    "Budget": "lc_service.accounting.budget.budget",
    "BudgetExceeded": "lc_service.accounting.budget.exceeded",
    "BudgetUnavailableError": "lc_service.accounting.budget.account",
    "CircuitBreaker": "lc_service.limits.circuit",
    "CircuitOpenError": "lc_service.retry.exceptions",
    "ConfigurationError": "lc_service.settings",
    "Hedge": "lc_service.limits.hedge",
    "LedgerError": "lc_service.accounting.ledger.error",
    "MalformedResponseError": "lc_service.retry.exceptions",
    "ModelPrice": "lc_service.accounting.pricing.cost",
    "OpenAIService": "lc_service.service",
    "RateLimits": "lc_service.limits.rate_limits",
    "ReliableAzureChatOpenAI": "lc_service.models.azure",
    "ReliableAzureOpenAIEmbeddings": "lc_service.models.azure",
    "ReliableChatOpenAI": "lc_service.models.chat",
    "ReliableOpenAIEmbeddings": "lc_service.models.embeddings",
    "RequestExceedsLimitError": "lc_service.retry.exceptions",
    "ResponseFailedError": "lc_service.retry.exceptions",
    "RetryEvent": "lc_service.retry.event",
    "RetryQuota": "lc_service.retry.quota",
    "RetryWithExponentialBackoff": "lc_service.retry.policy",
    "ServiceSettings": "lc_service.settings",
    "Telemetry": "lc_service.accounting.telemetry.telemetry",
    "TokenCounter": "lc_service.accounting.token_counter",
    "TokenUsage": "lc_service.accounting.usage",
    "TruncatedResponseError": "lc_service.retry.exceptions",
    "UnboundedRequestError": "lc_service.accounting.budget.request_amount",
    "UnpricedModelError": "lc_service.accounting.budget.request_amount",
    "UsageLedger": "lc_service.accounting.ledger.ledger",
    "UsageReport": "lc_service.accounting.usage_report",
    "init_chat_model": "lc_service.models.by_name",
    "set_price": "lc_service.accounting.pricing.cost",
    "track_usage": "lc_service.accounting.tracker",
    "with_retry": "lc_service.retry.runnable",
}

__all__ = [
    "AttemptRecord",
    "Budget",
    "BudgetExceeded",
    "BudgetUnavailableError",
    "CircuitBreaker",
    "CircuitOpenError",
    "ConfigurationError",
    "Hedge",
    "LedgerError",
    "MalformedResponseError",
    "ModelPrice",
    "OpenAIService",
    "RateLimits",
    "ReliableAzureChatOpenAI",
    "ReliableAzureOpenAIEmbeddings",
    "ReliableChatOpenAI",
    "ReliableOpenAIEmbeddings",
    "RequestExceedsLimitError",
    "ResponseFailedError",
    "RetryEvent",
    "RetryQuota",
    "RetryWithExponentialBackoff",
    "ServiceSettings",
    "Telemetry",
    "TokenCounter",
    "TokenUsage",
    "TruncatedResponseError",
    "UnboundedRequestError",
    "UnpricedModelError",
    "UsageLedger",
    "UsageReport",
    "init_chat_model",
    "set_price",
    "track_usage",
    "with_retry",
]


def __getattr__(name: str) -> Any:
    try:
        module = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: Any) -> None:
    """Give a notebook `%%usage`: `%load_ext lc_service`."""
    importlib.import_module("lc_service.notebook").load_ipython_extension(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take it away again: `%unload_ext lc_service`."""
    importlib.import_module("lc_service.notebook").unload_ipython_extension(shell)
