"""The course of a request: key, body, fault, limits, answer, bill.

Invariant: every request ends in exactly one of served, failed or abandoned, and is billed by the
rules of `Bill` before the last byte of its answer leaves. One event loop runs it; nothing here
knows the formats of the endpoints.

The order of things: a wrong key, malformed JSON and invalid parameters are told first; then faults
that are errors, which cost no rate limit capacity; then the limits; then the answer, with the
faults that damage an answer. A rejected request uses up its fault and counts as an attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import orjson

from lc_service.simulator.bill import Bill, Operation, Usage
from lc_service.simulator.errors import (
    BAD_GATEWAY_PAGE,
    ApiError,
    Headers,
    context_length_exceeded,
    fault_error,
    mask_key,
    missing_key,
    rate_limited,
    wrong_key,
)
from lc_service.simulator.exchange import HTML, JSON, SSE, Exchange
from lc_service.simulator.faults import Fault
from lc_service.simulator.journal import Entry, Journal
from lc_service.simulator.limits import RateLimiter
from lc_service.simulator.script import FaultScript
from lc_service.simulator.stream import StreamEvent

_DAMAGING = frozenset({"slow", "stall", "cut", "no_finish", "not_json", "broken_json"})
_ENDS_EARLY = frozenset({"stall", "cut", "no_finish", "error_event"})


class Ask(Protocol):
    """A request that was read."""

    @property
    def model(self) -> str:
        """The model asked for."""

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt."""

    @property
    def admission_tokens(self) -> int:
        """What the rate limit charges."""


class Answer(Protocol):
    """An answer that was made, not yet written."""

    @property
    def usage(self) -> Usage:
        """What it costs as a whole."""

    def usage_after(self, visible_tokens: int) -> Usage:
        """Return what it costs when it ends after that much output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """How one path reads requests and writes answers.

    Attributes:
        operation: What the bill calls it.
        read: Reads a body, or raises `ApiError`.
        answer: Makes the answer to what was read.
        plain: Writes it whole: answer, request number, whether it is finished.
        events: Writes it as events; None where the path does not stream.
        error_event: Writes an error as an event of a stream.
        has_context: Whether the context window applies.
    """

    operation: Operation
    read: Callable[[Mapping[str, Any]], Any]
    answer: Callable[[Any], Answer]
    plain: Callable[..., bytes]
    events: Callable[[Any, int], Iterator[StreamEvent]] | None = None
    error_event: Callable[[ApiError, int], bytes] | None = None
    has_context: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """What an engine needs to know beyond its limits and faults."""

    api_key: str | None = None
    latency_seconds: float = 0.0
    chunk_delay_seconds: float = 0.0
    context_window_tokens: int = 128_000

    def __post_init__(self) -> None:
        if self.latency_seconds < 0 or self.chunk_delay_seconds < 0:
            raise ValueError("latency_seconds and chunk_delay_seconds must be >= 0")
        if self.context_window_tokens < 1:
            raise ValueError("context_window_tokens must be positive")


@dataclass(slots=True)
class _Job:
    """One request on its way."""

    exchange: Exchange
    endpoint: Endpoint
    entry: Entry
    headers: Headers
    digest: bytes = b""
    fault: Fault | None = None

    def has_fault(self, *kinds: str) -> bool:
        return self.fault is not None and self.fault.kind in kinds


@dataclass(slots=True)
class _Sent:
    """What of a stream has been sent."""

    events: int = 0
    chunks: int = 0
    tokens: int = 0

    def add(self, event: StreamEvent) -> None:
        self.events += 1
        self.tokens += event.tokens
        self.chunks += event.tokens > 0

    def is_enough_for(self, fault: Fault | None) -> bool:
        has_count = fault is not None and fault.kind != "no_finish"
        return fault is not None and has_count and self.chunks >= fault.after_chunks


class Engine:
    """Takes requests to their end; owns bill, journal, limits and faults.

    Args:
        settings: Key, delays and context window.
        limiter: The limits.
        script: The faults.
        clock: Time for the limits, in seconds.
    """

    def __init__(
        self,
        settings: EngineSettings,
        limiter: RateLimiter,
        script: FaultScript,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.limiter = limiter
        self.script = script
        self.clock = clock
        self.bill = Bill()
        self.journal = Journal()
        self.in_progress = 0

    def reset(self) -> None:
        """Start again: empty bill and journal, full buckets, the fault script at its beginning."""
        self.bill.reset()
        self.journal.reset()
        self.limiter.reset()
        self.script.reset()

    def authorize(self, exchange: Exchange, entry: Entry) -> None:
        """Note the request's key, and raise `ApiError` if it is missing or wrong."""
        scheme, _, key = exchange.header(b"authorization").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise missing_key()
        entry.authorization_masked = _masked(key)
        if self.settings.api_key is not None and key != self.settings.api_key:
            raise wrong_key(key)

    def open(self, exchange: Exchange) -> Entry:
        """Note an arriving request."""
        return self.journal.open(exchange.scope["path"], self.clock())

    async def handle(self, endpoint: Endpoint, exchange: Exchange) -> None:
        """Take one request to its end."""
        entry = self.open(exchange)
        job = _Job(exchange, endpoint, entry, [request_id(entry)])
        self.in_progress += 1
        try:
            body = await exchange.read_body()
            if body is None:
                return
            entry.body = body
            job.digest = self.script.digest(entry.path, body)
            entry.attempt, job.fault = self.script.arrive(job.digest)
            try:
                await self._serve(job, body)
            except ApiError as error:
                self.script.failed(job.digest)
                await self.send_error(exchange, entry, error)
        finally:
            self.in_progress -= 1

    async def send_error(self, exchange: Exchange, entry: Entry, error: ApiError) -> None:
        """Answer with an error."""
        entry.status = error.status
        headers = [JSON, request_id(entry), *error.headers]
        await exchange.send_whole(error.status, headers, error.body)

    async def _serve(self, job: _Job, body: bytes) -> None:
        entry, endpoint = job.entry, job.endpoint
        self.authorize(job.exchange, entry)
        request = _parse(body)
        entry.streamed = endpoint.events is not None and request.get("stream") is True
        ask: Ask = endpoint.read(request)
        entry.model = ask.model
        window = self.settings.context_window_tokens
        if endpoint.has_context and ask.input_tokens > window:
            raise context_length_exceeded(window, ask.input_tokens)
        if job.fault is not None and not self._is_damaging(job):
            await self._fail(job, job.fault, ask)
            return
        decision = self.limiter.admit(ask.model, ask.admission_tokens, self.clock())
        if not decision.is_admitted:
            raise rate_limited(ask.model, decision)
        job.headers = [*job.headers, *decision.headers]
        if job.fault is not None:
            entry.fault = job.fault.kind
            self.script.failed(job.digest)
        await self._answer(job, endpoint.answer(ask))

    @staticmethod
    def _is_damaging(job: _Job) -> bool:
        is_event = job.has_fault("error_event") and job.entry.streamed
        return is_event or job.has_fault(*_DAMAGING)

    async def _fail(self, job: _Job, fault: Fault, ask: Ask) -> None:
        job.entry.fault = fault.kind
        if fault.kind == "reset":
            self.script.failed(job.digest)
            await job.exchange.reset()
        elif fault.kind == "bad_gateway":
            self.script.failed(job.digest)
            job.entry.status = 502
            await job.exchange.send_whole(502, [HTML, *job.headers], BAD_GATEWAY_PAGE)
        else:
            window = self.settings.context_window_tokens
            raise fault_error(fault, ask.model, window, ask.admission_tokens)

    async def _answer(self, job: _Job, answer: Answer) -> None:
        delay = self.settings.latency_seconds
        if job.fault is not None and job.fault.kind == "slow":
            delay += job.fault.delay
        if delay > 0 and not await job.exchange.wait(delay):
            usage = answer.usage_after(0) if job.entry.streamed else answer.usage
            self._abandon(job, usage)
        elif job.has_fault("not_json"):
            page = b"<html><body><h1>Sign in to the network</h1></body></html>\r\n"
            await self._send_ok(job, HTML, page)
        elif job.has_fault("broken_json"):
            whole = job.endpoint.plain(answer, job.entry.number)
            await self._send_ok(job, JSON, whole[: len(whole) // 2])
        elif job.entry.streamed:
            await self._stream(job, answer)
        else:
            await self._plain(job, answer)

    async def _send_ok(self, job: _Job, content_type: tuple[bytes, bytes], body: bytes) -> None:
        job.entry.status = 200
        await job.exchange.send_whole(200, [content_type, *job.headers], body)

    async def _plain(self, job: _Job, answer: Answer) -> None:
        exchange, entry = job.exchange, job.entry
        is_damaged = job.has_fault(*_ENDS_EARLY)
        is_finished = not job.has_fault("no_finish")
        body = job.endpoint.plain(answer, entry.number, is_finished=is_finished)
        if exchange.is_gone:
            self._abandon(job, answer.usage)
            return
        self._charge(job, answer.usage, interrupted=is_damaged)
        if job.has_fault("cut", "stall"):
            entry.status = 200
            length = (b"content-length", b"%d" % len(body))
            await exchange.start(200, [JSON, length, *job.headers])
            if job.has_fault("cut"):
                await exchange.send_part(body[: len(body) // 2])
            await self._break_off(job)
            return
        if not is_damaged:
            self.script.served(job.digest)
        await self._send_ok(job, JSON, body)

    async def _stream(self, job: _Job, answer: Answer) -> None:
        exchange, write = job.exchange, job.endpoint.events
        assert write is not None  # noqa: S101  # streamed is set only where it streams
        job.entry.status = 200
        await exchange.start(200, [SSE, (b"cache-control", b"no-cache"), *job.headers])
        sent = _Sent()
        has_early_end = job.has_fault(*_ENDS_EARLY)
        is_complete = False
        for event in write(answer, job.entry.number):
            if has_early_end and (event.is_end or sent.is_enough_for(job.fault)):
                await self._end_early(job, answer, sent)
                return
            if event.is_end and not is_complete:
                is_complete = True
                self._charge(job, answer.usage)
            if event.tokens and sent.chunks:
                await self._pause(exchange)
            if exchange.is_gone:
                if not is_complete:
                    self._abandon(job, answer.usage_after(sent.tokens))
                return
            await exchange.send_part(event.data)
            sent.add(event)
        self.script.served(job.digest)
        await exchange.finish()

    async def _pause(self, exchange: Exchange) -> None:
        if self.settings.chunk_delay_seconds > 0:
            await exchange.wait(self.settings.chunk_delay_seconds)

    async def _end_early(self, job: _Job, answer: Answer, sent: _Sent) -> None:
        """End a stream as its fault says, after what was sent."""
        fault, exchange, write = job.fault, job.exchange, job.endpoint.error_event
        assert fault is not None  # noqa: S101
        if fault.kind == "no_finish":
            self._charge(job, answer.usage, interrupted=True)
            await exchange.finish()
        elif fault.kind != "error_event":
            self._charge(job, answer.usage_after(sent.tokens), interrupted=True)
            await self._break_off(job)
        elif write is not None:
            if sent.chunks:
                self._charge(job, answer.usage_after(sent.tokens), interrupted=True)
            error = fault_error(fault, job.entry.model, self.settings.context_window_tokens, 0)
            await exchange.send_part(write(error, sent.events))
            await exchange.finish()

    async def _break_off(self, job: _Job) -> None:
        if job.fault is not None and job.fault.kind == "stall":
            await job.exchange.wait(job.fault.delay)
        await job.exchange.drop()

    def _charge(self, job: _Job, usage: Usage, *, interrupted: bool = False) -> None:
        job.entry.usage = usage
        self.bill.record(job.entry.model, job.endpoint.operation, usage, interrupted=interrupted)

    def _abandon(self, job: _Job, usage: Usage) -> None:
        self._charge(job, usage, interrupted=True)
        if job.fault is None:  # a fault has counted as a failed attempt already
            self.script.failed(job.digest)


def request_id(entry: Entry) -> tuple[bytes, bytes]:
    """Return the `x-request-id` header of a request."""
    return (b"x-request-id", b"req_%06d" % entry.number)


@lru_cache(maxsize=256)
def _masked(key: str) -> str:
    return mask_key(key)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        request = None
    if not isinstance(request, dict):
        raise ApiError(
            400,
            "We could not parse the JSON body of your request. The API expects a JSON object.",
        )
    return request
