"""One shape for what chat completions and responses ask: messages, tools, the form of the answer.

Invariant: whatever JSON arrives, reading it ends in a `Prompt` or an `ApiError`, never in another
exception. It reads requests; it answers nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from lc_service.simulator.errors import ApiError
from lc_service.simulator.message import Message, dicts, function_of, message_of, read_item, read_message
from lc_service.simulator.tokens import (
    PRIMING_TOKENS,
    count_tokens,
)

MAX_CHOICES = 128
"""Answers one request may ask for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A function the model may call."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A request for text, whichever endpoint it came to.

    Attributes:
        model: As asked for.
        messages: In their order, instructions first.
        tools: The functions that may be called.
        tool_choice: `"auto"`, `"none"`, `"required"`.
        named_tools: With `"required"`, the tools to choose from; empty is all.
        is_parallel: Whether several tools may be called at once.
        json_schema: The answer's schema; None for text; an empty one for any JSON object.
        max_output_tokens: Reasoning included; None is unlimited.
        choice_count: Answers asked for.
        stop: Strings that end the answer.
        reasoning_tokens: What a reasoning model spends before each answer.
        input_tokens: Tokens of the whole prompt.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    named_tools: tuple[str, ...] = ()
    is_parallel: bool = True
    json_schema: Mapping[str, Any] | None = None
    max_output_tokens: int | None = None
    choice_count: int = 1
    stop: tuple[str, ...] = ()
    reasoning_tokens: int = 0
    input_tokens: int = 0
    request: Mapping[str, Any] = field(default_factory=dict)

    @property
    def admission_tokens(self) -> int:
        """What the rate limit charges: the prompt and all output asked for."""
        return self.input_tokens + (self.max_output_tokens or 0) * self.choice_count


def read_chat(request: Mapping[str, Any]) -> Prompt:
    """Read the body of a chat completion."""
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(
            400, "Missing required parameter: 'messages'.", param="messages",
            code="missing_required_parameter",
        )  # fmt: skip
    read = [read_message(message, index) for index, message in enumerate(messages)]
    form = request.get("response_format")
    schema = None
    if isinstance(form, dict):
        wrapper = form.get("json_schema")
        inner = wrapper.get("schema") if isinstance(wrapper, dict) else None
        schema = _read_format(form, inner)
    limit = request.get("max_completion_tokens")
    if limit is None:
        limit = request.get("max_tokens")
    stop = request.get("stop")
    effort = request.get("reasoning_effort")
    choice_count = _positive(request.get("n"), "n") or 1
    if choice_count > MAX_CHOICES:
        raise ApiError(
            400, f"Invalid 'n': integer above maximum value. Expected a value <= {MAX_CHOICES}, "
            f"but got {choice_count} instead.", param="n", code="integer_above_max_value",
        )  # fmt: skip
    return _prompt(
        request,
        read,
        schema,
        _positive(limit, "max_completion_tokens"),
        effort,
        choice_count=choice_count,
        stop=_strings(stop),
    )


def read_responses(request: Mapping[str, Any]) -> Prompt:
    """Read the body of a call of the Responses API."""
    given = request.get("input")
    messages: list[Message] = []
    instructions = request.get("instructions")
    if isinstance(instructions, str) and instructions:
        messages.append(message_of("system", instructions))
    if isinstance(given, str):
        messages.append(message_of("user", given))
    elif isinstance(given, list) and given:
        messages += [read_item(item) for item in dicts(given)]
    else:
        raise ApiError(
            400, "Missing required parameter: 'input'.", param="input",
            code="missing_required_parameter",
        )  # fmt: skip
    text = request.get("text")
    form = text.get("format") if isinstance(text, dict) else None
    schema = _read_format(form, form.get("schema")) if isinstance(form, dict) else None
    reasoning = request.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    limit = _positive(request.get("max_output_tokens"), "max_output_tokens")
    return _prompt(request, messages, schema, limit, effort)


def read_model(request: Mapping[str, Any]) -> str:
    """Return the model a request names."""
    model = request.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "you must provide a model parameter", param="model")
    return model


def _prompt(
    request: Mapping[str, Any],
    messages: list[Message],
    schema: Mapping[str, Any] | None,
    max_output_tokens: int | None,
    effort: object,
    *,
    choice_count: int = 1,
    stop: tuple[str, ...] = (),
) -> Prompt:
    model = read_model(request)
    tools = tuple(_read_tools(request.get("tools")))
    choice, named = _read_tool_choice(request.get("tool_choice"))
    known = {tool.name for tool in tools}
    if unknown := [name for name in named if name not in known]:
        raise ApiError(
            400, f"Tool choice '{unknown[0]}' not found in 'tools' parameter.", param="tool_choice"
        )
    if choice == "required" and not tools:
        raise ApiError(400, "'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice")
    tokens = PRIMING_TOKENS + sum(message.tokens for message in messages)
    for extra in (request.get("tools"), schema):
        if extra:
            tokens += count_tokens(orjson.dumps(extra).decode())
    return Prompt(
        model=model,
        messages=tuple(messages),
        tools=tools,
        tool_choice=choice,
        named_tools=named,
        is_parallel=request.get("parallel_tool_calls") is not False,
        json_schema=schema,
        max_output_tokens=max_output_tokens,
        choice_count=choice_count,
        stop=stop,
        reasoning_tokens=_reasoning_tokens(model, effort),
        input_tokens=tokens,
        request=request,
    )


_EFFORT_TOKENS = {"low": 64, "medium": 128, "high": 256, "xhigh": 512, "max": 1024}


def _reasoning_tokens(model: str, effort: object) -> int:
    is_reasoning = model.startswith(("gpt-5", "gpt-6")) or (model[:1] == "o" and model[1:2].isdigit())
    return _EFFORT_TOKENS.get(effort, 0) if is_reasoning and isinstance(effort, str) else 0


def _read_tools(tools: object) -> Iterable[Tool]:
    for tool in dicts(tools):
        function = function_of(tool)  # chat nests the function, responses lays it flat
        name = function.get("name")
        if isinstance(name, str) and name:
            parameters = function.get("parameters")
            yield Tool(name=name, parameters=parameters if isinstance(parameters, dict) else {})


def _read_tool_choice(
    choice: object,
) -> tuple[Literal["auto", "none", "required"], tuple[str, ...]]:
    if isinstance(choice, dict):
        if choice.get("type") == "allowed_tools":
            inner = choice.get("allowed_tools")
            allowed = inner if isinstance(inner, dict) else choice
            names = tuple(tool.name for tool in _read_tools(allowed.get("tools")))
            # allowed but not required: the model may still answer with text
            return ("required", names) if allowed.get("mode") == "required" else ("auto", names)
        name = function_of(choice).get("name")
        return "required", (name,) if isinstance(name, str) else ()
    if choice in ("any", "required"):  # it may be any JSON, lists too
        return "required", ()
    return ("none", ()) if choice == "none" else ("auto", ())


def _read_format(form: Mapping[str, Any], schema: object) -> Mapping[str, Any] | None:
    if form.get("type") == "json_schema":
        if not isinstance(schema, dict):
            raise ApiError(400, "Missing required parameter: the schema of 'json_schema'.",
                           param="response_format.json_schema.schema",
                           code="missing_required_parameter")  # fmt: skip
        return schema
    return {} if form.get("type") == "json_object" else None


def _positive(value: object, param: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ApiError(400, f"Invalid type for '{param}': expected an integer.", param=param,
                       code="invalid_type")  # fmt: skip
    if value < 1:
        raise ApiError(400, f"Invalid '{param}': integer below minimum value. Expected a value >= "
                       f"1, but got {value} instead.", param=param,
                       code="integer_below_min_value")  # fmt: skip
    return value


def _strings(given: object) -> tuple[str, ...]:
    several = given if isinstance(given, list) else [given]
    return tuple(item for item in several if isinstance(item, str) and item)
