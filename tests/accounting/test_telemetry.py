"""What OpenTelemetry is told of a call, seen through the SDK's in-memory exporters."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import json
import logging
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import openai
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics._internal.aggregation import _ExplicitBucketHistogramAggregation
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from lc_service import TruncatedResponseError
from lc_service.accounting.record import AttemptRecord, AttemptStatus, Certainty
from lc_service.accounting.telemetry import Telemetry, telling
from lc_service.accounting.telemetry.call_span import CallSpan
from lc_service.accounting.usage import TokenUsage
from lc_service.retry.errors import ErrorKind, Verdict
from lc_service.retry.event import RetryEvent

RUN = UUID(int=7)
SECRET = "the prompt that nobody may see"
USAGE = TokenUsage(
    input_tokens=100, cached_input_tokens=30, cache_write_tokens=20, output_tokens=50, reasoning_tokens=10
)
LATEST = "gen_ai_latest_experimental"


def record(**options: Any) -> AttemptRecord:
    return AttemptRecord(
        **{"run_id": RUN, "model": "gpt-4o", "response_model": "gpt-4o-2024-08-06", "usage": USAGE}
        | {"latency_seconds": 0.5}
        | options
    )


def failed(**options: Any) -> AttemptRecord:
    failure = {
        "status": AttemptStatus.FAILED,
        "usage": TokenUsage(),
        "response_model": None,
        "error_kind": "rate_limit",
        "status_code": 429,
    }
    return record(**failure | options)


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Backend:
    """Providers of the SDK that keep what they are given."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(**options)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader])
        self.telemetry = Telemetry(meter_provider=self.meter_provider, tracer_provider=self.tracer_provider)

    def start(self, **options: Any) -> CallSpan:
        return self.telemetry.start_call(
            **{"operation": "chat", "model": "gpt-4o", "run_id": RUN} | options  # type: ignore[arg-type]
        )

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    @property
    def span(self) -> Any:
        (span,) = self.spans
        return span

    def metrics(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def everything(self) -> str:
        data = self.reader.get_metrics_data()
        return (data.to_json() if data else "") + "".join(span.to_json() for span in self.spans)


@pytest.fixture
def make_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Backend]]:
    monkeypatch.delenv("OTEL_SEMCONV_STABILITY_OPT_IN", raising=False)
    monkeypatch.setattr(telling, "_logged", set())
    made: list[Backend] = []

    def make(opt_in: str = "", **options: Any) -> Backend:
        monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)
        made.append(Backend(**options))
        return made[-1]

    yield make
    for backend in made:
        backend.tracer_provider.shutdown()
        backend.meter_provider.shutdown()


@pytest.fixture
def backend(make_backend: Callable[..., Backend]) -> Backend:
    return make_backend()


@pytest.fixture
def latest(make_backend: Callable[..., Backend]) -> Backend:
    return make_backend(f"http, {LATEST}")


COMMON = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
}
ANSWERED = COMMON | {"gen_ai.response.model": "gpt-4o-2024-08-06"}


class TestSpan:
    def test_a_whole_call(self, backend: Backend) -> None:
        call = backend.start(server_address="example.test", server_port=8443)
        call.on_attempt(record(service_tier="default"))
        call.end(finish_reasons=["stop"])
        span = backend.span
        assert span.name == "chat gpt-4o"
        assert span.kind is SpanKind.CLIENT
        assert span.status.status_code is StatusCode.UNSET
        assert span.events == ()
        assert dict(span.attributes) == ANSWERED | {
            "gen_ai.system": "openai",
            "server.address": "example.test",
            "server.port": 8443,
            "lc_service.run_id": str(RUN),
            "lc_service.attempts": 1,
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 50,
            "gen_ai.usage.cache_read.input_tokens": 30,
            "gen_ai.usage.cache_creation.input_tokens": 20,
            "gen_ai.usage.reasoning.output_tokens": 10,
            "gen_ai.response.finish_reasons": ("stop",),
            "openai.response.service_tier": "default",
        }

    def test_what_was_asked(self, backend: Backend) -> None:
        parameters = {
            "max_completion_tokens": 100,
            "temperature": 0.5,
            "top_p": 1,
            "seed": 3,
            "n": 2,
            "service_tier": "flex",
            "stop": [SECRET],
            "messages": [SECRET],
            "user": SECRET,
            "frequency_penalty": None,
        }
        backend.start(is_stream=True, parameters=parameters).end()
        asked = {
            name.removeprefix("gen_ai.request."): value
            for name, value in backend.span.attributes.items()
            if ".request." in name
        }
        assert asked == {
            "model": "gpt-4o",
            "stream": True,
            "max_tokens": 100,
            "temperature": 0.5,
            "top_p": 1,
            "seed": 3,
            "choice.count": 2,
            "openai.request.service_tier": "flex",
        }
        assert SECRET not in backend.everything()

    def test_is_a_child_of_the_current_span(self, backend: Backend) -> None:
        tracer = backend.tracer_provider.get_tracer("test")
        with tracer.start_as_current_span("outer") as outer:
            call = backend.start()
        call.end()
        span = backend.spans[-1]
        assert span.parent is not None
        assert span.parent.span_id == outer.get_span_context().span_id

    def test_retries_are_events_and_their_usage_counts(self, backend: Backend) -> None:
        call = backend.start()
        call.on_attempt(failed())
        error = openai.APIConnectionError(message=SECRET, request=SimpleNamespace(url=SECRET))  # type: ignore[arg-type]
        call.on_retry(
            RetryEvent(
                attempt=1,
                wait_seconds=1.5,
                elapsed_seconds=0.5,
                verdict=Verdict(kind=ErrorKind.RATE_LIMIT, is_transient=True),
                error=error,
            )
        )
        call.on_attempt(record(attempt=2))
        call.end()
        failure, retry = backend.span.events
        assert failure.name == "lc_service.attempt_failed"
        assert dict(failure.attributes) == {
            "lc_service.attempt": 1,
            "lc_service.attempt.duration_seconds": 0.5,
            "http.response.status_code": 429,
            "error.type": "rate_limit",
        }
        assert retry.name == "lc_service.retry"
        assert dict(retry.attributes) == {
            "lc_service.attempt": 1,
            "lc_service.wait_seconds": 1.5,
            "error.type": "rate_limit",
        }
        assert backend.span.status.status_code is StatusCode.UNSET
        assert backend.span.attributes["lc_service.attempts"] == 2
        assert SECRET not in backend.everything()

    def test_usage_adds_up_over_attempts(self, backend: Backend) -> None:
        call = backend.start()
        call.on_attempt(failed(usage=USAGE, certainty=Certainty.ESTIMATED))
        call.on_attempt(record(attempt=2))
        call.end()
        assert backend.span.attributes["gen_ai.usage.input_tokens"] == 200
        assert backend.span.attributes["lc_service.usage.certainty"] == "estimated"

    @pytest.mark.parametrize(
        ("certainties", "flag"),
        [
            (["measured", "measured"], None),
            (["estimated", "measured"], "estimated"),
            (["unknown", "measured"], "unknown"),
            (["estimated", "unknown", "measured"], "unknown"),
        ],
    )
    def test_the_least_certain_attempt_flags_the_call(
        self, certainties: list[str], flag: str | None, backend: Backend
    ) -> None:
        call = backend.start()
        for number, certainty in enumerate(certainties, 1):
            call.on_attempt(record(attempt=number, certainty=Certainty(certainty)))
        call.end()
        assert backend.span.attributes.get("lc_service.usage.certainty") == flag

    def test_unknown_usage_is_not_zero(self, backend: Backend) -> None:
        call = backend.start()
        call.on_attempt(failed(certainty=Certainty.UNKNOWN, error_kind="timeout", status_code=None))
        call.end(TimeoutError())
        assert "gen_ai.usage.input_tokens" not in backend.span.attributes
        assert backend.span.attributes["lc_service.usage.certainty"] == "unknown"

    @pytest.mark.parametrize(
        ("error", "error_type"),
        [
            (TruncatedResponseError(SECRET), "truncated"),
            (asyncio.CancelledError(SECRET), "cancelled"),
            (KeyboardInterrupt(SECRET), "cancelled"),
            (LookupError(SECRET), "LookupError"),
        ],
    )
    def test_an_error_is_named_and_not_quoted(
        self, error: BaseException, error_type: str, backend: Backend
    ) -> None:
        call = backend.start()
        call.on_attempt(failed(error_kind=error_type))
        call.end(error)
        assert backend.span.status.status_code is StatusCode.ERROR
        assert backend.span.status.description is None
        assert backend.span.attributes["error.type"] == error_type
        (duration,) = backend.metrics()["gen_ai.client.operation.duration"]
        assert duration.attributes["error.type"] == error_type
        assert SECRET not in backend.everything()

    def test_an_abandoned_stream_is_no_error(self, backend: Backend) -> None:
        call = backend.start(is_stream=True)
        call.on_attempt(record(status=AttemptStatus.ABANDONED, certainty=Certainty.ESTIMATED))
        call.end(GeneratorExit())
        wait_until(lambda: bool(backend.spans))
        assert backend.span.status.status_code is StatusCode.UNSET
        assert backend.span.attributes["lc_service.abandoned"] is True
        assert "error.type" not in backend.span.attributes
        (duration,) = backend.metrics()["gen_ai.client.operation.duration"]
        assert duration.attributes["lc_service.abandoned"] is True

    def test_a_call_that_was_never_sent(self, backend: Backend) -> None:
        backend.start().end(RuntimeError(SECRET))
        assert backend.span.attributes["lc_service.attempts"] == 0
        assert "gen_ai.usage.input_tokens" not in backend.span.attributes

    def test_ends_once(self, backend: Backend) -> None:
        call = backend.start()
        call.end()
        call.end(RuntimeError())
        assert backend.span.status.status_code is StatusCode.UNSET
        (duration,) = backend.metrics()["gen_ai.client.operation.duration"]
        assert duration.count == 1


class TestActivate:
    def test_what_is_sent_within_is_a_child(self, backend: Backend) -> None:
        tracer = backend.tracer_provider.get_tracer("http")
        call = backend.start()
        with call.activate():
            tracer.start_span("POST").end()
        assert trace.get_current_span() is trace.INVALID_SPAN
        call.end()
        child, span = backend.spans
        assert child.parent is not None
        assert child.parent.span_id == span.get_span_context().span_id

    def test_an_error_passes_through_unquoted(self, backend: Backend) -> None:
        call = backend.start()
        with pytest.raises(ValueError, match=SECRET), call.activate():
            raise ValueError(SECRET)
        call.end()
        assert backend.span.status.status_code is StatusCode.UNSET
        assert SECRET not in backend.everything()

    async def test_tasks_have_their_own(self, backend: Backend) -> None:
        tracer = backend.tracer_provider.get_tracer("http")
        started = asyncio.Barrier(5)

        async def one(number: int) -> None:
            call = backend.start(model=f"m{number}")
            with call.activate():
                await started.wait()
                tracer.start_span(f"POST {number}").end()
            call.end()

        await asyncio.gather(*(one(number) for number in range(5)))
        spans = {span.name: span for span in backend.spans}
        for number in range(5):
            parent = spans[f"POST {number}"].parent
            assert parent is not None
            assert parent.span_id == spans[f"chat m{number}"].context.span_id

    def test_a_call_may_end_in_another_thread_and_context(
        self, backend: Backend, caplog: pytest.LogCaptureFixture
    ) -> None:
        call = backend.start()

        def finish() -> None:
            call.on_attempt(record())
            call.end(GeneratorExit())

        thread = threading.Thread(target=contextvars.Context().run, args=(finish,))
        thread.start()
        thread.join()
        assert backend.span.attributes["lc_service.attempts"] == 1
        assert caplog.records == []


class TestPublishedMetrics:
    def test_tokens_and_duration(self, backend: Backend, fake_clock: Any) -> None:
        call = backend.start(server_address="example.test", server_port=80)
        fake_clock.advance(3.0)
        call.on_attempt(record(is_stream=True, first_chunk_seconds=0.25, latency_seconds=2.0))
        call.end()
        metrics = backend.metrics()
        assert set(metrics) == {
            "gen_ai.client.token.usage",
            "gen_ai.client.operation.duration",
            "gen_ai.client.operation.time_to_first_chunk",
            "lc_service.client.attempt.duration",
        }
        common = ANSWERED | {"gen_ai.system": "openai", "server.address": "example.test", "server.port": 80}
        tokens = {
            point.attributes["gen_ai.token.type"]: point for point in metrics["gen_ai.client.token.usage"]
        }
        assert (tokens["input"].sum, tokens["output"].sum) == (100, 50)
        assert dict(tokens["input"].attributes) == common | {"gen_ai.token.type": "input"}
        assert list(tokens["input"].explicit_bounds)[:4] == [1, 4, 16, 64]
        assert tokens["input"].explicit_bounds[-1] == 67108864
        for name, seconds in (
            ("gen_ai.client.operation.duration", 3.0),
            ("gen_ai.client.operation.time_to_first_chunk", 0.25),
            ("lc_service.client.attempt.duration", 2.0),
        ):
            (point,) = metrics[name]
            assert point.sum == pytest.approx(seconds)
            assert dict(point.attributes) == common
            assert point.explicit_bounds[0] == 0.01
            assert point.explicit_bounds[-1] == pytest.approx(81.92)

    def test_each_attempt_is_timed_and_only_those_with_usage_count_tokens(self, backend: Backend) -> None:
        call = backend.start()
        call.on_attempt(failed())
        call.on_attempt(failed(attempt=2, certainty=Certainty.UNKNOWN, error_kind="timeout"))
        call.on_attempt(failed(attempt=3, usage=USAGE, certainty=Certainty.ESTIMATED, error_kind="truncated"))
        call.on_attempt(record(attempt=4))
        call.end()
        metrics = backend.metrics()
        timed = {
            (
                point.attributes.get("error.type"),
                point.attributes.get("lc_service.usage.certainty"),
            ): point.count
            for point in metrics["lc_service.client.attempt.duration"]
        }
        assert timed == {
            ("rate_limit", None): 1,
            ("timeout", "unknown"): 1,
            ("truncated", "estimated"): 1,
            (None, None): 1,
        }
        tokens = {
            (
                point.attributes["gen_ai.token.type"],
                point.attributes.get("lc_service.usage.certainty"),
            ): point.sum
            for point in metrics["gen_ai.client.token.usage"]
        }
        assert tokens == {
            ("input", "estimated"): 100,
            ("output", "estimated"): 50,
            ("input", None): 100,
            ("output", None): 50,
        }
        (duration,) = metrics["gen_ai.client.operation.duration"]
        assert "error.type" not in duration.attributes

    def test_embeddings_have_no_output(self, backend: Backend) -> None:
        call = backend.start(operation="embeddings", model="e", parameters={"dimensions": 64})
        call.on_attempt(record(operation="embeddings", usage=TokenUsage(input_tokens=9)))
        call.end()
        (tokens,) = backend.metrics()["gen_ai.client.token.usage"]
        assert (tokens.sum, tokens.attributes["gen_ai.token.type"]) == (9, "input")
        assert backend.span.name == "embeddings e"
        assert backend.span.attributes["gen_ai.embeddings.dimension.count"] == 64
        assert backend.span.attributes["gen_ai.usage.input_tokens"] == 9
        assert "gen_ai.usage.output_tokens" not in backend.span.attributes

    def test_metrics_do_not_depend_on_sampling(self, make_backend: Callable[..., Backend]) -> None:
        backend = make_backend(sampler=ALWAYS_OFF)
        call = backend.start()
        with call.activate():
            call.on_attempt(record())
        call.end()
        assert backend.spans == ()
        assert backend.metrics()["gen_ai.client.token.usage"][0].sum == 100


class TestLatestMetrics:
    def test_counters_by_modality(self, latest: Backend) -> None:
        usage = TokenUsage(
            input_tokens=100,
            cached_input_tokens=30,
            cache_write_tokens=20,
            audio_input_tokens=40,
            output_tokens=50,
            reasoning_tokens=10,
            audio_output_tokens=5,
        )
        call = latest.start()
        call.on_attempt(record(usage=usage, is_stream=True, first_chunk_seconds=0.25))
        call.end()
        metrics = latest.metrics()
        counted = {
            (
                name.removeprefix("gen_ai.client.inference.usage."),
                point.attributes["gen_ai.token.modality"],
            ): (point.value)
            for name, points in metrics.items()
            if ".usage." in name
            for point in points
        }
        assert counted == {
            ("input_tokens", "unknown"): 60,
            ("input_tokens", "audio"): 40,
            ("output_tokens", "unknown"): 45,
            ("output_tokens", "audio"): 5,
            ("cache_read.input_tokens", "unknown"): 30,
            ("cache_write.input_tokens", "unknown"): 20,
            ("reasoning.output_tokens", "unknown"): 10,
        }
        assert {name for name in metrics if ".usage." not in name} == {
            "gen_ai.client.inference.duration",
            "gen_ai.client.inference.time_to_first_chunk",
            "gen_ai.client.inference.operation.input_tokens",
            "gen_ai.client.inference.operation.output_tokens",
            "lc_service.client.attempt.duration",
        }
        (each,) = metrics["gen_ai.client.inference.operation.input_tokens"]
        assert each.sum == 100
        assert dict(each.attributes) == ANSWERED
        attributes = latest.span.attributes
        assert "gen_ai.system" not in attributes
        assert attributes["gen_ai.usage.cache_write.input_tokens"] == 20
        assert attributes["gen_ai.usage.audio.input_tokens"] == 40

    def test_failed_and_unknown_attempts_count_zero(self, latest: Backend) -> None:
        call = latest.start()
        call.on_attempt(failed())
        call.on_attempt(failed(attempt=2, certainty=Certainty.UNKNOWN))
        call.end(LookupError())
        points = latest.metrics()["gen_ai.client.inference.usage.input_tokens"]
        assert {
            (point.value, point.attributes["gen_ai.token.modality"], point.attributes.get("error.type"))
            for point in points
        } == {(0, "unknown", None)}
        assert {point.attributes.get("lc_service.usage.certainty") for point in points} == {None, "unknown"}
        assert "gen_ai.client.inference.operation.input_tokens" not in latest.metrics()

    def test_embeddings_keep_the_name_of_their_duration(self, latest: Backend) -> None:
        call = latest.start(operation="embeddings")
        call.on_attempt(record(operation="embeddings", usage=TokenUsage(input_tokens=9)))
        call.end()
        metrics = latest.metrics()
        assert metrics["gen_ai.client.operation.duration"][0].count == 1
        assert "gen_ai.client.inference.duration" not in metrics
        assert "gen_ai.client.inference.usage.output_tokens" not in metrics

    @pytest.mark.parametrize(
        ("opt_in", "is_latest"), [("", False), ("http/dup", False), (LATEST, True), (f"a,{LATEST} ,b", True)]
    )
    def test_is_picked_by_the_environment(
        self, opt_in: str, is_latest: bool, make_backend: Callable[..., Backend]
    ) -> None:
        assert make_backend(opt_in).telemetry.is_latest is is_latest


class TestHarmless:
    def test_a_broken_backend_stops_no_call_and_is_logged_once(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise OSError(SECRET)

        for method in ("on_attempt", "on_call"):
            monkeypatch.setattr(backend.telemetry._metrics, method, refuse)
        monkeypatch.setattr(backend.telemetry, "_tracer", SimpleNamespace(start_span=refuse))
        for _ in range(3):
            call = backend.start()
            with call.activate():
                call.on_attempt(failed())
            call.on_retry(SimpleNamespace())  # type: ignore[arg-type]
            call.end(LookupError(SECRET))
        (entry,) = (entry for entry in caplog.records if entry.levelno == logging.ERROR)
        assert "OSError" in entry.getMessage()
        assert SECRET not in caplog.text

    def test_broken_metrics_leave_the_span_whole(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise OSError(SECRET)

        monkeypatch.setattr(backend.telemetry._metrics, "on_call", refuse)
        call = backend.start()
        call.on_attempt(record())
        call.end(LookupError())
        assert backend.span.attributes["error.type"] == "LookupError"
        assert backend.span.attributes["gen_ai.usage.input_tokens"] == 100
        assert len(caplog.records) == 1

    def test_nonsense_is_survived(self, backend: Backend) -> None:
        backend.start(parameters=[SECRET]).end()
        assert backend.spans == ()
        call = backend.start(model=None)
        call.on_attempt(None)  # type: ignore[arg-type]
        call.on_retry(None)  # type: ignore[arg-type]
        call.end("no error", finish_reasons=3)  # type: ignore[arg-type]
        assert backend.span.name == "chat None"

    def test_without_an_sdk_nothing_happens(self) -> None:
        call = Telemetry().start_call(operation="chat", model="m", run_id=RUN)
        with call.activate():
            call.on_attempt(record())
        call.end()

    def test_copies_share_their_providers(self, backend: Backend) -> None:
        assert copy.deepcopy(backend.telemetry) is backend.telemetry
        with pytest.raises(TypeError, match="providers of its own"):
            pickle.dumps(backend.telemetry)
        assert isinstance(pickle.loads(pickle.dumps(Telemetry())), Telemetry)

    def test_many_threads_lose_nothing(self, backend: Backend) -> None:
        def work() -> None:
            for _ in range(50):
                call = backend.start()
                call.on_attempt(record())
                call.end()

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(backend.spans) == 400
        inputs = [
            point
            for point in backend.metrics()["gen_ai.client.token.usage"]
            if point.attributes["gen_ai.token.type"] == "input"
        ]
        assert [(point.count, point.sum) for point in inputs] == [(400, 40_000)]


def stream(backend: Backend, error: Exception | None = None) -> Iterator[None]:
    """Abandoned, it tells of its attempt as a model's stream does."""
    call = backend.start(is_stream=True)
    try:
        yield
    except BaseException as ending:
        if error is not None:
            raise error from None
        call.on_attempt(record(status=AttemptStatus.ABANDONED))
        call.end(ending)
        raise
    finally:
        if error is not None:
            call.on_attempt(failed())
            call.end(error)


class TestFinalizer:
    """The garbage collector closes streams in the midst of anything, the SDK's locks included."""

    @pytest.mark.parametrize("is_ours", [True, False])
    @pytest.mark.parametrize("error", [None, RuntimeError("the loop is closed")])
    def test_a_stream_collected_inside_of_the_sdk_is_told(
        self, error: Exception | None, is_ours: bool, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cycles: list[Any] = []
        collected: list[threading.Thread] = []
        real = _ExplicitBucketHistogramAggregation.__init__

        def collect(*args: Any, **options: Any) -> None:  # as an allocation does that starts the collector
            if cycles and not collected:
                collected.append(threading.current_thread())
                cycles.clear()
                gc.collect()
            real(*args, **options)

        monkeypatch.setattr(_ExplicitBucketHistogramAggregation, "__init__", collect)
        monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # of the error
        backend.start(model="first").on_attempt(record())  # so that all histograms are there
        abandoned = stream(backend, error)
        next(abandoned)
        cycles.append(abandoned)
        holder: list[Any] = [abandoned]
        holder.append(holder)
        del abandoned, holder
        other = backend.telemetry._metrics._attempt  # type: ignore[attr-defined]

        def call_sdk() -> None:
            if is_ours:
                backend.start(model="another").on_attempt(record())
            else:
                other.record(1.0, {"users": "own"})

        thread = threading.Thread(target=call_sdk, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), "it waits for a lock of its own"
        assert collected == [thread]
        wait_until(lambda: bool(backend.spans))
        assert backend.span.attributes["lc_service.attempts"] == 1

    def test_what_follows_does_not_overtake(self, backend: Backend) -> None:
        with telling._telling:
            call = backend.start()
            call.on_attempt(record(status=AttemptStatus.ABANDONED))
            call.end()
            assert backend.spans == ()
        wait_until(lambda: bool(backend.spans))
        assert backend.span.attributes["gen_ai.usage.input_tokens"] == 100

    def test_an_end_is_timed_when_it_comes(self, backend: Backend) -> None:
        with telling._telling:
            call = backend.start()
            call.end(GeneratorExit())
            after = time.time_ns()
        wait_until(lambda: bool(backend.spans))
        assert backend.span.end_time <= after

    def test_without_threads_the_next_one_tells_it(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            backend.start().end(GeneratorExit())
        assert backend.spans == ()
        backend.start().end(GeneratorExit())
        wait_until(lambda: len(backend.spans) == 2)

    def test_at_exit_it_is_told_before_the_providers_shut_down(self) -> None:
        program = """
import threading
from uuid import UUID
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, ConsoleSpanExporter
from lc_service.accounting.telemetry import Telemetry
def refuse(thread):
    raise RuntimeError
def abandon(provider):
    call = Telemetry(tracer_provider=provider).start_call(operation="chat", model="m", run_id=UUID(int=7))
    call.end(GeneratorExit())
abandon(TracerProvider())  # earlier than what is told to was made
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.name)))
threading.Thread.start = refuse
abandon(provider)
"""
        done = subprocess.run(  # noqa: S603  the program is the test's
            [sys.executable, "-c", program], check=True, timeout=50, capture_output=True
        )
        assert (done.stdout, done.stderr) == (b"chat m", b"")


def test_without_the_extra_there_is_one_clear_error() -> None:
    program = """
import sys
sys.modules["opentelemetry"] = None
from lc_service.accounting.telemetry import Telemetry
try:
    Telemetry()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=50, capture_output=True)  # noqa: S603
    assert b"lc-service[otel]" in done.stdout


def test_the_module_imports_no_opentelemetry_and_telemetry_no_sdk() -> None:
    program = """
import json, sys
import lc_service.accounting.telemetry as telemetry
before = "opentelemetry" in sys.modules
telemetry.Telemetry()
print(json.dumps([before, any(name.startswith("opentelemetry.sdk") for name in sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=50, capture_output=True)  # noqa: S603
    assert json.loads(done.stdout) == [False, False]
