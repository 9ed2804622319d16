"""Measure prompts by the model's own token counts, and find how much the model takes.

Every count errs towards too many where the model cannot count. Nothing is fetched or sent to count,
except by models whose own `get_num_tokens_from_messages` does that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.language_models import BaseLanguageModel, LanguageModelLike
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable

_PROFILE_SHARE = 0.9  # counts are estimates, and in many windows the answer must fit too
_BYTES_PER_TOKEN = 3  # English has 4 to 5, Chinese 4, other scripts 3 to 6
_MESSAGE_TOKENS = 5
_MOST_TOKENS_AROUND = 32  # a message's role, name and marks
_COUNTERS = ("get_num_tokens_from_messages", "get_num_tokens", "get_token_ids")


@dataclass(frozen=True)
class Window:
    """How much a model takes, and what counts it. Safe to share between threads.

    Attributes:
        max_tokens: The most tokens of a prompt, inclusive.
        model: Counts; one that inherits LangChain's count by GPT-2, which downloads a tokenizer, is
            estimated instead.
        tools: The tools bound to the model, which are a part of each prompt.
    """

    max_tokens: int
    model: Any = field(repr=False)
    tools: Any = field(default=None, repr=False)

    def count(self, messages: list[BaseMessage]) -> int:
        """Count the tokens of a prompt."""
        if not _counts_itself(self.model):
            tools = json.dumps(self.tools, default=str) if self.tools else ""
            return len(tools) // _BYTES_PER_TOKEN + _estimate(messages)
        if not self.tools:
            return int(self.model.get_num_tokens_from_messages(messages))
        return int(self.model.get_num_tokens_from_messages(messages, tools=self.tools))

    def fits(self, messages: list[BaseMessage]) -> bool:
        """Tell whether a prompt fits; what is far too short to fill the window is not counted."""
        if not self.tools and all(isinstance(message.content, str) for message in messages):
            # no token is shorter than a byte
            most = sum(len(_written(message)) + _MOST_TOKENS_AROUND for message in messages)
            if most <= self.max_tokens:
                return True
        return self.count(messages) <= self.max_tokens

    def fits_text(self, text: str) -> bool:
        """Tell whether a text alone fits; tools and message left aside."""
        return len(text.encode("utf-8", "surrogatepass")) <= self.max_tokens or (
            self.count_text(text) <= self.max_tokens
        )

    def count_text(self, text: str) -> int:
        """Count the tokens of a text alone, without what its message and the tools cost."""
        return self.count([HumanMessage(text)]) - self.count([HumanMessage("")])


def find_window(model: LanguageModelLike, max_input_tokens: int | None = None) -> Window | None:
    """Return the window of a model: the given figure, or 90 % of the one in the model's profile.

    Args:
        model: Any chat model; of one with fallbacks, the smallest window counts.
        max_input_tokens: What the caller says; it is taken as it is.

    Returns:
        The window; None where nobody knows.

    Raises:
        ValueError: `max_input_tokens` is below one.
    """
    if max_input_tokens is None:
        known = find_profile(model, "max_input_tokens")
        max_input_tokens = None if known is None else int(known * _PROFILE_SHARE)
    elif max_input_tokens < 1:
        raise ValueError(f"max_input_tokens must be at least 1, not {max_input_tokens}")
    if max_input_tokens is None:
        return None
    layers = _layers(model)
    tools = next((layer.kwargs["tools"] for layer in layers if _has_tools(layer)), None)
    return Window(max_input_tokens, layers[-1], tools)


def find_profile(model: LanguageModelLike, key: str) -> int | None:
    """Return a figure of the model's profile; of several models, the smallest; None where unknown."""
    figures = [
        figure
        for choice in _choices(model)
        if (figure := (getattr(_layers(choice)[-1], "profile", None) or {}).get(key))
    ]
    return min(figures, default=None)


def _layers(model: Any) -> list[Any]:
    """Return the model and all that is under its bindings, outermost first."""
    layers = [model]
    while (inner := _inner(layers[-1])) is not None:
        layers.append(inner)
    return layers


def _inner(model: Any) -> Any:
    if isinstance(model, RunnableBindingBase):
        return model.bound
    if isinstance(model, RunnableWithFallbacks):
        return model.runnable
    return model.default if isinstance(model, DynamicRunnable) else None


def _choices(model: Any) -> Sequence[Any]:
    for layer in _layers(model):
        if isinstance(layer, RunnableWithFallbacks):
            return [choice for each in layer.runnables for choice in _choices(each)]
    return [model]


def _has_tools(layer: Any) -> bool:
    return isinstance(layer, RunnableBindingBase) and bool(layer.kwargs.get("tools"))


def _counts_itself(model: Any) -> bool:
    if not isinstance(model, BaseLanguageModel):
        return False
    own = any(getattr(type(model), name) is not getattr(BaseLanguageModel, name) for name in _COUNTERS)
    return own or model.custom_get_token_ids is not None


def _estimate(messages: list[BaseMessage]) -> int:
    return sum(_MESSAGE_TOKENS - -len(_written(message)) // _BYTES_PER_TOKEN for message in messages)


def _written(message: BaseMessage) -> bytes:
    content = (
        message.content if isinstance(message.content, str) else json.dumps(message.content, default=str)
    )
    calls = getattr(message, "tool_calls", None)
    return (content + (json.dumps(calls, default=str) if calls else "")).encode("utf-8", "surrogatepass")
