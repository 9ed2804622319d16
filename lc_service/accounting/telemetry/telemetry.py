"""OpenTelemetry spans and metrics of model calls, by the GenAI conventions; needs the extra `otel`.

Nothing here raises into a call. No prompt, answer, error text or key is recorded. Makes no exporter and sets
no provider: that is the program's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from lc_service.accounting.telemetry.call_span import CallSpan
from lc_service.accounting.telemetry.metrics import GenAIMetrics, LatestMetrics, PublishedMetrics

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Tracer, TracerProvider

_PROVIDER = "openai"  # whose protocol it is: the convention does not ask who really answers


class Telemetry:
    """Tells OpenTelemetry of every call of the models that have it; thread-safe, shared by any number.

    A call is a span of kind CLIENT, a child of the span that is current when it starts; its failed attempts
    and retries are events of it. Metrics are recorded whether or not the span is sampled. The environment
    variable `OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental`, read here, picks the names that the
    conventions are moving to; docs/telemetry.md lists both.

    Args:
        meter_provider: Where metrics go; None means the global provider, also if it is set later.
        tracer_provider: Where spans go; None likewise.

    Attributes:
        is_latest: Whether it uses the names that the conventions are moving to.

    Raises:
        ImportError: OpenTelemetry's API is not installed.
    """

    def __init__(
        self, *, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
    ) -> None:
        try:
            from opentelemetry import metrics, trace  # noqa: PLC0415  an extra
        except ImportError as error:
            raise ImportError(
                "Telemetry needs OpenTelemetry's API: install lc-service[otel], and an SDK with exporters."
            ) from error
        opted = os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")
        self.is_latest = "gen_ai_latest_experimental" in map(str.strip, opted)
        self._providers = (meter_provider, tracer_provider)
        self._tracer: Tracer = trace.get_tracer("lc_service", tracer_provider=tracer_provider)
        meter = metrics.get_meter("lc_service", meter_provider=meter_provider)
        self._metrics: GenAIMetrics = LatestMetrics(meter) if self.is_latest else PublishedMetrics(meter)

    def start_call(
        self,
        *,
        operation: str,
        model: str,
        run_id: UUID,
        is_stream: bool = False,
        server_address: str | None = None,
        server_port: int | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> CallSpan:
        """Start the span of one call, which must be ended by `CallSpan.end`. Never raises.

        Args:
            operation: `"chat"` or `"embeddings"`.
            model: The model that is asked for.
            run_id: LangChain's run of the call, as in its `AttemptRecord`s.
            is_stream: Whether the answer is streamed.
            server_address: The host that is asked.
            server_port: Its port.
            parameters: Those of the request, by their names on the wire. The conventional ones among
                them that are numbers or words become attributes, all others are ignored.
        """
        common: dict[str, str | int] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": _PROVIDER,
            "gen_ai.request.model": model,
        }
        if not self.is_latest:
            common["gen_ai.system"] = _PROVIDER  # what dashboards from before 1.37 go by
        if server_address is not None:
            common["server.address"] = server_address
            if server_port is not None:
                common["server.port"] = server_port
        call = CallSpan(self._metrics, common, is_latest=self.is_latest)
        call.start(self._tracer, run_id, is_stream, parameters)
        return call

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a copied model tells the same providers

    def __reduce__(self) -> tuple[Any, ...]:
        if self._providers != (None, None):
            raise TypeError(
                "Telemetry with providers of its own cannot be pickled; with the global ones it can."
            )
        return type(self), ()
