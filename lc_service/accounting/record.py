"""One HTTP attempt as a value: what everybody who accounts for it reads.

Made once, at the attempt's end, whatever that was. Holds no prompt, no answer and no error text. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Literal
from uuid import UUID

from lc_service import clock
from lc_service.accounting.pricing import price
from lc_service.accounting.usage import TokenUsage

NO_TOKENS = TokenUsage()
_OF_RUN = UUID(int=0)
Operation = Literal["chat", "embeddings"]
MetadataValue = str | int | float | bool


def _now() -> datetime:
    return datetime.fromtimestamp(clock.wall(), UTC)


class AttemptStatus(StrEnum):
    """How an attempt ended."""

    OK = "ok"
    """A whole answer came."""
    FAILED = "failed"
    """An error: refused, timed out, disconnected, or an answer that is none. `error_kind` says which."""
    TRUNCATED = "truncated"
    """An answer whose end never came."""
    CANCELLED = "cancelled"
    """The caller's task was cancelled, or Ctrl-C pressed."""
    ABANDONED = "abandoned"
    """The caller stopped reading a stream."""


class Certainty(StrEnum):
    """How an attempt's usage is known."""

    MEASURED = "measured"
    """The server told it, or refused the attempt, which costs nothing."""
    ESTIMATED = "estimated"
    """The prompt by the tokenizer, the output by what had been received."""
    UNKNOWN = "unknown"
    """The server may have billed it and nothing was received."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """What one HTTP attempt was, used and cost. Immutable; holds no prompt, answer or error text.

    Attributes:
        run_id: LangChain's run of the call that the attempt belongs to; a program may use one more than once.
        call_id: The call itself; `run_id` where it is not given.
        attempt: Its number within the call, from 1.
        operation: `"chat"` or `"embeddings"`.
        model: The model that was asked for.
        response_model: The name that the server answered with, which the price goes by; None where no answer
            came.
        status: How it ended.
        certainty: How `usage` is known.
        usage: The tokens; none where `certainty` is unknown.
        service_tier: The response's tier, which the price goes by.
        started_at: When the attempt was begun, in UTC: before any wait for a budget.
        latency_seconds: From sending the request to the end, the last chunk of a stream included.
        first_chunk_seconds: From sending it to a stream's first content; None where none came, or it was no
            stream.
        error_kind: `ErrorKind` of the failure as text; None where `status` is ok or abandoned.
        status_code: The HTTP status; None where no response came.
        request_id: The server's `x-request-id`.
        is_stream: Whether the answer was streamed.
        tags: LangChain's tags of the run, without those it makes itself.
        metadata: The user's own metadata of the run: short scalar values only.
        reserved_tokens: The most that a budget had set aside for it; 0 where there was none.
        reserved_usd: The same in USD; None where no budget in USD was asked.
    """

    run_id: UUID
    call_id: UUID = _OF_RUN
    attempt: int = 1
    operation: Operation = "chat"
    model: str
    response_model: str | None = None
    status: AttemptStatus = AttemptStatus.OK
    certainty: Certainty = Certainty.MEASURED
    usage: TokenUsage = NO_TOKENS
    service_tier: str | None = None
    started_at: datetime = field(default_factory=_now)
    latency_seconds: float = 0.0
    first_chunk_seconds: float | None = None
    error_kind: str | None = None
    status_code: int | None = None
    request_id: str | None = None
    is_stream: bool = False
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    reserved_tokens: int = 0
    reserved_usd: Decimal | None = None

    def __post_init__(self) -> None:
        if self.call_id is _OF_RUN:
            object.__setattr__(self, "call_id", self.run_id)

    @property
    def cost_usd(self) -> Decimal | None:
        """USD at the list price, or your own, of the time it was made; None where unknown.

        The first use in a process takes about a quarter of a second.
        """
        if self.certainty is Certainty.UNKNOWN:
            return None
        if not self.usage.total_tokens:
            return Decimal(0)
        return price(
            self.usage,
            self.response_model or self.model,
            requested_model=self.model,
            at=self.started_at,
            operation=self.operation,
            service_tier=self.service_tier,
        )
