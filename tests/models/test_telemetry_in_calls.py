"""What OpenTelemetry is told by whole calls, of every shape, against a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from lc_service import ReliableOpenAIEmbeddings, RetryWithExponentialBackoff
from lc_service.accounting.telemetry import Telemetry

PROMPT = "the prompt that nobody may see"


async def drain(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


def embeddings_of(model: Any) -> ReliableOpenAIEmbeddings:
    return ReliableOpenAIEmbeddings(
        model="text-embedding-3-small",
        api_key=model.openai_api_key,
        base_url=model.openai_api_base,
        retry=model.retry,
        telemetry=model.telemetry,
    )


CALLS: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda model: model.invoke(PROMPT),
    "ainvoke": lambda model: asyncio.run(model.ainvoke(PROMPT)),
    "stream": lambda model: list(model.stream(PROMPT)),
    "astream": lambda model: asyncio.run(drain(model.astream(PROMPT))),
    "embed": lambda model: embeddings_of(model).embed_query(PROMPT),
    "aembed": lambda model: asyncio.run(embeddings_of(model).aembed_query(PROMPT)),
}
every_call = pytest.mark.parametrize("shape", CALLS)


class Backend:
    """An OpenTelemetry SDK that keeps what it is told."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader])
        self.telemetry = Telemetry(meter_provider=self.meter_provider, tracer_provider=self.tracer_provider)

    @property
    def span(self) -> Any:
        (span,) = self.exporter.get_finished_spans()
        return span

    def counted_tokens(self) -> int:
        data = self.reader.get_metrics_data()
        return sum(
            int(point.sum)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "gen_ai.client.token.usage"
            for point in metric.data.data_points
        )

    def everything(self) -> str:
        data = self.reader.get_metrics_data()
        return data.to_json() + "".join(span.to_json() for span in self.exporter.get_finished_spans())


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.delenv("OTEL_SEMCONV_STABILITY_OPT_IN", raising=False)
    backend = Backend()
    yield backend
    backend.tracer_provider.shutdown()
    backend.meter_provider.shutdown()


@every_call
def test_a_call_is_one_span_with_what_was_billed(
    shape: str, simulate: Any, make_model: Any, backend: Backend, key: str
) -> None:
    server = simulate()
    CALLS[shape](make_model(telemetry=backend.telemetry, temperature=0.5, stream_usage=True))
    span, billed = backend.span, server.bill.total
    is_chat = not shape.endswith("embed")
    assert span.name == ("chat gpt-4.1-mini" if is_chat else "embeddings text-embedding-3-small")
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert span.events == ()
    told = dict(span.attributes)
    assert (told["server.address"], told["server.port"]) == ("127.0.0.1", urlsplit(server.base_url).port)
    assert told.get("gen_ai.request.temperature") == (0.5 if is_chat else None)
    assert told.get("gen_ai.request.stream", False) is ("stream" in shape)
    assert ("gen_ai.response.time_to_first_chunk" in told) is ("stream" in shape)
    assert told.get("gen_ai.response.finish_reasons") == (("stop",) if is_chat else None)
    assert told["lc_service.attempts"] == 1
    assert told["gen_ai.usage.input_tokens"] == billed.input_tokens
    assert told.get("gen_ai.usage.output_tokens", 0) == billed.output_tokens
    assert backend.counted_tokens() == billed.total_tokens
    assert PROMPT not in backend.everything()
    assert key not in backend.everything()


@every_call
def test_a_failed_attempt_and_its_retry_are_events_of_the_call(
    shape: str, simulate: Any, make_model: Any, backend: Backend
) -> None:
    server = simulate(faults=["server_error"])
    CALLS[shape](make_model(telemetry=backend.telemetry, stream_usage=True))
    failed, retried = backend.span.events
    assert (failed.name, retried.name) == ("lc_service.attempt_failed", "lc_service.retry")
    assert failed.attributes["http.response.status_code"] == 500
    assert retried.attributes["lc_service.wait_seconds"] >= 0
    assert {event.attributes["lc_service.attempt"] for event in (failed, retried)} == {1}
    assert backend.span.status.status_code is StatusCode.UNSET
    assert backend.span.attributes["lc_service.attempts"] == 2 == len(server.requests)
    assert backend.counted_tokens() == server.bill.total.total_tokens


@every_call
def test_a_call_that_fails_is_an_error_of_its_kind(
    shape: str, simulate: Any, make_model: Any, backend: Backend
) -> None:
    simulate(faults=["unauthorized"])
    with pytest.raises(openai.AuthenticationError):
        CALLS[shape](make_model(telemetry=backend.telemetry, retry=RetryWithExponentialBackoff()))
    assert backend.span.status.status_code is StatusCode.ERROR
    assert backend.span.attributes["error.type"] == "authentication"
    assert backend.span.attributes["lc_service.attempts"] == 1


def test_the_call_is_in_the_callers_trace_and_its_request_in_the_calls(
    simulate: Any, make_model: Any, backend: Backend
) -> None:
    """So that what an HTTP instrumentation tells has its place."""
    simulate()
    seen: list[Any] = []
    client = httpx2.Client(event_hooks={"request": [lambda _: seen.append(trace.get_current_span())]})
    model = make_model(telemetry=backend.telemetry, http_client=client)
    with client, backend.tracer_provider.get_tracer("test").start_as_current_span("the caller's") as outer:
        model.invoke(PROMPT)
        assert trace.get_current_span() is outer
    call = next(s for s in backend.exporter.get_finished_spans() if s.name.startswith("chat"))
    assert call.parent is not None
    assert call.parent.span_id == outer.get_span_context().span_id
    (during,) = seen
    assert during.get_span_context().span_id == call.context.span_id


def test_each_choice_tells_why_it_ended(simulate: Any, make_model: Any, backend: Backend) -> None:
    simulate()
    make_model(telemetry=backend.telemetry, n=2, max_tokens=3).invoke(PROMPT)
    assert backend.span.attributes["gen_ai.response.finish_reasons"] == ("length", "length")
