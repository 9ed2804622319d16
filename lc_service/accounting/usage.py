"""Token usage as values: what a call used, and a report that adds calls up.

`input_tokens` includes cached ones, `output_tokens` includes reasoning, as every provider counts them.
No I/O and no prices here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

GroupKey = Literal["model", "operation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """Tokens of one call, or a sum of several.

    Attributes:
        input_tokens: Tokens of the prompt, cached ones included.
        cached_input_tokens: Those of `input_tokens` that the provider read from its prompt cache.
        output_tokens: Tokens of the answer, all choices and reasoning included.
        reasoning_tokens: Those of `output_tokens` that were spent on reasoning.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )

    @classmethod
    def read(cls, usage: object) -> Self:
        """Read usage in any of its forms: a mapping or an object, as sent by the API or made by LangChain.

        Knows Chat Completions (`prompt_tokens`), the Responses API and LangChain's `UsageMetadata`
        (`input_tokens`), and embeddings; details that are missing count 0.

        Raises:
            TypeError: `usage` has neither an input nor an output count.
        """
        inputs = _number(usage, "prompt_tokens", "input_tokens")
        outputs = _number(usage, "completion_tokens", "output_tokens")
        if inputs is None and outputs is None:
            raise TypeError(
                "Token usage needs prompt_tokens and completion_tokens, or input_tokens and output_tokens; "
                f"this {type(usage).__name__} has none of them."
            )
        input_details = _details(
            usage, "prompt_tokens_details", "input_tokens_details", "input_token_details"
        )
        output_details = _details(
            usage, "completion_tokens_details", "output_tokens_details", "output_token_details"
        )
        return cls(
            input_tokens=inputs or 0,
            cached_input_tokens=_tiered(input_details, "cached_tokens", "cache_read"),
            output_tokens=outputs or 0,
            reasoning_tokens=_tiered(output_details, "reasoning_tokens", "reasoning"),
        )


def _field(holder: object, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _number(holder: object, *names: str) -> int | None:
    for name in names:
        value = _field(holder, name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _tiered(details: object, wire_name: str, name: str) -> int:
    """Read a detail under the API's name or LangChain's, which has the service tier before it.

    A sum of several calls' metadata can have more than one tier.
    """
    if (number := _number(details, wire_name)) is not None:
        return number
    return sum(_number(details, tier + name) or 0 for tier in ("", "priority_", "flex_"))


def _details(usage: object, *names: str) -> object:
    return next((value for name in names if (value := _field(usage, name)) is not None), None)


@dataclass(frozen=True, slots=True)
class _Line:
    calls: int = 0
    unknown: int = 0
    usage: TokenUsage = TokenUsage()

    def __add__(self, other: _Line) -> _Line:
        return _Line(self.calls + other.calls, self.unknown + other.unknown, self.usage + other.usage)


class UsageReport:
    """What a set of calls used; grows while they run. Thread-safe.

    A call that LangChain's cache answered is a call that used nothing. A call whose usage the server did not
    tell adds nothing to `total` and one to `unknown`: with `unknown > 0`, `total` is a lower bound.
    """

    def __init__(self, _lines: dict[tuple[str, str], _Line] | None = None) -> None:
        self._lines = _lines or {}
        self._lock = threading.Lock()

    @property
    def total(self) -> TokenUsage:
        """Everything together."""
        return self._sum().usage

    @property
    def calls(self) -> int:
        """How many calls have ended; retries of a call do not count."""
        return self._sum().calls

    @property
    def unknown(self) -> int:
        """How many of them have no usage because the server told none."""
        return self._sum().unknown

    def group_by(self, key: GroupKey) -> dict[str, UsageReport]:
        """Split the report as it is now.

        Args:
            key: `"model"`, the name that the server answered with, or `"operation"`, which is `"chat"` or
                `"embeddings"`.

        Returns:
            A report for each model or operation, in the order in which they were first used.

        Raises:
            ValueError: `key` is none of these.
        """
        if key not in ("model", "operation"):
            raise ValueError(f'group_by takes "model" or "operation", not {key!r}.')
        groups: dict[str, dict[tuple[str, str], _Line]] = {}
        for (model, operation), line in self._snapshot().items():
            groups.setdefault(model if key == "model" else operation, {})[model, operation] = line
        return {name: UsageReport(lines) for name, lines in groups.items()}

    def record(
        self, usage: TokenUsage | None, *, model: str, operation: str = "chat", is_call: bool = True
    ) -> None:
        """Add what one call used.

        Args:
            usage: Its tokens, or None where they are unknown.
            model: The model that answered.
            operation: `"chat"` or `"embeddings"`.
            is_call: False for an attempt inside a call: its tokens count, the call is counted at its end.
        """
        key = (model, operation)
        line = _Line(int(is_call), int(usage is None), usage or TokenUsage())
        with self._lock:
            self._lines[key] = self._lines.get(key, _Line()) + line

    def _snapshot(self) -> dict[tuple[str, str], _Line]:
        with self._lock:
            return dict(self._lines)

    def _sum(self) -> _Line:
        return sum(self._snapshot().values(), _Line())

    def __repr__(self) -> str:
        line = self._sum()
        unknown = f", unknown={line.unknown}" if line.unknown else ""
        return (
            f"UsageReport(calls={line.calls}, input_tokens={line.usage.input_tokens}, "
            f"output_tokens={line.usage.output_tokens}, total_tokens={line.usage.total_tokens}{unknown})"
        )
