"""The bill: what the simulator served, to the token, per model and operation.

Invariant: a line is written before the last byte of its answer leaves, so a client that has its
answer finds it billed. It never looks at what a client counted: it is the ground truth.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal

Operation = Literal["chat", "embeddings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one answer or of many; instances add up.

    Attributes:
        input_tokens: Prompt tokens, cached ones included.
        cached_input_tokens: The part of `input_tokens` read from a prompt cache.
        output_tokens: Generated tokens, reasoning included.
        reasoning_tokens: The part of `output_tokens` spent on reasoning.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BillLine:
    """What one model served for one operation.

    Attributes:
        requests: Billed requests, interrupted ones included.
        usage: Their tokens.
        interrupted_requests: Billed requests whose client did not get a whole answer.
    """

    requests: int = 0
    usage: Usage = field(default_factory=Usage)
    interrupted_requests: int = 0

    def __add__(self, other: BillLine) -> BillLine:
        return BillLine(
            requests=self.requests + other.requests,
            usage=self.usage + other.usage,
            interrupted_requests=self.interrupted_requests + other.interrupted_requests,
        )


class Bill:
    """Everything billed since the start or the last reset; safe to read from any thread.

    What is billed:

    * A whole answer: prompt plus output. With `n` > 1 the prompt counts once, the output of every
      choice counts. Chat completions and responses are both the operation `"chat"`.
    * A stream that was cut, stalled, ended by an error event after at least one content chunk, or
      abandoned by its client: the prompt, the reasoning, and the output generated until then.
    * A plain answer that was generated but cut, stalled, or no longer waited for: in full.
    * An answer without a finish_reason: in full.

    All but the first count as `interrupted_requests`. Errors of any status, connection resets, an
    error event before any content, and bodies that are no valid JSON are not billed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, Operation], BillLine] = {}

    def record(self, model: str, operation: Operation, usage: Usage, *, interrupted: bool = False) -> None:
        """Add one answered request.

        Args:
            model: The model that answered.
            operation: `"chat"` or `"embeddings"`.
            usage: The tokens to bill.
            interrupted: Whether the client did not get a whole answer.
        """
        entry = BillLine(requests=1, usage=usage, interrupted_requests=int(interrupted))
        key = (model, operation)
        with self._lock:
            line = self._lines.get(key)
            self._lines[key] = entry if line is None else line + entry

    def reset(self) -> None:
        """Forget everything billed so far."""
        with self._lock:
            self._lines.clear()

    @property
    def lines(self) -> dict[tuple[str, Operation], BillLine]:
        """A snapshot of the bill: `{(model, operation): BillLine}`."""
        with self._lock:
            return dict(self._lines)

    def by(self, model: str, operation: Operation = "chat") -> BillLine:
        """Return the line of `model` and `operation`, empty when nothing was served."""
        return self.lines.get((model, operation), BillLine())

    @property
    def total(self) -> Usage:
        """Tokens over all lines."""
        return self._sum().usage

    @property
    def requests(self) -> int:
        """Billed requests over all lines, interrupted ones included."""
        return self._sum().requests

    @property
    def interrupted_requests(self) -> int:
        """Billed requests whose client did not get a whole answer."""
        return self._sum().interrupted_requests

    def _sum(self) -> BillLine:
        return sum(self.lines.values(), BillLine())

    def __repr__(self) -> str:
        line = self._sum()
        return f"Bill(requests={line.requests}, total={line.usage!r})"
