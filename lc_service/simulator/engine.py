"""The course of a request: key, body, fault, limits, answer, bill.

Invariant: every request ends in exactly one of served, failed or abandoned, and is billed by the
rules of `Bill` before the last byte of its answer leaves. One event loop runs it; nothing here
knows the formats of the endpoints.

The order of things: a wrong key, malformed JSON and invalid parameters are told first; then faults
that are errors, which cost no rate limit capacity; then the limits; then the answer, with the
faults that damage an answer. A rejected request uses up its fault and counts as an attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from lc_service.simulator.bill import Bill
from lc_service.simulator.delivery import Delivery
from lc_service.simulator.dialect import dialect_of, unknown_deployment
from lc_service.simulator.endpoint import Ask, Endpoint, Job
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
from lc_service.simulator.exchange import HTML, JSON, Exchange
from lc_service.simulator.faults import Fault
from lc_service.simulator.journal import Entry, Journal
from lc_service.simulator.limits import RateLimiter, ServerLimits
from lc_service.simulator.script import FaultScript

_DAMAGING = frozenset({"slow", "stall", "cut", "no_finish", "not_json", "broken_json"})


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """What an engine needs to know beyond its limits and faults."""

    api_key: str | None = None
    latency_seconds: float = 0.0
    chunk_delay_seconds: float = 0.0
    context_window_tokens: int = 128_000
    deployments: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.latency_seconds < 0 or self.chunk_delay_seconds < 0:
            raise ValueError("latency_seconds and chunk_delay_seconds must be >= 0")
        if self.context_window_tokens < 1:
            raise ValueError("context_window_tokens must be positive")

    def model_behind(self, deployment: str) -> str:
        """Return the model of an Azure deployment; raise `ApiError` where there is no such deployment."""
        if self.deployments is None:
            return deployment
        if deployment not in self.deployments:
            raise unknown_deployment()
        return self.deployments[deployment]


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
        self.delivery = Delivery(self.bill, script, settings.latency_seconds, settings.chunk_delay_seconds)
        self.in_progress = 0

    def reset(self) -> None:
        """Start again: empty bill and journal, full buckets, the fault script at its beginning."""
        self.bill.reset()
        self.journal.reset()
        self.limiter.reset()
        self.script.reset()

    def set_limits(self, limits: ServerLimits | None) -> None:
        """Replace the rate limits from now on."""
        self.limiter.set_limits(limits, self.clock())

    def authorize(self, exchange: Exchange, entry: Entry) -> None:
        """Note the request's key, and raise `ApiError` if it is missing or wrong."""
        key = dialect_of(entry.path).key(exchange)
        if not key:
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
        job = Job(exchange, endpoint, entry, answer_headers(entry))
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
        dialect = dialect_of(entry.path)
        worded = dialect.error(error)
        headers = [JSON, *dialect.headers(entry.number, worded.headers, is_error=True)]
        await exchange.send_whole(error.status, headers, worded.body)

    async def _serve(self, job: Job, body: bytes) -> None:
        entry, endpoint = job.entry, job.endpoint
        self.authorize(job.exchange, entry)
        dialect = dialect_of(entry.path)
        dialect.check(job.exchange)
        request = _parse(body)
        deployment = dialect.deployment(job.exchange, request)
        if deployment is not None:
            request["model"] = self.settings.model_behind(deployment)
        entry.streamed = endpoint.events is not None and request.get("stream") is True
        ask: Ask = endpoint.read(request)
        entry.model = ask.model
        window = self.settings.context_window_tokens
        if endpoint.has_context and ask.input_tokens > window:
            raise context_length_exceeded(window, ask.input_tokens)
        if job.fault is not None and not self._is_damaging(job):
            await self._fail(job, job.fault, ask)
            return
        decision = self.limiter.admit(deployment or ask.model, ask.admission_tokens, self.clock())
        if not decision.is_admitted:
            raise rate_limited(ask.model, decision)
        job.headers = answer_headers(entry, decision.headers)
        if job.fault is not None:
            entry.fault = job.fault.kind
            self.script.failed(job.digest)
        await self.delivery.deliver(job, endpoint.answer(ask))

    @staticmethod
    def _is_damaging(job: Job) -> bool:
        is_event = job.has_fault("error_event") and job.entry.streamed
        return is_event or job.has_fault(*_DAMAGING)

    async def _fail(self, job: Job, fault: Fault, ask: Ask) -> None:
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


def answer_headers(entry: Entry, further: Headers | None = None) -> Headers:
    """Return the headers of a request's answer: its id, and further ones as its path writes them."""
    return dialect_of(entry.path).headers(entry.number, further or [])


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
