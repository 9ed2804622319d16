"""What a chat call asks for, read from the model and the options of the call, for those who account for it.

Invariant: a prompt that may hold more than is seen here teaches nothing, and no count of bytes bounds it.
Reads; changes nothing that is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import openai
from langchain_core.messages import BaseMessage, convert_to_openai_messages
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import BaseModel

from lc_service.accounting.prompt import PromptEstimate, estimate_prompt, max_prompt_tokens
from lc_service.accounting.tokenizer import TokenEstimator
from lc_service.models.request import Request

_MAX_TOKENS_OPTIONS = ("max_completion_tokens", "max_tokens", "max_output_tokens")

# Options that add nothing to the prompt. An allowlist: what is new may add anything.
_SILENT_OPTIONS = frozenset(
    {
        "background", "extra_headers", "extra_query", "frequency_penalty", "function_call", "include",
        "logit_bias", "logprobs", "max_tool_calls", "metadata", "model", "n", "parallel_tool_calls",
        "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning",
        "reasoning_effort", "safety_identifier", "seed", "service_tier", "stop", "store", "stream",
        "stream_options", "strict", "temperature", "timeout", "tool_choice", "top_logprobs", "top_p", "user",
        "verbosity", *_MAX_TOKENS_OPTIONS,
    }
)  # fmt: skip
_SEEN_TOOLS = ("function", "custom")


def chat_request(
    model: BaseChatOpenAI,
    estimator: TokenEstimator,
    messages: Sequence[BaseMessage],
    options: Mapping[str, Any],
    *,
    asked_model: str | None = None,
    is_stream: bool = False,
) -> Request:
    """Describe the call that `model` makes of `messages` with `options`.

    `asked_model` is what it asks for where the options do not say; None for its `model_name`.
    """
    said = _wire_options(model, options, is_stream=is_stream)
    choices = int(said.get("n") or 1)
    profile = model.profile or {}
    limits = [int(said[name]) for name in _MAX_TOKENS_OPTIONS if said.get(name)]
    asked = max(limits, default=None)
    longest = profile.get("max_output_tokens") if asked is None else asked
    has_earlier = model.use_previous_response_id and any(m.response_metadata.get("id") for m in messages)

    def measure() -> PromptEstimate:
        extras = _Extras(said)
        estimate = estimate_prompt(
            estimator, [*extras.messages, *wire_messages(messages)], extras.tools, extras.answer_schema
        )
        # A server that cuts prompts short bills less than was sent.
        teaches = extras.is_whole and not has_earlier and said.get("truncation") in (None, "disabled")
        return estimate if teaches else PromptEstimate(estimate.tokens, 0)

    def bound() -> int | None:
        most: int | None = profile.get("max_input_tokens")
        extras = _Extras(said)
        if not extras.is_whole or has_earlier:
            return most
        sent = [*extras.messages, *wire_messages(messages)]
        bounds = (max_prompt_tokens(sent, extras.tools, extras.answer_schema), most)
        return min((each for each in bounds if each is not None), default=None)

    return Request(
        model=str(said.get("model") or asked_model or model.model_name),
        estimator=estimator,
        measure=measure,
        bound=bound,
        max_output_tokens=longest and longest * choices,
        asked_output_tokens=asked and asked * choices,
        choices=choices,
        service_tier=said.get("service_tier"),
        is_stream=is_stream,
        server=getattr(model.root_async_client or model.root_client, "base_url", None),
        parameters={**said, "max_tokens": longest, "n": choices},
    )


def wire_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return messages as Chat Completions takes them."""
    wire = convert_to_openai_messages(messages)
    return wire if isinstance(wire, list) else [wire]


def _wire_options(model: BaseChatOpenAI, options: Mapping[str, Any], *, is_stream: bool) -> dict[str, Any]:
    """Return all that is sent beside the messages, from the model's fields and the call's options.

    LangChain itself is asked: which of several `max_tokens` wins, and what an answer's schema turns into,
    depends on the API that it picks.
    """
    asked = {**options, "stream": True} if is_stream else dict(options)
    try:
        said = model._get_request_payload([], **asked)  # noqa: SLF001  a contract test watches it
    except Exception:  # noqa: BLE001  a subclass may need messages; what is wrong LangChain says when it sends
        return {**asked, "unreadable": True}  # as any unknown option: no bound, and nothing is learnt
    for name in ("messages", "input"):
        said.pop(name, None)
    extra = said.pop("extra_body", None)  # the SDK lays it over all the rest
    return {**said, **(extra or {})}


class _Extras:
    """What a request's options add to its prompt, shaped as Chat Completions has it.

    `is_whole` tells whether that is all they add.
    """

    def __init__(self, said: Mapping[str, Any]) -> None:
        self.messages: list[dict[str, Any]] = []
        self.tools: list[Mapping[str, Any]] = []
        self.answer_schema: Mapping[str, Any] | None = None
        self.is_whole = True
        readers: dict[str, Callable[[Any], bool]] = {
            "functions": self._read_functions,
            "instructions": self._read_instructions,
            "modalities": self._read_modalities,
            "response_format": self._read_format,
            "text": self._read_text,
            "text_format": self._read_format,
            "tools": self._read_tools,
            "truncation": lambda _: True,  # makes a prompt shorter at most
        }
        for name, value in said.items():
            if value is None or name in _SILENT_OPTIONS:
                continue
            try:
                is_read = name in readers and readers[name](value)
            except Exception:  # noqa: BLE001  what has another shape is the server's to refuse
                is_read = False
            self.is_whole = self.is_whole and is_read

    def _read_instructions(self, value: Any) -> bool:
        self.messages.append({"role": "system", "content": str(value)})
        return isinstance(value, str)

    def _read_functions(self, value: Any) -> bool:
        functions = [each for each in value if isinstance(each, Mapping)]
        self.tools += functions
        return len(functions) == len(value)

    def _read_tools(self, value: Any) -> bool:
        tools = [each for each in value if isinstance(each, Mapping)]
        self.tools += tools
        return len(tools) == len(value) and all(tool.get("type") in _SEEN_TOOLS for tool in tools)

    def _read_modalities(self, value: Any) -> bool:
        return list(value) == ["text"]

    def _read_text(self, value: Any) -> bool:
        return value.keys() <= {"format", "verbosity"} and self._read_format(value.get("format"))

    def _read_format(self, value: Any) -> bool:
        if isinstance(value, type):
            if not issubclass(value, BaseModel):
                return False
            # the schema that the SDK sends for the class, which is stricter than the class's own
            function = openai.pydantic_function_tool(value)["function"]
            self.answer_schema = {"name": function["name"], "schema": function.get("parameters")}
            return True
        kind = None if value is None else value.get("type")
        if kind == "json_schema":  # Responses lays flat what Chat Completions nests
            schema = value.get("json_schema", value)
            self.answer_schema = {name: schema[name] for name in _SCHEMA_PARTS if schema.get(name)}
        return kind in (None, "text", "json_object", "json_schema")


_SCHEMA_PARTS = ("name", "description", "schema")
