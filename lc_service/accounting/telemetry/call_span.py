"""One model call's span and metrics, by OpenTelemetry's GenAI conventions.

Never raises into the call, and records no prompt, answer, error text or key. `Telemetry` starts it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from lc_service import clock
from lc_service.accounting.record import NO_TOKENS, AttemptRecord, AttemptStatus, Certainty
from lc_service.accounting.telemetry.metrics import (
    ERROR_TYPE,
    GenAIMetrics,
    certainty_flag,
    usage_attributes,
)
from lc_service.accounting.telemetry.telling import hand_over, harmless, is_closing
from lc_service.retry.errors import ErrorKind, classify

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

    from lc_service.retry.event import RetryEvent

_PARAMETERS = {  # of a request, by their names on the wire; stop sequences are content
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "service_tier": "openai.request.service_tier",
    "dimensions": "gen_ai.embeddings.dimension.count",
}
_UNCERTAINTY = (Certainty.MEASURED, Certainty.ESTIMATED, Certainty.UNKNOWN)


class CallSpan:
    """One call's span and metrics. Belongs to that call: used by one thread or task at a time, any of them.

    None of its methods raises. It is not the current span unless `activate` makes it so. Where a generator is
    being closed, another thread tells the rest of the call a moment later.
    """

    def __init__(self, metrics: GenAIMetrics, common: dict[str, str | int], *, is_latest: bool) -> None:
        self._metrics = metrics
        self._common = common
        self._is_latest = is_latest
        self._span: Span | None = None
        self._started = clock.now()
        self._last: AttemptRecord | None = None
        self._usage = NO_TOKENS
        self._certainty = Certainty.MEASURED
        self._is_ended = False
        self._is_handed_over = False

    @harmless
    def start(
        self, tracer: Tracer, run_id: object, is_stream: bool, parameters: Mapping[str, Any] | None
    ) -> None:
        """Start the span as a child of the current one; `Telemetry.start_call` does it."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415  an extra

        name = f"{self._common['gen_ai.operation.name']} {self._common['gen_ai.request.model']}"
        attributes = {**self._common, "lc_service.run_id": str(run_id), **_asked(is_stream, parameters)}
        self._span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Make this the current span in a block, so that what an HTTP instrumentation tells is its child.

        Put it around the sending of one attempt, and around nothing that yields to the caller: a generator
        that is closed in another context cannot give back what it has attached.
        """
        if self._span is None:
            yield
            return
        from opentelemetry.trace import use_span  # noqa: PLC0415  an extra

        # Neither: they quote the error's text.
        with use_span(self._span, record_exception=False, set_status_on_exception=False):
            yield

    @harmless
    def on_attempt(self, record: AttemptRecord) -> None:
        """Record an attempt's metrics, and an event where it did not succeed."""
        is_last = record.status is AttemptStatus.ABANDONED or is_closing()
        self._tell(partial(self._tell_attempt, record), is_closing=is_last)

    def _tell(self, telling: Callable[[], None], *, is_closing: bool) -> None:
        self._is_handed_over |= is_closing  # and all that follows: it must not overtake
        if self._is_handed_over:
            hand_over(telling)
        else:
            telling()

    def _tell_attempt(self, record: AttemptRecord) -> None:
        self._last = record
        self._usage += record.usage
        self._certainty = max(self._certainty, record.certainty, key=_UNCERTAINTY.index)
        error = {} if record.error_kind is None else {ERROR_TYPE: record.error_kind}
        self._metrics.on_attempt(record, {**self._answered(), **error})
        if record.error_kind is not None and self._span is not None:
            status = record.status_code
            self._span.add_event(
                "lc_service.attempt_failed",
                {
                    "lc_service.attempt": record.attempt,
                    "lc_service.attempt.duration_seconds": record.latency_seconds,
                    **({} if status is None else {"http.response.status_code": status}),
                    **certainty_flag(record.certainty),
                    **error,
                },
            )

    @harmless
    def on_retry(self, event: RetryEvent) -> None:
        """Add the event of a retry, before its wait."""
        if self._span is not None:
            attributes: dict[str, str | int | float] = {
                "lc_service.attempt": event.attempt,
                "lc_service.wait_seconds": event.wait_seconds,
                ERROR_TYPE: str(event.verdict.kind),
            }
            telling = partial(self._span.add_event, "lc_service.retry", attributes)
            self._tell(telling, is_closing=is_closing())

    @harmless
    def end(self, error: BaseException | None = None, *, finish_reasons: Sequence[str] = ()) -> None:
        """End the call: its span, and its duration. A second end is ignored.

        A cancelled call is an error of the type `cancelled`; a stream that the caller stopped reading
        (`GeneratorExit`) is none, and has the attribute `lc_service.abandoned`.

        Args:
            error: What the call raises; its text is not read.
            finish_reasons: Of each choice of the answer.
        """
        if self._is_ended:
            return
        self._is_ended = True
        now = clock.now() - self._started, time.time_ns()
        self._tell(partial(self._tell_end, error, finish_reasons, *now), is_closing=is_closing(error))

    def _tell_end(
        self, error: BaseException | None, finish_reasons: Sequence[str], seconds: float, at_nanoseconds: int
    ) -> None:
        try:
            self._tell_outcome(_outcome(error), finish_reasons, seconds)
        finally:
            if self._span is not None:
                self._span.end(at_nanoseconds)

    def _tell_outcome(
        self, outcome: Mapping[str, str | int], finish_reasons: Sequence[str], seconds: float
    ) -> None:
        self._time(outcome, seconds)
        if self._span is None:
            return
        self._span.set_attributes({**self._result(), **outcome})
        if finish_reasons:
            self._span.set_attribute("gen_ai.response.finish_reasons", list(finish_reasons))
        if ERROR_TYPE in outcome:
            from opentelemetry.trace import StatusCode  # noqa: PLC0415  an extra

            self._span.set_status(StatusCode.ERROR)

    @harmless
    def _time(self, outcome: Mapping[str, str | int], seconds: float) -> None:
        operation = str(self._common["gen_ai.operation.name"])
        self._metrics.on_call(seconds, {**self._answered(), **outcome}, operation)

    def _answered(self) -> dict[str, str | int]:
        model = self._last.response_model if self._last is not None else None
        return self._common if model is None else {**self._common, "gen_ai.response.model": model}

    def _result(self) -> dict[str, str | int | float]:
        last = self._last
        if last is None:
            return {"lc_service.attempts": 0}
        result: dict[str, str | int | float] = {"lc_service.attempts": last.attempt}
        if self._usage.total_tokens or self._certainty is Certainty.MEASURED:
            result |= usage_attributes(self._usage, is_latest=self._is_latest)
            if last.operation == "embeddings":
                del result["gen_ai.usage.output_tokens"]
        for name, value in (
            ("gen_ai.response.model", last.response_model),
            ("gen_ai.response.time_to_first_chunk", last.first_chunk_seconds),
            ("openai.response.service_tier", last.service_tier),
        ):
            if value is not None:
                result[name] = value
        return {**result, **certainty_flag(self._certainty)}


def _outcome(error: BaseException | None) -> dict[str, str | int]:
    if error is None:
        return {}
    if isinstance(error, GeneratorExit):
        return {"lc_service.abandoned": True}
    kind = classify(error).kind
    return {ERROR_TYPE: type(error).__name__ if kind is ErrorKind.UNKNOWN else str(kind)}


def _asked(is_stream: bool, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    asked: dict[str, Any] = {"gen_ai.request.stream": True} if is_stream else {}
    for name, value in (parameters or {}).items():
        if name in _PARAMETERS and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            asked[_PARAMETERS[name]] = value
        elif name == "n" and isinstance(value, int) and value != 1:
            asked["gen_ai.request.choice.count"] = value
    return asked
