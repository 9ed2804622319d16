"""How `create_agent` and langgraph run middleware: what `lc_service.agents` leans on."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Annotated, Any, NotRequired

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, AgentState, ExtendedModelResponse, hook_config
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command

THREAD: Any = {"configurable": {"thread_id": "1"}}
ASK: Any = {"messages": [("user", "look_up it")]}


def look_up(word: str) -> str:
    """Look a word up."""
    return word


class KeptState(AgentState[Any]):
    kept: NotRequired[Annotated[object, UntrackedValue(object, guard=False), PrivateStateAttr]]
    saved: NotRequired[Annotated[int, PrivateStateAttr]]


class Keeping(AgentMiddleware):
    """Puts an object into an untracked channel, and notes where it sees what."""

    state_schema = KeptState

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Any]] = []
        self.infos: list[Any] = []

    def before_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        self._note("before_model", state, runtime)
        return {"kept": state.get("kept") or object()}

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        self._note("model", request.state, request.runtime)
        command = Command(update={"saved": request.state.get("saved", 0) + 1})
        return ExtendedModelResponse(model_response=handler(request), command=command)

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        self._note("tool", request.state, request.runtime)
        return Command(update={"messages": [handler(request)], "kept": request.state["kept"]})

    def after_agent(self, state: Any, runtime: Any) -> None:
        self._note("after_agent", state, runtime)

    def _note(self, where: str, state: Any, runtime: Any) -> None:
        self.seen.append((where, state.get("kept")))
        self.infos.append(runtime.execution_info)


def test_an_untracked_value_lives_for_one_run_and_is_in_no_checkpoint(simulate, chat):
    """An `UntrackedValue` channel reaches all nodes and tools of a run, no checkpoint and no other run.

    Ours: `agents/run_scope.py` keeps a run's budget and usage in one.
    """
    keeping = Keeping()
    agent = create_agent(chat(simulate()), [look_up], middleware=[keeping], checkpointer=InMemorySaver())
    agent.invoke(ASK, THREAD)
    places = ["before_model", "model", "tool", "before_model", "model", "after_agent"]
    assert [where for where, _ in keeping.seen] == places
    (first,) = {kept for _, kept in keeping.seen[1:]}
    assert first is not None
    assert "kept" not in agent.get_state(THREAD).values
    agent.invoke(ASK, THREAD)
    assert keeping.seen[6] == ("before_model", None)
    assert keeping.seen[7][1] is not first


def test_a_command_of_a_wrapped_call_updates_the_state(simulate, chat):
    """The `Command` of an `ExtendedModelResponse`, and one in place of a ToolMessage, update any channel.

    Ours: `agents/run_scope.py` saves what was spent with each answer.
    """
    agent = create_agent(chat(simulate()), [look_up], middleware=[Keeping()], checkpointer=InMemorySaver())
    state = agent.invoke(ASK, THREAD)
    assert agent.get_state(THREAD).values["saved"] == 2
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]


def test_a_node_knows_its_thread_and_its_graphs_namespace(simulate, chat):
    """`execution_info` of nodes and of tools has the thread's id; the namespace ends in the node's own part.

    Ours: `agents/run_scope.py` remembers broken and resumed runs by both.
    """
    keeping = Keeping()
    agent = create_agent(chat(simulate()), [look_up], middleware=[keeping])
    builder = (
        StateGraph(MessagesState).add_node("agent", agent).add_edge(START, "agent").add_edge("agent", END)
    )
    builder.compile(checkpointer=InMemorySaver()).invoke(ASK, THREAD)
    assert {info.thread_id for info in keeping.infos} == {"1"}
    (outer,) = {info.checkpoint_ns.rpartition("|")[0] for info in keeping.infos}
    assert outer.startswith("agent:")
    keeping.infos.clear()
    agent.invoke(ASK)
    assert {info.checkpoint_ns.rpartition("|")[0] for info in keeping.infos} == {""}
    assert {info.thread_id for info in keeping.infos} == {None}


inside: ContextVar[str] = ContextVar("inside", default="")


class Setting(AgentMiddleware):
    """Sets a context variable around calls, and before the run."""

    def before_agent(self, state: Any, runtime: Any) -> None:
        inside.set("before_agent")

    async def abefore_agent(self, state: Any, runtime: Any) -> None:
        inside.set("before_agent")

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        inside.set("model")
        return handler(request)

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        inside.set("model")
        return await handler(request)

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        inside.set("tool")
        return handler(request)

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        inside.set("tool")
        return await handler(request)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_context_variable_reaches_what_is_called_in_its_node_and_no_other_node(
    is_async, simulate, chat
):
    """What a wrapper sets in the context is seen by the call it wraps, agents in tools included; hooks have
    contexts of their own, so what they set is seen by nobody.

    Ours: `hold_to` and `track_usage` around each call in `agents/run_scope.py`; another middleware's own
    model, called in a hook, is not reached.
    """
    seen: list[tuple[str, str]] = []

    class Seeing(AgentMiddleware):
        def __init__(self, where: str) -> None:
            super().__init__()
            self.where = where

        def before_model(self, state: Any, runtime: Any) -> None:
            seen.append((f"{self.where}.before_model", inside.get()))

        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            seen.append((f"{self.where}.model", inside.get()))
            return handler(request)

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            seen.append((f"{self.where}.model", inside.get()))
            return await handler(request)

    model = chat(simulate())
    inner = create_agent(model, [], middleware=[Seeing("inner")])

    def ask_tom(question: str) -> str:
        """Ask Tom."""
        return inner.invoke(ASK)["messages"][-1].text

    agent = create_agent(model, [ask_tom], middleware=[Setting(), Seeing("outer")])
    given: Any = {"messages": [("user", "ask_tom")]}
    await agent.ainvoke(given) if is_async else agent.invoke(given)
    once = [("outer.before_model", ""), ("outer.model", "model")]
    assert seen == [*once, ("inner.before_model", "tool"), ("inner.model", "tool"), *once]
    assert inside.get() == ""


class Refusing(AgentMiddleware):
    """Refuses the model, and counts how often it is asked."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error
        self.calls: list[str] = []

    def before_agent(self, state: Any, runtime: Any) -> None:
        self.calls.append("before_agent")

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        self.calls.append("model")
        if self.error is not None:
            raise self.error
        return handler(request)


def test_a_run_that_bubbled_up_is_resumed_at_the_same_node(simulate, chat):
    """A `GraphBubbleUp` out of a node leaves the state before it; `invoke(None)` begins with that node.

    Ours: `BudgetExceeded` can be followed by a run with a larger budget; `agents/run_scope.py` begins a
    resumed run in whichever step comes first.
    """
    saver = InMemorySaver()
    refusing = Refusing(GraphBubbleUp())
    agent = create_agent(chat(simulate()), [look_up], middleware=[refusing], checkpointer=saver)
    with pytest.raises(GraphBubbleUp):
        agent.invoke(ASK, THREAD)
    snapshot = agent.get_state(THREAD)
    assert snapshot.next == ("model",)
    assert [task.error for task in snapshot.tasks] == [None]
    refusing.error = None
    assert len(agent.invoke(None, THREAD)["messages"]) == 4
    assert refusing.calls == ["before_agent", "model", "model", "model"]


class Ending(AgentMiddleware):
    """Ends a run before its first model call."""

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        return {"jump_to": "end", "messages": [AIMessage("ended")]}

    def after_agent(self, state: Any, runtime: Any) -> dict[str, Any]:
        last = state["messages"][-1]
        return {"messages": [last.model_copy(update={"response_metadata": {"seen": True}})]}


def test_a_jump_to_the_end_passes_after_agent_which_may_replace_a_message(simulate, chat):
    """`jump_to: "end"` goes through `after_agent`; a message with the same id takes the place of the old one.

    Ours: `BudgetMiddleware` ends runs this way, `UsageMiddleware` marks the last message this way.
    """
    sim = simulate()
    state = create_agent(chat(sim), [], middleware=[Ending()]).invoke(ASK)
    assert [message.text for message in state["messages"]] == ["look_up it", "ended"]
    assert state["messages"][-1].response_metadata == {"seen": True}
    assert sim.requests == []


def test_an_answer_may_be_given_without_the_model(simulate, chat):
    """`wrap_model_call` may return an AIMessage of its own, `wrap_tool_call` a ToolMessage; the run goes on.

    Ours: `BudgetMiddleware(on_exceeded="end")` answers in place of what was refused.
    """

    class Standing(AgentMiddleware):
        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            return ToolMessage("stopped", tool_call_id=request.tool_call["id"], status="error")

    state = create_agent(chat(simulate()), [look_up], middleware=[Standing()]).invoke(ASK)
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert state["messages"][2].status == "error"
