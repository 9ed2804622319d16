"""Messages of a prompt, from the shapes in which chat completions and responses send them.

Invariant: any content is read, however strange: what is not text counts as media, never as an
error. Only a message that is no object, or has no known role, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lc_service.simulator.errors import ApiError
from lc_service.simulator.tokens import MEDIA_TOKENS, MESSAGE_TOKENS, count_tokens

ROLES = ("assistant", "developer", "function", "system", "tool", "user")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message: who said what, which tools it called or whose result it is."""

    role: str
    text: str = ""
    called_tools: tuple[str, ...] = ()
    tokens: int = 0


def read_message(message: object, index: int) -> Message:
    """Read a message of a chat completion, the one at `index`."""
    if not isinstance(message, dict):
        raise ApiError(400, f"Invalid type for 'messages[{index}]': expected an object.",
                       param=f"messages[{index}]", code="invalid_type")  # fmt: skip
    role = message.get("role")
    if role not in ROLES:
        raise ApiError(400, f"Invalid value: {role!r}. Supported values are: "
                       f"{', '.join(ROLES)}.", param=f"messages[{index}].role",
                       code="invalid_value")  # fmt: skip
    called: list[str] = []
    tokens = 0
    for call in dicts(message.get("tool_calls")):
        function = function_of(call)
        called.append(str(function.get("name") or ""))
        tokens += count_tokens(called[-1]) + count_tokens(str(function.get("arguments") or ""))
    return message_of(str(role), message.get("content"), tuple(called), tokens)


def read_item(item: Mapping[str, Any]) -> Message:
    """Read an input item of the Responses API."""
    kind = item.get("type", "message")
    if kind == "function_call":
        name = str(item.get("name") or "")
        tokens = count_tokens(name) + count_tokens(str(item.get("arguments") or ""))
        return message_of("assistant", None, (name,), tokens)
    if kind == "function_call_output":
        return message_of("tool", item.get("output"))
    if kind == "message":
        return message_of(str(item.get("role") or "user"), item.get("content"))
    return message_of("assistant", None)  # reasoning and built-in tools leave no text


def message_of(role: str, content: object, called: tuple[str, ...] = (), call_tokens: int = 0) -> Message:
    """Return a message with its tokens counted.

    Args:
        role: Who speaks.
        content: A text or a list of parts.
        called: Names of the tools it calls.
        call_tokens: Tokens of these calls.
    """
    if isinstance(content, str):
        text, media = content, 0
    else:
        text, media = _read_parts(content)
    return Message(
        role=role,
        text=text,
        called_tools=called,
        tokens=MESSAGE_TOKENS + count_tokens(text) + media * MEDIA_TOKENS + call_tokens,
    )


def _read_parts(content: object) -> tuple[str, int]:
    """Return the text of a list of content parts, and how many parts are not text."""
    texts: list[str] = []
    media = 0
    for part in content if isinstance(content, list) else ():
        text = part.get("text", part.get("refusal")) if isinstance(part, dict) else part
        if isinstance(text, str):
            texts.append(text)
        else:
            media += 1
    return "\n".join(texts), media


def function_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the function of a tool, nested (chat completions) or flat (responses)."""
    function = tool.get("function")
    return function if isinstance(function, dict) else tool


def dicts(items: object) -> list[dict[str, Any]]:
    """Return the objects of a JSON array; of anything else, none."""
    return [i for i in items if isinstance(i, dict)] if isinstance(items, list) else []
