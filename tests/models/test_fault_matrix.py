"""The fault matrix: what a caller gets for every fault, method by method.

The rows below are the source. The tests drive each of them against the simulator, and `docs/fault-matrix.md`
is rendered from them: `python tests/models/test_fault_matrix.py` writes it again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.exceptions import ModelError
from langchain_openai.chat_models import base as lc_openai

from lc_service.retry.errors import (
    ErrorKind,
    MalformedResponseError,
    ResponseFailedError,
    TruncatedResponseError,
    classify,
)
from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.simulator import Fault

DOCUMENT = Path(__file__).parents[2] / "docs" / "fault-matrix.md"
RETRIES = 2
BACKOFF = (1.0, 2.0)
ASKED = (7.0, 7.0)  # what the rate limit faults ask for
SHORT_SECONDS = 0.05  # the client's patience where a fault is silence
LONG_SECONDS = 0.6  # where something has to get through under the same patience, on a busy machine too


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one call comes to.

    Attributes:
        requests: HTTP requests it took.
        error: The exact class raised, or None for a whole answer.
        kind: What `classify` says of the error.
        has_partial: Whether the error carries what had arrived.
        waits: Seconds waited between the requests.
        in_vain: Requests that were billed although no whole answer came of them.
    """

    requests: int
    error: type[Exception] | None = None
    kind: ErrorKind | None = None
    has_partial: bool = False
    waits: tuple[float, ...] = ()
    in_vain: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What a call comes to when it meets a fault once, and when it meets it every time."""

    once: Outcome
    always: Outcome


def answered() -> Outcomes:
    """The fault is none: nothing is retried."""
    outcome = Outcome(requests=1)
    return Outcomes(once=outcome, always=outcome)


def final(error: type[Exception], kind: ErrorKind) -> Outcomes:
    """One request and no more: the same request cannot succeed."""
    outcome = Outcome(requests=1, error=error, kind=kind)
    return Outcomes(once=outcome, always=outcome)


def retried(
    error: type[Exception],
    kind: ErrorKind,
    *,
    waits: tuple[float, ...] = BACKOFF,
    is_billed: bool = False,
    has_partial: bool = False,
) -> Outcomes:
    """Retried until it is answered or the retries are used up; then the last error is raised."""
    return Outcomes(
        once=Outcome(requests=2, waits=waits[:1], in_vain=int(is_billed)),
        always=Outcome(
            requests=RETRIES + 1,
            error=error,
            kind=kind,
            waits=waits,
            has_partial=has_partial,
            in_vain=(RETRIES + 1) * is_billed,
        ),
    )


def broken() -> Outcomes:
    """The caller has seen a part: no second attempt may repeat it."""
    outcome = Outcome(
        requests=1, error=TruncatedResponseError, kind=ErrorKind.TRUNCATED, has_partial=True, in_vain=1
    )
    return Outcomes(once=outcome, always=outcome)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault and its outcomes.

    Attributes:
        fault: What the simulator does.
        text: What happened, for the document.
        whole: `invoke`, `ainvoke`, and each item of `batch` and `abatch`.
        stream: `stream` and `astream`.
        is_silent: Whether only the client's timeout ends it.
    """

    fault: Fault
    text: str
    whole: Outcomes
    stream: Outcomes
    is_silent: bool = False

    @property
    def name(self) -> str:
        has_position = self.fault.kind in ("stall", "cut", "error_event")
        name = f"{self.fault.kind}-{self.fault.after_chunks}" if has_position else self.fault.kind
        return f"{name}-silent" if self.is_silent and not has_position else name


def row(fault: str | Fault, text: str, whole: Outcomes, stream: Outcomes | None = None, **extra: Any) -> Row:
    made = fault if isinstance(fault, Fault) else Fault(fault, retry_after_seconds=ASKED[0])
    return Row(fault=made, text=text, whole=whole, stream=stream or whole, **extra)


K = ErrorKind
RATE_LIMITED = retried(lc_openai.OpenAIRateLimitError, K.RATE_LIMIT, waits=ASKED)
SERVER_ERROR = retried(lc_openai.OpenAIAPIError, K.SERVER_ERROR)
TIMED_OUT = retried(lc_openai.OpenAITimeoutError, K.TIMEOUT, is_billed=True)
CUT = retried(lc_openai.OpenAIConnectionError, K.CONNECTION, is_billed=True)
MALFORMED = retried(MalformedResponseError, K.MALFORMED)
UNFINISHED = retried(TruncatedResponseError, K.TRUNCATED, is_billed=True, has_partial=True)

CHAT = (
    row("rate_limit", "429 with `retry-after-ms`", RATE_LIMITED),
    row("rate_limit_seconds", "429 with `retry-after` in seconds", RATE_LIMITED),
    row("rate_limit_date", "429 with `retry-after` as an HTTP date", RATE_LIMITED),
    row("rate_limit_reset", "429 with `x-ratelimit-reset-requests` only", RATE_LIMITED),
    row(
        "rate_limit_bare",
        "429 without a hint",
        retried(lc_openai.OpenAIRateLimitError, K.RATE_LIMIT),
    ),
    row(
        "request_too_large",
        "429: the request is above the whole minute's limit",
        final(lc_openai.OpenAIRateLimitError, K.REQUEST_TOO_LARGE),
    ),
    row(
        "insufficient_quota",
        "429: nothing left to spend",
        final(lc_openai.OpenAIRateLimitError, K.QUOTA_EXHAUSTED),
    ),
    row("server_error", "500", SERVER_ERROR),
    row("bad_gateway", "502 with an HTML page", SERVER_ERROR),
    row("unavailable", "503", SERVER_ERROR),
    row("gateway_timeout", "504", SERVER_ERROR),
    row("timeout", "408", retried(openai.APIStatusError, K.TIMEOUT)),
    row("conflict", "409", retried(openai.ConflictError, K.CONFLICT)),
    row(
        "reset",
        "the connection is reset before any byte",
        retried(lc_openai.OpenAIConnectionError, K.CONNECTION),
    ),
    row(Fault("slow", delay_seconds=0.01), "late, but before the timeout", answered()),
    row(Fault("slow", delay_seconds=2), "later than the timeout", TIMED_OUT, is_silent=True),
    row(
        Fault("stall", after_chunks=0, delay_seconds=2),
        "silence after the headers",
        TIMED_OUT,
        is_silent=True,
    ),
    row(
        Fault("stall", after_chunks=3, delay_seconds=2),
        "silence after three chunks",
        TIMED_OUT,
        broken(),
        is_silent=True,
    ),
    row(Fault("cut", after_chunks=0), "closed after the headers (plain: half-way)", CUT),
    row(Fault("cut", after_chunks=3), "closed after three chunks (plain: half-way)", CUT, broken()),
    row(
        "no_finish",
        "ends cleanly, with no finish_reason",
        UNFINISHED,
        broken(),
    ),
    row(
        Fault("error_event", after_chunks=0),
        "an error event instead of content (plain: 500)",
        SERVER_ERROR,
        retried(openai.APIError, K.SERVER_ERROR),
    ),
    row(
        Fault("error_event", after_chunks=3),
        "an error event after three chunks (plain: 500)",
        SERVER_ERROR,
        broken(),
    ),
    row("not_json", "200 with an HTML page", MALFORMED),
    row("broken_json", "200 with half a JSON body", MALFORMED),
    row(
        "context_length",
        "400: the prompt is longer than the context window",
        final(lc_openai.OpenAIContextOverflowError, K.CONTEXT_OVERFLOW),
    ),
    row("bad_request", "400", final(lc_openai.OpenAIInvalidRequestError, K.INVALID_REQUEST)),
    row("unauthorized", "401", final(lc_openai.OpenAIAuthenticationError, K.AUTHENTICATION)),
    row("forbidden", "403", final(lc_openai.OpenAIPermissionDeniedError, K.PERMISSION)),
    row("not_found", "404", final(lc_openai.OpenAIModelNotFoundError, K.NOT_FOUND)),
    row("unprocessable", "422", final(openai.UnprocessableEntityError, K.INVALID_REQUEST)),
)

_RESPONSES_KINDS = (
    "rate_limit", "insufficient_quota", "server_error", "reset", "slow", "stall", "cut", "no_finish",
    "not_json", "broken_json", "context_length", "unauthorized",
)  # fmt: skip
RESPONSES = (
    *(each for each in CHAT if each.fault.kind in _RESPONSES_KINDS),
    row(
        Fault("error_event", after_chunks=0),
        "an error event instead of content (plain: 500)",
        SERVER_ERROR,
        retried(ResponseFailedError, K.SERVER_ERROR),
    ),
    row(
        Fault("error_event", after_chunks=3),
        "an error event after three chunks (plain: 500)",
        SERVER_ERROR,
        broken(),
    ),
)

METHODS = ("invoke", "ainvoke", "stream", "astream", "batch", "abatch")
QUESTION = "What is the meaning of all this?"
SIBLINGS = ("Why is the sky blue?", "Where do the swans go?")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One cell: a row, met through one method of one API, once or every time."""

    api: str
    row: Row
    method: str
    how_often: str

    @property
    def expected(self) -> Outcome:
        outcomes = self.row.stream if "stream" in self.method else self.row.whole
        return outcomes.once if self.how_often == "once" else outcomes.always

    @property
    def is_batch(self) -> bool:
        return "batch" in self.method

    @property
    def patience_seconds(self) -> float:
        if not self.row.is_silent:
            return 5.0
        return LONG_SECONDS if self.is_batch or self.expected.has_partial else SHORT_SECONDS

    def __str__(self) -> str:
        return f"{self.api}-{self.row.name}-{self.method}-{self.how_often}"


def cases() -> Iterator[Case]:
    for api, rows in (("chat", CHAT), ("responses", RESPONSES)):
        for each, method in itertools.product(rows, METHODS):
            once = Case(api=api, row=each, method=method, how_often="once")
            always = Case(api=api, row=each, method=method, how_often="always")
            yield once
            # a batch's items are invokes: the Responses API need not show that again
            if always.expected != once.expected and not (api == "responses" and always.is_batch):
                yield always


@dataclass
class Got:
    """What a call came to: its answer or error, and the text a stream had shown before that."""

    message: Any = None
    error: Exception | None = None
    seen: str = ""


def call(model, method: str) -> tuple[Got, list[Any]]:
    """Call `method`; return what came of the question, and of a batch's other items."""
    got, others = Got(), []
    try:
        match method:
            case "invoke":
                got.message = model.invoke(QUESTION)
            case "ainvoke":
                got.message = asyncio.run(model.ainvoke(QUESTION))
            case "stream":
                for chunk in model.stream(QUESTION):
                    got.seen += chunk.text
                    got.message = chunk if got.message is None else got.message + chunk
            case "astream":
                asyncio.run(_astream(model, got))
            case _:
                # one at a time: the question is the first to arrive, and meets the faults
                options = {"config": {"max_concurrency": 1}, "return_exceptions": True}
                items = [QUESTION, *SIBLINGS]
                if method == "batch":
                    first, *others = model.batch(items, **options)
                else:
                    first, *others = asyncio.run(model.abatch(items, **options))
                got = Got(error=first) if isinstance(first, Exception) else Got(message=first)
    except Exception as error:
        got.error = error
    return got, others


async def _astream(model, got: Got) -> None:
    async for chunk in model.astream(QUESTION):
        got.seen += chunk.text
        got.message = chunk if got.message is None else got.message + chunk


@pytest.mark.parametrize("case", cases(), ids=str)
def test_every_fault_has_its_outcome(case, simulate, make_model, fake_clock):
    expected = case.expected
    is_once = case.how_often == "once"
    sim = simulate(faults=[case.row.fault] * (1 if is_once else expected.requests))

    def be_patient(_) -> None:
        # A slow machine must not add a timeout of its own to the retry; one that meets the fault again may.
        patience = 5.0 if is_once or not case.row.is_silent else SHORT_SECONDS
        model.root_client.timeout = model.root_async_client.timeout = patience

    model = make_model(
        use_responses_api=case.api == "responses",
        timeout=case.patience_seconds,
        rate_limits=None,  # the waits are the policy's alone; what a 429 does to others is the limiter's
        retry=RetryWithExponentialBackoff(max_retries=RETRIES, jitter="none", on_retry=be_patient),
    )
    got, others = call(model, case.method)

    assert sim.wait_until_idle()
    asked = [request for request in sim.requests if QUESTION.encode() in request.body]
    assert len(asked) == expected.requests
    assert fake_clock.waits == list(expected.waits)
    # every answer that was billed as whole was handed to the caller, and nothing else was billed in vain
    assert sim.bill.interrupted_requests == expected.in_vain
    answers = [*others, *([got.message] if expected.error is None else [])]
    assert sim.bill.requests == expected.in_vain + len(answers)
    if expected.error is None:
        assert got.error is None
        assert_whole(got.message, QUESTION)
        assert got.seen in ("", got.message.text)
        served = [asked[-1], *(request for request in sim.requests if request not in asked)]
        assert [answer.usage_metadata["total_tokens"] for answer in (got.message, *others)] == [
            request.usage.total_tokens for request in served
        ]
    else:
        assert_error(got, expected)
    assert len(others) == (len(SIBLINGS) if case.is_batch else 0)
    for sibling, answer in zip(SIBLINGS, others, strict=False):
        assert_whole(answer, sibling)


def assert_whole(message, question: str) -> None:
    """The answer belongs to the question, and its end came."""
    assert question in message.text
    metadata = message.response_metadata
    assert "stop" in metadata.get("finish_reason", "") or metadata.get("status") == "completed"


def assert_error(got: Got, expected: Outcome) -> None:
    assert type(got.error) is expected.error
    assert isinstance(got.error, (openai.OpenAIError, ModelError))
    assert classify(got.error).kind is expected.kind
    if expected.has_partial:
        partial = got.error.partial
        assert partial.text
        assert got.seen in ("", partial.text)
    else:
        assert not got.seen
        assert getattr(got.error, "partial", None) is None


def test_the_matrix_has_a_row_for_every_fault():
    assert {each.fault.kind for each in CHAT} == set(Fault.KINDS)


def describe(outcomes: Outcomes) -> str:
    """Return the text of one cell."""
    if outcomes.once == outcomes.always:
        return _describe(outcomes.once)
    return f"once: {_describe(outcomes.once)}<br>always: {_describe(outcomes.always)}"


def _describe(outcome: Outcome) -> str:
    if outcome.error is None:
        text = "answered"
    else:
        text = f"`{outcome.error.__name__}` ({outcome.kind})"
        text += " with `.partial`" if outcome.has_partial else ""
    text += f", {outcome.requests} request{'s' if outcome.requests > 1 else ''}"
    if outcome.waits:
        text += f", waits {' + '.join(f'{wait:g}' for wait in outcome.waits)} s"
    if outcome.in_vain:
        text += f", {outcome.in_vain} billed in vain"
    return text


def render() -> str:
    """Return the document."""
    parts = [_HEAD]
    for title, rows in (
        ("Chat Completions", CHAT),
        ("Responses API (the faults it may treat differently)", RESPONSES),
    ):
        parts += [
            f"\n## {title}\n",
            "| Fault | What happens | `invoke`, `ainvoke`, each item of a batch | `stream`, `astream` |",
            "|---|---|---|---|",
        ]
        parts += [
            f"| `{each.fault.kind}` | {each.text} | {describe(each.whole)} | {describe(each.stream)} |"
            for each in rows
        ]
    return "\n".join(parts) + "\n"


_HEAD = f"""\
# The fault matrix
What a caller of `ReliableChatOpenAI` gets for every fault of the simulator.

<!-- Rendered from tests/models/test_fault_matrix.py, which drives every cell against the simulator.
     To change it, change the rows there, then: python tests/models/test_fault_matrix.py -->

The rule: a call is retried as long as nothing of its answer was handed to the caller. A stream that breaks,
or closes with no finish_reason, after content has come raises `TruncatedResponseError` with what came in
`.partial`. What cannot succeed is sent once. The last error is raised as it came, or as the class LangChain
has for it.

A model with `streaming=True`, and a model inside an agent that is streamed with `stream_mode="messages"`,
streams inside `invoke` too, and its callbacks have seen the chunks: there `invoke` follows the stream column.

*Once*: the first request meets the fault and the next is served. *Always*: every request meets it; here with
`max_retries={RETRIES}`, `jitter="none"`, and rate limits that ask for {ASKED[0]:g} s. In a batch the fault
meets one item: its error stays on it and the others are answered. *Billed in vain*: the provider counts it,
no whole answer came of it, and no client can prevent that."""


def test_the_document_is_up_to_date():
    assert DOCUMENT.read_text(encoding="utf-8") == render(), f"run: python {Path(__file__).name}"


if __name__ == "__main__":
    DOCUMENT.write_text(render(), encoding="utf-8")
