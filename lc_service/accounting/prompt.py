"""Count a request's prompt: messages, tools and the answer's schema as Chat Completions takes them.

The text is counted by a `TokenEstimator`; around it come the figures that OpenAI documents.
Does not know chat templates, hidden prompts or the size of pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lc_service.accounting.tokenizer import TokenEstimator

MESSAGE_TOKENS = 3
"""Tokens each message costs beyond its role and text, and so does priming the answer."""
IMAGE_TOKENS = 765
"""Tokens taken for a picture: 85 + 170 for each of the four tiles of 1024 x 1024; size unknown here."""
LOW_DETAIL_IMAGE_TOKENS = 85
"""Tokens of a picture sent with `detail: low`, whatever its size."""
_ANSWER_SCHEMA_TOKENS = 12  # a heading around it; taken to be as long as the one around tools
_MAX_SCHEMA_SHARE = 0.1  # servers' ways to write a schema differ by half: a tenth of a prompt is 5 % of it


@dataclass(frozen=True, slots=True)
class PromptEstimate:
    """Tokens of one request's prompt.

    Attributes:
        tokens: The count to work with: exact where it can be, else calibrated.
        raw_tokens: What to hand to `calibrate` when the answer comes; 0 where nothing can be learnt about
            text: with pictures, sounds or files, or with schemas that are more than a tenth of the prompt.
    """

    tokens: int
    raw_tokens: int


def count_messages(
    estimator: TokenEstimator,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> int:
    """Count the prompt of a request, messages and tools as Chat Completions takes them.

    Adds what OpenAI documents around the text: 3 tokens and the role for each message, 1 for a name, 3 for
    the answer's priming; for tools its cookbook's figures for functions. A picture counts a flat 765 (85 with
    `detail: low`), a sound or a file too: their true size is not known here.
    """
    return estimate_prompt(estimator, messages, tools).tokens


def estimate_prompt(
    estimator: TokenEstimator,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    answer_schema: Mapping[str, Any] | None = None,
) -> PromptEstimate:
    """Count as `count_messages` does, and keep the raw estimate for `calibrate`.

    The answer's schema counts the JSON that is sent: nobody documents what servers make of it.
    """
    prompt, schemas = _prompt(messages), _schemas(tools, answer_schema)
    raw_of_schemas = schemas.raw(estimator)
    raw = prompt.raw(estimator) + raw_of_schemas
    if estimator.is_exact:
        tokens = prompt.count(estimator) + schemas.count(estimator)
    else:
        tokens = estimator.scaled(raw)
    teaches = not prompt.media_tokens and raw_of_schemas <= _MAX_SCHEMA_SHARE * raw
    return PromptEstimate(tokens + prompt.media_tokens, round(raw) if teaches else 0)


def estimate_texts(estimator: TokenEstimator, texts: Sequence[str | Sequence[int]]) -> PromptEstimate:
    """Count texts to embed, which have nothing around them; a text that is given in tokens counts those."""
    words = [text for text in texts if isinstance(text, str)]
    ready = sum(len(text) for text in texts if not isinstance(text, str))
    raw = sum(map(estimator.raw, words))
    tokens = sum(map(estimator.count, words)) if estimator.is_exact else estimator.scaled(raw)
    return PromptEstimate(tokens + ready, 0 if ready else round(raw))


def max_prompt_tokens(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    answer_schema: Mapping[str, Any] | None = None,
) -> int | None:
    """Return a bound that a prompt with these schemas cannot exceed: no token is less than a byte.

    None for a prompt with pictures, sounds or files, whose tokens do not show in its bytes.
    """
    prompt = _prompt(messages)
    if prompt.media_tokens:
        return None
    fixed_tokens = prompt.fixed_tokens + _schemas(tools, answer_schema).fixed_tokens
    written = json.dumps(list(messages), ensure_ascii=False, default=str)
    # Some templates write schemas with every character beyond ASCII escaped, which is longer.
    rewritten = json.dumps([list(tools), answer_schema], default=str)
    # Servers' templates put up to about a dozen tokens around a message.
    return _byte_count(written) + len(rewritten) + 4 * fixed_tokens


def max_text_tokens(texts: Sequence[str | Sequence[int]]) -> int:
    """Return a bound that texts to embed cannot exceed."""
    # tokenizers of embedding models add up to two tokens to each text
    return sum(_byte_count(text) if isinstance(text, str) else len(text) for text in texts) + 2 * len(texts)


def _byte_count(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _prompt(messages: Sequence[Mapping[str, Any]]) -> _Prompt:
    prompt = _Prompt()
    prompt.fixed_tokens = MESSAGE_TOKENS
    for message in messages:
        prompt.add_message(message)
    return prompt


def _schemas(tools: Sequence[Mapping[str, Any]] | None, answer_schema: Mapping[str, Any] | None) -> _Prompt:
    schemas = _Prompt()
    if tools:
        schemas.add_tools(tools)
    if answer_schema:
        schemas.fixed_tokens += _ANSWER_SCHEMA_TOKENS
        schemas.texts.append(
            json.dumps(answer_schema, ensure_ascii=False, separators=(",", ":"), default=str)
        )
    return schemas


class _Prompt:
    """A prompt, or a part of one, taken apart: texts to count, and tokens that stand for all the rest."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.fixed_tokens = 0
        self.media_tokens = 0

    def raw(self, estimator: TokenEstimator) -> float:
        return self.fixed_tokens + sum(map(estimator.raw, self.texts))

    def count(self, estimator: TokenEstimator) -> int:
        return self.fixed_tokens + sum(map(estimator.count, self.texts))

    def add_message(self, message: Mapping[str, Any]) -> None:
        self.fixed_tokens += MESSAGE_TOKENS + 1  # a role is one token
        if name := message.get("name"):
            self.fixed_tokens += 1
            self.texts.append(str(name))
        content = message.get("content")
        for part in content if isinstance(content, list | tuple) else (content, message.get("refusal")):
            self._add_part(part)
        calls = [*(message.get("tool_calls") or ()), {"function": message.get("function_call")}]
        for call in calls:
            if function := call.get("function") or call.get("custom"):
                self.fixed_tokens += MESSAGE_TOKENS
                self._add_texts(function.get("name"), function.get("arguments"), function.get("input"))

    def _add_part(self, part: object) -> None:
        if not isinstance(part, Mapping):
            self._add_texts(part)
            return
        if (text := part.get("text") or part.get("refusal")) is not None or part.get("type") == "text":
            self._add_texts(text)
            return
        image = part.get("image_url")
        detail = image.get("detail") if isinstance(image, Mapping) else part.get("detail")
        self.media_tokens += LOW_DETAIL_IMAGE_TOKENS if detail == "low" else IMAGE_TOKENS

    def add_tools(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """Add tools by the figures OpenAI's cookbook has for functions: the server rewrites their schemas."""
        self.fixed_tokens += 12 + 7 * len(tools)
        # A property's description is counted with its name.
        schemas: list[tuple[object, bool]] = []
        for tool in tools:
            function = tool.get("function") or tool.get("custom") or tool
            self.texts.append(f"{function.get('name')}:{_description(function)}")
            schemas.append((function.get("parameters"), False))
            if grammar := function.get("format"):
                self.texts.append(json.dumps(grammar, ensure_ascii=False, default=str))
        while schemas:
            schema, is_described = schemas.pop()
            if isinstance(schema, list | tuple):
                schemas += [(each, False) for each in schema]
            elif isinstance(schema, Mapping):
                if not is_described and (description := _description(schema)):
                    self.texts.append(description)
                self._add_schema(schema)
                schemas += [(schema.get(key), False) for key in _NESTED]
                for group in _NAMED:
                    schemas += [(each, group == "properties") for each in (schema.get(group) or {}).values()]

    def _add_schema(self, schema: Mapping[str, Any]) -> None:
        properties = schema.get("properties") or {}
        self.fixed_tokens += 3 * bool(properties) + 3 * len(properties)
        for name, value in properties.items():
            value = value if isinstance(value, Mapping) else {}  # noqa: PLW2901  `true` is a schema too
            self.texts.append(f"{name}:{value.get('type', '')}:{_description(value)}")
        choices = schema.get("enum") or ()
        self.fixed_tokens += 3 * max(0, len(choices) - 1)
        self._add_texts(*choices)

    def _add_texts(self, *texts: object) -> None:
        self.texts += [str(text) for text in texts if text is not None]


def _description(described: Mapping[str, Any]) -> str:
    return str(described.get("description") or "").removesuffix(".")


_NESTED = ("items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties")
_NAMED = ("properties", "$defs", "definitions")
