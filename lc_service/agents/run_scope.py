"""What a middleware keeps during one run of an agent, and what it saves in the agent's state.

Invariant: two runs never share what is kept, and all steps of one run do, parallel tools included. A run is
one `invoke` or `stream`; one that resumes an interrupted run is another. Counts nothing itself.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Generic, Self, TypeVar, cast
from uuid import uuid4
from weakref import WeakValueDictionary

from langchain.agents.middleware import AgentMiddleware, ExtendedModelResponse, ModelRequest, ModelResponse
from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.messages import ToolMessage
from langgraph.runtime import ExecutionInfo
from langgraph.types import Command

Thread = tuple[str, str]
"""A thread's id, and the namespace of the agent's graph in it."""
MAX_UNFINISHED_THREADS = 4_096
ModelHandler = Callable[[ModelRequest[Any]], ModelResponse[Any]]
AsyncModelHandler = Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
ToolResult = ToolMessage | Command[Any]


class Live(str):
    """What is kept during a run, whose steps may run in several threads at once.

    A text, and no more than an id to whoever serialises it: langgraph shows untracked channels in its streams
    of values and updates.

    Attributes:
        account: What a thread has in common: the next run goes on with it where this one does not end well,
            or has not ended yet. None where runs have nothing in common.
    """

    is_in_state = False
    account: Any = None

    def __new__(cls, *_: object) -> Self:
        """Make one with an id of its own."""
        return super().__new__(cls, uuid4().hex)

    def __copy__(self) -> Self:
        return self  # a copy of the state is of the same run

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


L = TypeVar("L", bound=Live)


class _Step(Generic[L]):
    """A model call or a tool call of a run, and its result."""

    def __init__(self, live: L) -> None:
        self.live = live
        self.result: Any = None


class RunScopedMiddleware(AgentMiddleware[Any, Any, Any], Generic[L]):
    """Middleware that keeps something during a run, in the untracked channel `channel` of the state."""

    channel: str

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        # Steps of a resumed run that begin at once, before any could put the run into the state.
        self._resumed: WeakValueDictionary[Thread | None, L] = WeakValueDictionary()
        # Of threads with a run under way, failed, interrupted or left: not all of it is in a checkpoint.
        self._unfinished: OrderedDict[Thread, Any] = OrderedDict()

    @abstractmethod
    def _begin(self, state: Any, account: Any) -> L:
        """Begin a run; `account` is that of an unfinished one on this thread, or None."""

    @abstractmethod
    def _saved(self, live: L) -> dict[str, Any]:
        """Return what goes into the agent's state, and so into its checkpoints."""

    @abstractmethod
    def _inside(self, live: L) -> AbstractContextManager[Any]:
        """Return the block in which a model or a tool is called."""

    def _instead_of_answer(self, live: L, error: BaseException) -> ModelResponse[Any] | None:  # noqa: ARG002  a hook
        """Return what takes the place of an answer that `error` prevented; None raises it."""
        return None

    def _instead_of_result(
        self,
        live: L,  # noqa: ARG002  a hook
        error: BaseException,  # noqa: ARG002
        request: ToolCallRequest,  # noqa: ARG002
    ) -> ToolMessage | None:
        """Return what takes the place of a tool's result that `error` prevented; None raises it."""
        return None

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: ModelHandler
    ) -> ExtendedModelResponse[Any]:
        """Call the model inside the run."""
        with self._model_step(request) as step:
            step.result = handler(request)
        return self._answer(step)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: AsyncModelHandler
    ) -> ExtendedModelResponse[Any]:
        """Call the model inside the run."""
        with self._model_step(request) as step:
            step.result = await handler(request)
        return self._answer(step)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolResult]
    ) -> ToolResult:
        """Call a tool inside the run: what it asks of models, through other agents too, belongs to it."""
        with self._tool_step(request) as step:
            step.result = handler(request)
        return self._tool_result(step)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolResult]]
    ) -> ToolResult:
        """Call a tool inside the run; as `wrap_tool_call`."""
        with self._tool_step(request) as step:
            step.result = await handler(request)
        return self._tool_result(step)

    def _model_step(self, request: ModelRequest[Any]) -> AbstractContextManager[_Step[L]]:
        info = request.runtime.execution_info
        return self._step(self._live(request.state, info), info, self._instead_of_answer)

    def _tool_step(self, request: ToolCallRequest) -> AbstractContextManager[_Step[L]]:
        info = request.runtime.execution_info
        return self._step(
            self._live(request.state, info, is_tool=True),
            info,
            lambda live, error: self._instead_of_result(live, error, request),
        )

    @contextmanager
    def _step(
        self, live: L, info: ExecutionInfo | None, instead: Callable[[L, BaseException], Any]
    ) -> Iterator[_Step[L]]:
        step = _Step(live)
        try:
            with self._inside(live):
                yield step
        except BaseException as error:
            step.result = instead(live, error)
            if step.result is None:
                with self._lock:
                    self._resumed.pop(_thread(info), None)
                raise

    def _answer(self, step: _Step[L]) -> ExtendedModelResponse[Any]:
        return ExtendedModelResponse(
            model_response=step.result, command=Command(update=self._published(step.live))
        )

    def _published(self, live: L) -> dict[str, Any]:
        """Return the update that puts the run, and what it saves, into the state."""
        live.is_in_state = True
        return {**self._saved(live), self.channel: live}

    def _tool_result(self, step: _Step[L]) -> ToolResult:
        result: ToolResult = step.result
        if step.live.is_in_state:
            return result
        if isinstance(result, ToolMessage):
            return Command(update={"messages": [result], self.channel: step.live})
        if result.graph is None and isinstance(
            result.update, dict
        ):  # a tool's own, or another such middleware's
            return replace(result, update={**result.update, self.channel: step.live})
        return result

    def _live(self, state: Any, info: ExecutionInfo | None, *, is_tool: bool = False) -> L:
        """Return the run that a step with this `state` belongs to; the first step begins it."""
        known: Any = state.get(self.channel)
        thread = _thread(info)
        if isinstance(known, Live):
            if thread in self._resumed:  # the tools that began it are at their end
                with self._lock:
                    self._resumed.pop(thread, None)
            return cast("L", known)
        with self._lock:
            # Tools are a run's first step where it is resumed, and then several may begin at once.
            live: L | None = self._resumed.get(thread) if is_tool else None
            if live is None:
                live = self._begin(state, None if thread is None else self._unfinished.get(thread))
                self._note_unfinished(live, thread)
            if is_tool and thread is not None:
                self._resumed[thread] = live
            else:
                self._resumed.pop(thread, None)
        state[self.channel] = live  # the step's own copy: another middleware may repeat the step
        return live

    def _note_unfinished(self, live: L, thread: Thread | None) -> None:
        if thread is None or live.account is None:
            return
        self._unfinished[thread] = live.account
        self._unfinished.move_to_end(thread)
        if len(self._unfinished) > MAX_UNFINISHED_THREADS:
            self._unfinished.popitem(last=False)

    def _finish(self, live: L, info: ExecutionInfo | None) -> None:
        """Take note that what is saved of a run is all of it."""
        thread = _thread(info)
        with self._lock:
            if thread is not None and self._unfinished.get(thread) is live.account:
                self._unfinished.pop(thread, None)


def _thread(info: ExecutionInfo | None) -> Thread | None:
    """Return the thread that a node runs in, or None without a checkpointer: nothing can be resumed."""
    if info is None or info.thread_id is None:
        return None
    return info.thread_id, info.checkpoint_ns.rpartition("|")[0]
