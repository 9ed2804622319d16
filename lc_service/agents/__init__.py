"""Middleware for LangChain's `create_agent`: budgets, usage, and retries of tools.

Importing it imports langchain and langgraph; nothing else of this package does.
"""

from lc_service.agents.budget import BudgetMiddleware
from lc_service.agents.tool_retry import RetryMiddleware
from lc_service.agents.usage import UsageMiddleware

__all__ = ["BudgetMiddleware", "RetryMiddleware", "UsageMiddleware"]
