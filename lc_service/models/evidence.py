"""What is seen of an attempt while it is made, and what that tells of its usage and its end.

Invariant: zero only where the server told it, or refused, or never saw the request; what may have been billed
and cannot be estimated is unknown. Sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import httpx2

from lc_service.accounting.expected_output import expected_reasoning
from lc_service.accounting.failure import may_be_billed, paid_usage
from lc_service.accounting.prompt import PromptEstimate
from lc_service.accounting.record import NO_TOKENS, AttemptStatus, Certainty
from lc_service.accounting.reported import Reported
from lc_service.accounting.usage import TokenUsage
from lc_service.models.request import Request
from lc_service.retry.errors import MalformedResponseError, TruncatedResponseError


class Evidence:
    """What is seen of one attempt. Belongs to it, so it needs no lock.

    Attributes:
        reported: What the answer told.
        received: Returns the texts of a stream so far, one for each piece that had any.
        response: The head of the response; None where none came, or a client of the caller's own sent it.
        is_sent: Whether the request was seen being sent.
    """

    def __init__(self) -> None:
        self.reported = Reported()
        self.received: Callable[[], Sequence[str]] = tuple
        self.response: httpx2.Response | None = None
        self.is_sent = False

    def on_send(self) -> None:
        """Take note that the request is being sent."""
        self.is_sent = True

    def on_response(self, response: httpx2.Response) -> None:
        """Take note of the response's head."""
        self.response = response

    def usage(
        self, error: BaseException | None, request: Request, prompt: Callable[[], PromptEstimate]
    ) -> tuple[Certainty, TokenUsage]:
        """Return what the attempt used, and how that is known."""
        told = self.reported.usage or (paid_usage(error) if error is not None else None)
        if told is not None:
            return Certainty.MEASURED, told
        if texts := self.received():
            return Certainty.ESTIMATED, _estimate(texts, request, prompt().tokens)
        if error is not None and (self._is_page() or not may_be_billed(error, is_sent=self.is_sent)):
            return Certainty.MEASURED, NO_TOKENS
        if request.is_stream and self.response is not None and not isinstance(error, MalformedResponseError):
            # a server that opens a stream has read the prompt
            return Certainty.ESTIMATED, TokenUsage(input_tokens=prompt().tokens)
        return Certainty.UNKNOWN, NO_TOKENS

    def _is_page(self) -> bool:
        """Whether something on the way answered, such as a proxy, and not the API."""
        return self.response is not None and self.response.headers.get("content-type", "").startswith(
            "text/html"
        )


def _estimate(texts: Sequence[str], request: Request, input_tokens: int) -> TokenUsage:
    # Reasoning comes before the first word and does not show.
    reasoning_tokens = (expected_reasoning(request.model) or 0) * request.choices
    # No piece of a stream is less than a token.
    output_tokens = max(len(texts), request.estimator.count("".join(texts)))
    return TokenUsage(
        input_tokens=input_tokens,
        output_tokens=output_tokens + reasoning_tokens,
        reasoning_tokens=reasoning_tokens,
    )


def status_of(error: BaseException | None) -> AttemptStatus:
    """Return how an attempt ended."""
    match error:
        case None:
            return AttemptStatus.OK
        case TruncatedResponseError():
            return AttemptStatus.TRUNCATED
        case Exception():
            return AttemptStatus.FAILED
        case GeneratorExit():
            return AttemptStatus.ABANDONED
        case _:  # a cancelled task, Ctrl-C, the end of the process
            return AttemptStatus.CANCELLED
