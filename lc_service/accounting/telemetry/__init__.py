"""Spans and metrics of model calls for OpenTelemetry, by the GenAI conventions; without content."""

from lc_service.accounting.telemetry.call_span import CallSpan
from lc_service.accounting.telemetry.telemetry import Telemetry

__all__ = ["CallSpan", "Telemetry"]
