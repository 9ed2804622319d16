"""`RetryMiddleware`: tools of an agent retried by our policy.

Invariant: only what may succeed when it is called again is called again, and no failure of a model, which
has retried by itself. Retries no model call: `ReliableChatOpenAI` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import openai
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.exceptions import ModelError
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from lc_service.retry.errors import classify
from lc_service.retry.policy import RetryWithExponentialBackoff, aretry_call, retry_call

ToolResult = ToolMessage | Command[Any]
OnFailure = Literal["raise", "tell"] | Callable[[Exception], str]
# Interrupts and budgets are no failures; a model's own were retried by the model.
_NOT_OURS = (GraphBubbleUp, ModelError, openai.OpenAIError)


@dataclass(frozen=True, slots=True)
class _Passing:
    """An exception that has to get past the policy."""

    error: Exception


class RetryMiddleware(AgentMiddleware[Any, Any, Any]):
    """Retry an agent's tools: what may succeed next time, after the wait that the server asks for.

    `policy` decides, as everywhere in this package: network failures, timeouts, 408, 409, 429 and 5xx of any
    HTTP library are retried, its Retry-After comes before the backoff, the deadline and the retry quota end
    it. Any other exception of a tool is retried where the policy's `retry_on` names it. Interrupts,
    `BudgetExceeded` and failures of model calls inside a tool are raised at once.

    A retried tool is called again with the same arguments: name those that may be, in `tools`, where some
    must not be called twice.

    Safe to share between agents, threads and event loops: they share the policy's quota.

    Args:
        policy: When and how often to try again; the default policy where None.
        tools: The tools that are retried, or their names; None for all.
        on_failure: What a tool's last failure becomes. `"raise"` raises it out of the agent. `"tell"` makes
            it the tool's result, for the model to go on with: the kind of failure, and nothing of its text,
            which may hold keys. A function of the exception returns that result's text.

    Attributes:
        tool_names: Names of the tools that are retried; None for all.

    Raises:
        ValueError: `on_failure` is something else.

    Example:
        >>> from lc_service import RetryWithExponentialBackoff
        >>> policy = RetryWithExponentialBackoff(max_retries=3, deadline_seconds=30)
        >>> retry = RetryMiddleware(policy, tools=["search"], on_failure="tell")
    """

    def __init__(
        self,
        policy: RetryWithExponentialBackoff | None = None,
        *,
        tools: Sequence[BaseTool | str] | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__()
        if on_failure not in ("raise", "tell") and not callable(on_failure):
            raise ValueError(f'on_failure must be "raise", "tell" or a function, not {on_failure!r}.')
        self.policy = policy or RetryWithExponentialBackoff()
        self.on_failure = on_failure
        self.tool_names = (
            None
            if tools is None
            else frozenset(tool if isinstance(tool, str) else tool.name for tool in tools)
        )

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolResult]
    ) -> ToolResult:
        """Call a tool, retried."""
        if not self._is_meant(request):
            return handler(request)

        def attempt() -> ToolResult | _Passing:
            try:
                return handler(request)
            except _NOT_OURS as error:
                return _Passing(error)

        try:
            result = retry_call(self.policy, attempt)
        except Exception as error:  # noqa: BLE001  whatever a tool raises
            return self._failed(request, error)
        return _unpacked(result)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolResult]]
    ) -> ToolResult:
        """Call a tool, retried; as `wrap_tool_call`. Cancellation passes through."""
        if not self._is_meant(request):
            return await handler(request)

        async def attempt() -> ToolResult | _Passing:
            try:
                return await handler(request)
            except _NOT_OURS as error:
                return _Passing(error)

        try:
            result = await aretry_call(self.policy, attempt)
        except Exception as error:  # noqa: BLE001  whatever a tool raises
            return self._failed(request, error)
        return _unpacked(result)

    def _is_meant(self, request: ToolCallRequest) -> bool:
        return self.tool_names is None or request.tool_call["name"] in self.tool_names

    def _failed(self, request: ToolCallRequest, error: Exception) -> ToolMessage:
        if self.on_failure == "raise":
            raise error
        content = self.on_failure(error) if callable(self.on_failure) else _told(request, error)
        return ToolMessage(
            content=content,
            name=request.tool_call["name"],
            tool_call_id=request.tool_call["id"],
            status="error",
        )


def _unpacked(result: ToolResult | _Passing) -> ToolResult:
    if isinstance(result, _Passing):
        raise result.error
    return result


def _told(request: ToolCallRequest, error: Exception) -> str:
    verdict = classify(error)
    status = "" if verdict.status_code is None else f", HTTP {verdict.status_code}"
    return f"The tool {request.tool_call['name']} failed: {type(error).__name__} ({verdict.kind}{status})."
