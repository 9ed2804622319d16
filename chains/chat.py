"""Answer the newest message of a conversation, with as much of what came before as the model takes.

The conversation comes with each call and goes back with the caller: LangChain has deprecated
`RunnableWithMessageHistory` in favour of LangGraph's checkpointers, and a chain whose input is a
graph's state is a node as it stands (docs/adr/0019). Nothing is stored or summarized here.
"""

from __future__ import annotations

from typing import Annotated, Any

from langchain_core.language_models import LanguageModelLike
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    convert_to_messages,
    trim_messages,
)
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from pydantic import AfterValidator, BeforeValidator, Field
from typing_extensions import TypedDict  # pydantic takes typing's own only from Python 3.12 on

from chains.fingerprint import as_task
from chains.material import CheckedInput, is_blank
from chains.window import Window, find_window

PROMPT_VERSION = "1"
_SYSTEM = """\
You are a helpful assistant. Answer accurately and to the point, in the language of the user. If \
you do not know something, say so instead of guessing."""
CHAT_PROMPT = ChatPromptTemplate([("system", _SYSTEM), ("placeholder", "{messages}")], name="chat_prompt")
_OWN_SYSTEM_PROMPT = ChatPromptTemplate(
    [("system", "{system}"), ("placeholder", "{messages}")], name="own_system_prompt"
)


class InputTooLongError(ValueError):
    """What cannot be left out of a conversation does not fit the model.

    Attributes:
        tokens: What the instructions, the newest human message and what it needs take.
        max_input_tokens: What the model takes, inclusive.
    """

    def __init__(self, tokens: int, max_input_tokens: int) -> None:
        super().__init__(tokens, max_input_tokens)
        self.tokens = tokens
        self.max_input_tokens = max_input_tokens

    def __str__(self) -> str:
        """Say both figures."""
        return (
            f"the newest message takes {self.tokens} tokens with its instructions, and the model "
            f"{self.max_input_tokens}: shorten it"
        )


def _read_messages(given: Any) -> Any:
    return convert_to_messages(given) if isinstance(given, list) else given


def _require_question(messages: list[BaseMessage]) -> list[BaseMessage]:
    asked = next((message for message in reversed(messages) if isinstance(message, HumanMessage)), None)
    if asked is None:
        raise ValueError("has no human message: there is nothing to answer")
    if isinstance(asked.content, str) and is_blank(asked.content):
        raise ValueError("ends with a human message that is empty: give it text; the call would be paid for")
    if messages[-1].type not in {"human", "tool"}:
        raise ValueError("ends with the model's own message: there is nothing to answer")
    return messages


class ChatInput(TypedDict):
    """A conversation, as the state of a LangGraph graph holds it."""

    messages: Annotated[
        list[AnyMessage],
        BeforeValidator(_read_messages),
        AfterValidator(_require_question),
        Field(description="The conversation so far, oldest first; the last is to be answered."),
    ]


def build_chat_chain(
    model: LanguageModelLike, *, system: str | None = None, max_input_tokens: int | None = None
) -> Runnable[ChatInput, AIMessage]:
    """Build a chain that answers a conversation.

    Where the conversation is longer than the model takes, its oldest turns are left out: whole
    turns, so no tool call is parted from its result. Instructions and the newest human message
    always stay. A turn of many tool calls keeps the newest of them.

    Args:
        model: Any chat model, also one dressed with `bind_tools` or `with_fallbacks`.
        system: Instructions instead of the chain's own; they are data, braces and all.
        max_input_tokens: The most tokens of a prompt, inclusive; `None` takes 90 % of what the
            model's profile says, and leaves out nothing where there is no profile.

    Returns:
        A chain from `ChatInput` to the model's message, with its usage, tool calls and
        `finish_reason` on it. It raises `ValueError` for a conversation without a question and
        `InputTooLongError` for a question that is too long, before the model is called.

    Raises:
        ValueError: `system` is blank, or `max_input_tokens` below one.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> chain = build_chat_chain(FakeListChatModel(responses=["You said: at noon."]))
        >>> messages = [("human", "The boat sails at noon."), ("ai", "Noted."), ("human", "When?")]
        >>> chain.invoke({"messages": messages}).text
        'You said: at noon.'
    """
    if system is not None and is_blank(system):
        raise ValueError("system is blank: write instructions, or pass None for the chain's own")
    prompt = CHAT_PROMPT if system is None else _OWN_SYSTEM_PROMPT.partial(system=system)
    window = find_window(model, max_input_tokens)
    checked = CheckedInput(ChatInput, _Trimming(prompt.format_messages(messages=[]), window))
    chain: Runnable[Any, AIMessage] = checked | prompt | model  # type: ignore[assignment]  # a chat model's message
    return as_task(chain, "chat", version=PROMPT_VERSION, input_type=ChatInput)


class _Trimming:
    """Leave out what does not fit; an object, so that the chain can be pickled."""

    def __init__(self, instructions: list[BaseMessage], window: Window | None) -> None:
        self._instructions = instructions
        self._window = window

    def __call__(self, value: ChatInput) -> dict[str, Any]:
        messages: list[BaseMessage] = list(value["messages"])
        if self._window is not None:
            messages = trim_conversation(messages, self._window, self._instructions)
        return {"messages": messages}


def trim_conversation(
    messages: list[BaseMessage], window: Window, instructions: list[BaseMessage]
) -> list[BaseMessage]:
    """Return the newest part of a conversation that fits, after `instructions` that are sent with it.

    Raises:
        InputTooLongError: The system messages at its start, its newest human message, and the last
            tool call where its result is to be answered, do not fit.
    """
    if window.fits([*instructions, *messages]):
        return messages
    start = next(i for i, message in enumerate(messages) if not isinstance(message, SystemMessage))
    newest = max(i for i, message in enumerate(messages) if isinstance(message, HumanMessage))
    kept, past, turn = messages[:start], messages[start:newest], messages[newest:]
    turn = _trim_turn(turn, window, [*instructions, *kept])

    def count(some: list[BaseMessage]) -> int:
        return window.count([*instructions, *kept, *some, *turn])

    past = trim_messages(past, max_tokens=window.max_tokens, token_counter=count, start_on="human")
    return [*kept, *past, *turn]


def _trim_turn(turn: list[BaseMessage], window: Window, instructions: list[BaseMessage]) -> list[BaseMessage]:
    """Leave out the oldest exchanges with tools: each is a message of the model with its results."""
    asked, *exchanges = turn
    starts = [i for i, message in enumerate(exchanges) if isinstance(message, AIMessage)]
    for start in [0, *(i for i in starts if i > 0)]:
        kept = [asked, *exchanges[start:]]
        if window.fits([*instructions, *kept]):
            return kept
    raise InputTooLongError(window.count([*instructions, *kept]), window.max_tokens)
