"""What a budget says no with.

Its own module because it imports langgraph, which only a program whose budget is used up has to pay for.

ModelError + GraphBubbleUp
└── BudgetExceeded   is raised out of LangChain's retry and fallback middleware, tools and agents as it is
"""

from __future__ import annotations

from typing import Any

from langchain_core.exceptions import ModelError

# The one family that LangChain's middleware hands on. langgraph itself catches only its own interrupts.
from langgraph.errors import GraphBubbleUp

from lc_service.accounting.spending import Amount, Limit


class BudgetExceeded(ModelError, GraphBubbleUp):  # noqa: N818  the public name, as in "limit exceeded"
    """Raise when a call does not fit into a budget. Nothing was sent and nothing is billed.

    Neither retried nor answered by a fallback model of `ModelFallbackMiddleware`.

    Attributes:
        budget: The budget's name.
        limit: What it allows; what is None there is not limited.
        spent: By attempts that ended.
        reserved: By attempts that are under way.
        requested: What this one would have set aside.
    """

    is_retryable = False

    def __init__(
        self,
        message: str,
        *,
        budget: str,
        limit: Limit,
        spent: Amount,
        reserved: Amount,
        requested: Amount,
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.limit = limit
        self.spent = spent
        self.reserved = reserved
        self.requested = requested

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.__dict__)


def _rebuild(cls: type[BudgetExceeded], message: str, facts: dict[str, Any]) -> BudgetExceeded:
    names = ("budget", "limit", "spent", "reserved", "requested")
    error = cls(message, **{name: facts[name] for name in names})
    error.__dict__.update(facts)
    return error
