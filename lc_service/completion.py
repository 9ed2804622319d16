"""What goes into the front door and what comes out of it, as plain values. Makes no call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from langchain_core.messages import AIMessage, BaseMessage, MessageLikeRepresentation, convert_to_messages
from langchain_core.outputs import ChatGeneration

from lc_service.accounting.reported import read_result
from lc_service.accounting.usage import TokenUsage


class ChatCompletion(TypedDict):
    """What `chat_completion` returns."""

    content: str
    role: str
    usage: dict[str, int]


Messages = str | Sequence[MessageLikeRepresentation]


def read_messages(messages: Messages) -> list[BaseMessage]:
    """Return messages as LangChain has them.

    Raises:
        ValueError: There are none, or they are not understood.
    """
    if isinstance(messages, (Mapping, BaseMessage)):  # their keys or fields would be read as messages
        raise _not_understood(messages)
    try:
        prompt = convert_to_messages([messages] if isinstance(messages, str) else messages)
    except (KeyError, NotImplementedError, TypeError, ValueError):
        # Not the error's own words: they quote the message.
        raise _not_understood(messages) from None
    if not prompt:
        raise ValueError("messages is empty: pass at least one message.")
    return prompt


def _not_understood(messages: object) -> ValueError:
    return ValueError(
        'messages is not understood: pass a list of dictionaries such as {"role": "user", "content": '
        f'"Hello"}} or of LangChain messages, or a string, not this {type(messages).__name__}.'
    )


def text_list(texts: Sequence[str]) -> list[str]:
    """Return texts as a list.

    Raises:
        TypeError: They are one string.
    """
    if isinstance(texts, str):
        raise TypeError("texts is one string: pass a list of texts, for instance embed([text]).")
    return list(texts)


def completion(message: AIMessage) -> ChatCompletion:
    """Return an answer as text, role and usage."""
    usage = read_result(None, [ChatGeneration(message=message)]).usage or TokenUsage()
    return ChatCompletion(
        # a plain string, LangChain's is a subclass; a refusal is what the model said instead
        content=str(message.text or message.additional_kwargs.get("refusal") or ""),
        role="assistant",
        usage={
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        },
    )
