"""The metrics of OpenTelemetry's GenAI conventions, as they were last published and as they are becoming.

Tokens are recorded once for each attempt that has any, so sums are what was billed. Makes no spans.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from lc_service.accounting.record import AttemptRecord, Certainty
from lc_service.accounting.usage import TokenUsage

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, Meter

Attributes = Mapping[str, str | int]

# As the conventions advise
_TOKEN_BOUNDARIES = [4**power for power in range(14)]
_SECONDS_BOUNDARIES = [0.01 * 2**power for power in range(14)]
CERTAINTY = "lc_service.usage.certainty"
ERROR_TYPE = "error.type"


class GenAIMetrics(Protocol):
    """One version of the conventions' metrics; thread-safe, as meters are."""

    def on_attempt(self, record: AttemptRecord, attributes: Attributes) -> None:
        """Record what one HTTP attempt used and how long it took."""

    def on_call(self, seconds: float, attributes: Attributes, operation: str) -> None:
        """Record how long a call took, its retries and waits included."""


def certainty_flag(certainty: Certainty) -> dict[str, str]:
    """Return the attribute that flags usage which the server did not tell; none where it did."""
    return {} if certainty is Certainty.MEASURED else {CERTAINTY: str(certainty)}


class PublishedMetrics:
    """As published last in the main conventions (1.41): one histogram of tokens by type."""

    def __init__(self, meter: Meter) -> None:
        self._tokens = _tokens(meter, "gen_ai.client.token.usage", "Number of input and output tokens used.")
        self._duration = _seconds(meter, "gen_ai.client.operation.duration", "GenAI operation duration.")
        self._first_chunk = _first_chunk(meter, "gen_ai.client.operation.time_to_first_chunk")
        self._attempt = _attempt_duration(meter)

    def on_attempt(self, record: AttemptRecord, attributes: Attributes) -> None:
        """Record an attempt; one that used nothing, or nobody knows what, leaves the tokens alone."""
        flagged = {**attributes, **certainty_flag(record.certainty)}
        self._attempt.record(record.latency_seconds, flagged)
        usage = record.usage
        if usage.total_tokens:
            tokens_of = {**flagged}
            tokens_of.pop(ERROR_TYPE, None)
            self._tokens.record(usage.input_tokens, {**tokens_of, "gen_ai.token.type": "input"})
            if record.operation == "chat":
                self._tokens.record(usage.output_tokens, {**tokens_of, "gen_ai.token.type": "output"})
        if record.first_chunk_seconds is not None:
            self._first_chunk.record(record.first_chunk_seconds, attributes)

    def on_call(self, seconds: float, attributes: Attributes, operation: str) -> None:  # noqa: ARG002  as the protocol
        """Record a call."""
        self._duration.record(seconds, attributes)


class LatestMetrics:
    """As they are becoming (October 2026): counters of usage, and histograms of each operation's tokens."""

    def __init__(self, meter: Meter) -> None:
        def counter(name: str, of: str) -> Counted:
            return meter.create_counter(
                f"gen_ai.client.inference.usage.{name}", "{token}", f"The number of {of}."
            )

        self._input = counter("input_tokens", "input (prompt) tokens used, including cached tokens")
        self._output = counter("output_tokens", "output (completion) tokens used, including reasoning tokens")
        self._parts = {
            "cached_input_tokens": counter("cache_read.input_tokens", "input tokens read from a cache"),
            "cache_write_tokens": counter("cache_write.input_tokens", "input tokens written to a cache"),
            "reasoning_tokens": counter("reasoning.output_tokens", "output tokens used for reasoning"),
        }
        prefix = "gen_ai.client.inference."
        self._each_input = _tokens(meter, prefix + "operation.input_tokens", "Input tokens of an operation.")
        self._each_output = _tokens(
            meter, prefix + "operation.output_tokens", "Output tokens of an operation."
        )
        self._inference = _seconds(meter, prefix + "duration", "GenAI client inference operation duration.")
        self._other = _seconds(meter, "gen_ai.client.operation.duration", "GenAI operation duration.")
        self._first_chunk = _first_chunk(meter, prefix + "time_to_first_chunk")
        self._attempt = _attempt_duration(meter)

    def on_attempt(self, record: AttemptRecord, attributes: Attributes) -> None:
        """Record an attempt; one that used nothing, or nobody knows what, counts 0 of unknown modality."""
        flagged = {**attributes, **certainty_flag(record.certainty)}
        self._attempt.record(record.latency_seconds, flagged)
        flagged.pop(ERROR_TYPE, None)
        usage, is_chat = record.usage, record.operation == "chat"
        self._count(self._input, usage.input_tokens, usage.audio_input_tokens, flagged)
        if is_chat:
            self._count(self._output, usage.output_tokens, usage.audio_output_tokens, flagged)
        for name, counter in self._parts.items():
            if count := getattr(usage, name):
                counter.add(count, {**flagged, "gen_ai.token.modality": "unknown"})
        if usage.total_tokens:
            self._each_input.record(usage.input_tokens, flagged)
            if is_chat:
                self._each_output.record(usage.output_tokens, flagged)
        if record.first_chunk_seconds is not None:
            self._first_chunk.record(record.first_chunk_seconds, attributes)

    def on_call(self, seconds: float, attributes: Attributes, operation: str) -> None:
        """Record a call; those that are no inference keep the older name."""
        (self._inference if operation == "chat" else self._other).record(seconds, attributes)

    @staticmethod
    def _count(counter: Counted, tokens: int, audio_tokens: int, attributes: Attributes) -> None:
        # What is no audio may be text or images: usage does not tell
        counter.add(tokens - audio_tokens, {**attributes, "gen_ai.token.modality": "unknown"})
        if audio_tokens:
            counter.add(audio_tokens, {**attributes, "gen_ai.token.modality": "audio"})


class Counted(Protocol):
    """A counter, as meters make them."""

    def add(self, amount: int, attributes: Attributes) -> None:
        """Add to it."""


def usage_attributes(usage: TokenUsage, *, is_latest: bool) -> dict[str, int]:
    """Return a span's attributes for what was used; details only where there are any."""
    written = "cache_write" if is_latest else "cache_creation"
    details = {
        "cache_read.input_tokens": usage.cached_input_tokens,
        f"{written}.input_tokens": usage.cache_write_tokens,
        "reasoning.output_tokens": usage.reasoning_tokens,
    }
    if is_latest:
        details |= {
            "audio.input_tokens": usage.audio_input_tokens,
            "audio.output_tokens": usage.audio_output_tokens,
        }
    counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    return {
        f"gen_ai.usage.{name}": count
        for name, count in (counts | {name: count for name, count in details.items() if count}).items()
    }


def _tokens(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(
        name, "{token}", description, explicit_bucket_boundaries_advisory=_TOKEN_BOUNDARIES
    )


def _seconds(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(
        name, "s", description, explicit_bucket_boundaries_advisory=_SECONDS_BOUNDARIES
    )


def _first_chunk(meter: Meter, name: str) -> Histogram:
    return _seconds(meter, name, "Time from sending a streaming request to its first chunk.")


def _attempt_duration(meter: Meter) -> Histogram:
    return _seconds(meter, "lc_service.client.attempt.duration", "Duration of one HTTP attempt.")
