"""`BudgetMiddleware`: an agent that cannot spend more than it was given.

Invariant: room is reserved before each HTTP attempt of every model that the agent and its tools call, so that
a runaway agent stops at its limit. Retries nothing, and changes no message that the model wrote.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Literal, get_args
from uuid import uuid4

from langchain.agents.middleware import ModelRequest, ModelResponse, hook_config
from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable
from langgraph.runtime import Runtime

from lc_service.accounting.budget import Budget
from lc_service.accounting.budget.exceeded import BudgetExceeded
from lc_service.accounting.held import hold_to
from lc_service.agents.foreign_calls import foreign_calls
from lc_service.agents.live_budget import LiveBudget, RunBudgetState, ThreadBudgetState, read, told
from lc_service.agents.run_scope import RunScopedMiddleware

logger = logging.getLogger(__name__)
Scope = Literal["run", "thread"]
OnExceeded = Literal["end", "raise"]


class BudgetMiddleware(RunScopedMiddleware[LiveBudget]):
    """Hold an agent to USD, tokens or HTTP requests, for each run or for each thread.

    Counted and held is whatever the agent's model and its tools ask of models of this package, attempt by
    attempt: retries, embeddings, and agents inside of tools. Room is reserved before an attempt is sent, so
    the limit of requests is never exceeded, and the others as little as `Budget` says; with `strict=True`
    not at all. What another middleware asks in a hook of its own, such as `SummarizationMiddleware`, is
    charged when it has been answered and never refused: the agent's next request is. So is what models of
    others are asked by a tool or in place of the agent's own, by `ModelFallbackMiddleware` for one: a request
    each call, and the usage that they tell.

    A run is one `invoke` or `stream`; resuming an interrupted run is another one. A thread's sum is kept in
    the agent's state, so it needs a checkpointer. What is in no checkpoint, spent by a step that failed, a
    stream that was left or another run of the thread at once, this object knows; another process does not.

    One object serves any number of runs, threads and event loops at once. Give an agent two of them to
    limit both its runs and its threads.

    Args:
        usd: The most in USD; None for no limit. A float means what it looks like.
        tokens: The most tokens, input and output together; None for no limit.
        requests: The most HTTP requests to models, retries counted; None for no limit.
        per: `"run"` or `"thread"`.
        strict: As for `Budget`: set aside the most that each request allows. Needs `max_tokens`.
        on_exceeded: `"end"` ends the run with what it has: a tool that was refused a model call gets an
            error as its result, so that no tool call stays open, and the last message is an AIMessage whose
            `response_metadata["finish_reason"]` is `"budget_exceeded"`; with a `response_format` there is no
            `structured_response` then. `"raise"` raises `BudgetExceeded` out of the agent; with a
            checkpointer the run can be resumed, by the same graph with a larger budget.

    Attributes:
        limit: What it allows, for each run or thread.
        channel: Where the agent's state keeps the budget while it runs.

    Raises:
        ValueError: There is no limit, or one that is none, or another argument is wrong.
        TypeError: At the first call, where the agent's own model is none of this package: it would not ask.
        BudgetExceeded: As described; of a budget around this agent, or of a model's own, in any case.

    Example:
        >>> from langchain.agents import create_agent
        >>> from lc_service import ReliableChatOpenAI
        >>> model = ReliableChatOpenAI(model="gpt-5.4-mini", api_key="sk-...")
        >>> limits = [BudgetMiddleware(requests=20), BudgetMiddleware(usd="0.50", per="thread")]
        >>> agent = create_agent(model, [], middleware=limits)
    """

    def __init__(
        self,
        usd: Decimal | str | float | None = None,
        tokens: int | None = None,
        *,
        requests: int | None = None,
        per: Scope = "run",
        strict: bool = False,
        on_exceeded: OnExceeded = "end",
    ) -> None:
        super().__init__()
        if per not in get_args(Scope):
            raise ValueError(f'per must be "run" or "thread", not {per!r}.')
        if on_exceeded not in get_args(OnExceeded):
            raise ValueError(f'on_exceeded must be "end" or "raise", not {on_exceeded!r}.')
        self.limit = Budget(usd, tokens, requests=requests).limit
        self.per = per
        self.strict = strict
        self.on_exceeded = on_exceeded
        self._is_warned = False
        self.channel = f"live_{per}_budget"
        self.state_schema = RunBudgetState if per == "run" else ThreadBudgetState

    @property
    def name(self) -> str:
        """The middleware's name: another one for threads, so that an agent may have both."""
        return "BudgetMiddleware" if self.per == "run" else "ThreadBudgetMiddleware"

    def before_agent(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Begin to count what other middleware asks."""
        info = runtime.execution_info
        if self.per == "thread" and not self._is_warned and (info is None or info.thread_id is None):
            self._is_warned = True
            logger.warning(
                'BudgetMiddleware(per="thread") holds each run by itself: this agent has no checkpointer '
                "that would keep its thread's sum. This is logged once."
            )
        return self._published(self._live(state, info))

    async def abefore_agent(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Do as `before_agent`."""
        return self.before_agent(state, runtime)

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Save what was spent, and end the run if the budget said no since the last answer."""
        live = self._live(state, runtime.execution_info)
        update = self._published(live)
        if live.refusal is None:
            return update
        if not live.is_told:
            update["messages"] = [self._last_word(live, live.refusal)]
        return {**update, "jump_to": "end"}

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Do as `before_model`."""
        return self.before_model(state, runtime)

    def after_agent(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Save what the last tools spent, and say so where they were refused and no model follows them."""
        live = self._live(state, runtime.execution_info)
        self._finish(live, runtime.execution_info)
        update = self._published(live)
        if live.refusal is not None and not live.is_told:
            update["messages"] = [self._last_word(live, live.refusal)]
        return update

    async def aafter_agent(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Do as `after_agent`."""
        return self.after_agent(state, runtime)

    def _begin(self, state: Any, account: Any) -> LiveBudget:
        limit = self.limit
        budget: Budget = account or Budget(
            limit.usd,
            limit.tokens,
            self.strict,
            requests=limit.requests,
            name=f"of the agent's {self.per} ({uuid4().hex[:8]})",  # by which a refusal is known as its own
        )
        if self.per == "run":
            return LiveBudget(budget, None)
        live = LiveBudget(budget, budget)
        known = live.taken
        budget.spend(read(state.get("thread_spent")).or_more(known) - known)
        return live

    def _saved(self, live: LiveBudget) -> dict[str, Any]:
        return {} if self.per == "run" else {"thread_spent": told(live.taken)}

    @contextmanager
    def _inside(self, live: LiveBudget) -> Iterator[None]:
        with hold_to(live.budget), foreign_calls(live.spend):
            yield

    def _model_step(self, request: ModelRequest[Any]) -> Any:
        if not _asks(request.model):
            raise TypeError(
                f"BudgetMiddleware cannot hold {type(request.model).__name__}: it does not ask before it "
                "sends. Give the agent a ReliableChatOpenAI, such as OpenAIService(...).chat_model."
            )
        return super()._model_step(request)

    def _instead_of_answer(self, live: LiveBudget, error: BaseException) -> ModelResponse[Any] | None:
        if not self._ends(live, error):
            return None
        return ModelResponse(result=[self._last_word(live, error)])

    def _instead_of_result(
        self, live: LiveBudget, error: BaseException, request: ToolCallRequest
    ) -> ToolMessage | None:
        if not self._ends(live, error):
            return None
        return ToolMessage(
            content="The tool was stopped: the budget was used up.",
            name=request.tool_call["name"],
            tool_call_id=request.tool_call["id"],
            status="error",
        )

    def _ends(self, live: LiveBudget, error: BaseException) -> bool:
        """Say whether `error` is this budget's own refusal and the run is to end with what it has."""
        if (
            self.on_exceeded == "raise"
            or not isinstance(error, BudgetExceeded)
            or error.budget != live.budget.name
        ):
            return False
        live.refusal = error
        return True

    def _last_word(self, live: LiveBudget, refusal: BaseException) -> AIMessage:
        live.is_told = True
        spent = live.budget.spent
        facts = {"per": self.per, "limit": told(self.limit), "spent": told(spent)}
        if isinstance(refusal, BudgetExceeded):
            facts["requested"] = told(refusal.requested)
        return AIMessage(
            content=f"The budget of this {self.per} is used up. It ends here, with what it has.",
            response_metadata={"finish_reason": "budget_exceeded", "budget": facts},
        )


def _asks(model: Any) -> bool:
    """Say whether a model asks budgets: one of this package, configurable or bound or not."""
    while isinstance(model, (DynamicRunnable, RunnableBindingBase)):
        model = model.default if isinstance(model, DynamicRunnable) else model.bound
    return "budget" in getattr(type(model), "model_fields", ())
