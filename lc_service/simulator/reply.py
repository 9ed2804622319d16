"""Answer a prompt: text taken from the message, tool calls, JSON; then cut it into tokens.

Invariant: the same prompt gets the same answer, and a `Choice` knows its pieces, so plain and
streamed answers and the bill are made of the same thing. It knows no wire format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from lc_service.simulator.bill import Usage
from lc_service.simulator.errors import ApiError
from lc_service.simulator.material import CJK_ENDS, Material
from lc_service.simulator.message import Message
from lc_service.simulator.prompt import Prompt, Tool
from lc_service.simulator.schema import make_value
from lc_service.simulator.tokens import count_tokens, split_tokens

_CALL_TOKENS = 3  # what a tool call costs beyond its name and arguments
_SHORT_CHARACTERS = 160
_VAGUE = frozenset(
    (
        "a", "all", "and", "api", "any", "call", "create", "do", "for", "from", "function", "get",
        "give", "in", "list", "make", "my", "new", "of", "on", "or", "run", "set", "the", "to",
        "tool", "use", "with",
    )
)  # fmt: skip
_KEY = re.compile(r"['\"`]([A-Za-z_][\w-]{0,40})['\"`]")


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One call: its name, and its JSON arguments in pieces of one token."""

    name: str
    pieces: tuple[str, ...]

    @property
    def arguments(self) -> str:
        """The arguments as JSON text."""
        return "".join(self.pieces)

    @property
    def name_tokens(self) -> int:
        """Tokens of the call beyond its arguments."""
        return _CALL_TOKENS + count_tokens(self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of the answers to a prompt: text, or tool calls.

    Attributes:
        pieces: The text in pieces of one token.
        tool_calls: The calls; then there is no text.
        finish_reason: Why it ended.
        reasoning_tokens: Spent before the first piece.
    """

    pieces: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: Literal["stop", "length", "tool_calls"] = "stop"
    reasoning_tokens: int = 0

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)

    @property
    def visible_tokens(self) -> int:
        """Output tokens without reasoning."""
        calls = sum(call.name_tokens + len(call.pieces) for call in self.tool_calls)
        return len(self.pieces) + calls


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """All answers to one prompt."""

    prompt: Prompt
    choices: tuple[Choice, ...]

    @property
    def usage(self) -> Usage:
        """What the whole reply costs."""
        return self.usage_after(sum(choice.visible_tokens for choice in self.choices))

    def usage_after(self, visible_tokens: int) -> Usage:
        """Return what the reply costs when it ends after `visible_tokens` of output."""
        reasoning = sum(choice.reasoning_tokens for choice in self.choices)
        return Usage(
            input_tokens=self.prompt.input_tokens,
            output_tokens=reasoning + visible_tokens,
            reasoning_tokens=reasoning,
        )


def compose(prompt: Prompt) -> Reply:
    """Answer a prompt."""
    context = _Context(prompt)
    choices = tuple(_choice(context, variant) for variant in range(prompt.choice_count))
    return Reply(prompt=prompt, choices=choices)


class _Context:
    """What an answer is made from: the user's last message, and tool results after it."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        messages = prompt.messages
        asked = [i for i, m in enumerate(messages) if m.role == "user"]
        start = asked[-1] if asked else 0
        self.turn: tuple[Message, ...] = messages[start:]
        self.question = messages[start].text if messages else ""
        last = messages[-1] if messages else None
        self.result = last.text if last and last.role in {"tool", "function"} else None
        self.is_users_turn = bool(last and last.role == "user")
        text = self.question if self.result is None else f"{self.question}\n{self.result}"
        self.material = Material(text)


def _choice(context: _Context, variant: int) -> Choice:
    prompt = context.prompt
    limit = prompt.max_output_tokens
    reasoning = prompt.reasoning_tokens if limit is None else min(prompt.reasoning_tokens, limit)
    room = None if limit is None else limit - reasoning
    tools = _tools_to_call(context)
    if tools:
        calls = [_call(tool, context.material, variant) for tool in tools]
        return _fit_calls(calls, room, reasoning)
    text = _write(context, variant)
    for stop in prompt.stop:
        text = text.split(stop, 1)[0]
    pieces = tuple(split_tokens(text))
    is_cut = room is not None and len(pieces) > room
    return Choice(
        pieces=pieces[:room],
        finish_reason="length" if is_cut else "stop",
        reasoning_tokens=reasoning,
    )


def _write(context: _Context, variant: int) -> str:
    schema = context.prompt.json_schema
    if schema:
        return _fill(schema, context.material, variant)
    if schema is not None:
        return _dumps(_free_object(context, variant))
    if context.result is not None:
        result = Material(context.result)
        told = context.result.strip() if len(result.text) <= _SHORT_CHARACTERS else result.summary()
        return f"According to the tool: {told}" if told else "The tool returned nothing."
    text = context.material.text
    if len(context.material.sentences) > 1 or len(text) > _SHORT_CHARACTERS:
        return context.material.summary(variant)
    if not text:
        return "There was no text to answer; this is a simulated reply."
    said = "asked" if text.endswith(("?", "؟", CJK_ENDS[2])) else "said"
    again = f" (answer {variant + 1})" if variant else ""
    return f"You {said}: “{text}” This is a simulated answer{again}, the same every time."


def _free_object(context: _Context, variant: int) -> dict[str, Any]:
    """Make an object for JSON mode: with the keys the messages quote, if they quote any."""
    asked = "\n".join(m.text for m in context.prompt.messages if m.role != "assistant")
    keys = list(dict.fromkeys(_KEY.findall(asked)))
    summary = context.material.summary(variant) or "There was no text to answer."
    if not keys:
        return {"answer": summary, "keywords": context.material.keywords[:5]}
    schema = {"type": "object", "properties": {key: {"type": "string"} for key in keys}}
    made = make_value(schema, context.material, variant)
    # the quoted keys are also the text's "names": the summary says more than a key's own name
    return {key: summary if made[key] in keys else made[key] for key in keys}


def _tools_to_call(context: _Context) -> list[Tool]:
    prompt = context.prompt
    tools = [t for t in prompt.tools if not prompt.named_tools or t.name in prompt.named_tools]
    if not tools or prompt.tool_choice == "none":
        return []
    if prompt.tool_choice == "required":
        if len(tools) == 1:
            return tools
        called = {name for message in context.turn for name in message.called_tools}
        if not called:
            return _mentioned(tools, context)[:1] or tools[:1]
        # one step further each time: an agent whose last tool hands over its answer comes to an end
        return [tool for tool in tools if tool.name not in called][-1:] or tools[-1:]
    if not context.is_users_turn:
        return []
    found = _mentioned(tools, context)
    return found if prompt.is_parallel else found[:1]


def _mentioned(tools: list[Tool], context: _Context) -> list[Tool]:
    """Return the tools the user's message mentions, by full name, or else by a word of it."""
    text = context.question[:4000].lower()
    tokens = set(re.findall(r"[\w-]+", text))
    if named := [tool for tool in tools if tool.name.lower() in tokens]:
        return named
    spoken = {_stem(word) for word in re.findall(r"[^\W_]+", text)}
    found: list[Tool] = []
    candidates = list(tools)
    while candidates:
        # the best match takes its words with it: get_weather is not called for "weather forecast"
        hits = [_words(tool.name) & spoken for tool in candidates]
        best = max(range(len(hits)), key=lambda i: len(hits[i]))
        if not hits[best]:
            break
        found.append(candidates.pop(best))
        spoken -= hits[best]
    return [tool for tool in tools if tool in found]


def _words(name: str) -> set[str]:
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).lower()
    return {_stem(word) for word in re.findall(r"[^\W_]+", spaced) if word not in _VAGUE}


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _call(tool: Tool, material: Material, variant: int) -> ToolCall:
    arguments = _fill({"type": "object", **tool.parameters}, material, variant)
    return ToolCall(name=tool.name, pieces=tuple(split_tokens(arguments)))


def _fill(schema: Mapping[str, Any], material: Material, variant: int) -> str:
    try:
        return _dumps(make_value(schema, material, variant))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        # whatever a schema gets wrong, keyword by keyword, is its author's mistake: a 400
        raise ApiError(400, f"Invalid schema: {error}", code="invalid_json_schema") from error


def _fit_calls(calls: list[ToolCall], room: int | None, reasoning: int) -> Choice:
    kept: list[ToolCall] = []
    left = room
    is_cut = False
    for call in calls:
        if left is not None:
            left -= call.name_tokens
            is_cut = left < len(call.pieces)
            if left < 0:
                break
            call = ToolCall(name=call.name, pieces=call.pieces[:left])  # noqa: PLW2901
            left -= len(call.pieces)
        kept.append(call)
        if is_cut:
            break
    return Choice(
        tool_calls=tuple(kept),
        finish_reason="length" if is_cut else "tool_calls",
        reasoning_tokens=reasoning,
    )


def _dumps(value: object) -> str:
    return orjson.dumps(value).decode()
