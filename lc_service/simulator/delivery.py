"""Deliver an answer: whole, in chunks, or damaged as its fault says; and charge for it.

Invariant: what is charged is what was generated, and it is charged before the last byte leaves.
It is given an answer that was admitted; errors and limits are the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass

from lc_service.simulator.bill import Bill, Usage
from lc_service.simulator.endpoint import Answer, Job
from lc_service.simulator.errors import fault_error
from lc_service.simulator.exchange import HTML, JSON, SSE, Exchange
from lc_service.simulator.faults import Fault
from lc_service.simulator.script import FaultScript
from lc_service.simulator.stream import StreamEvent

_ENDS_EARLY = frozenset({"stall", "cut", "no_finish", "error_event"})
_SIGN_IN_PAGE = b"<html><body><h1>Sign in to the network</h1></body></html>\r\n"


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


class Delivery:
    """Delivers answers; one for all requests.

    Args:
        bill: Where to charge.
        script: Where to note what was served and what was not.
        latency_seconds: Time before the first byte.
        chunk_delay_seconds: Time between content chunks.
    """

    def __init__(
        self, bill: Bill, script: FaultScript, latency_seconds: float, chunk_delay_seconds: float
    ) -> None:
        self.bill = bill
        self.script = script
        self.latency_seconds = latency_seconds
        self.chunk_delay_seconds = chunk_delay_seconds

    async def deliver(self, job: Job, answer: Answer) -> None:
        """Deliver an answer, with the fault of its job."""
        delay = self.latency_seconds
        if job.fault is not None and job.fault.kind == "slow":
            delay += job.fault.delay
        if delay > 0 and not await job.exchange.wait(delay):
            usage = answer.usage_after(0) if job.entry.streamed else answer.usage
            self._abandon(job, usage)
        elif job.has_fault("not_json"):
            await self._send_ok(job, HTML, _SIGN_IN_PAGE)
        elif job.has_fault("broken_json"):
            whole = job.endpoint.plain(answer, job.entry.number)
            await self._send_ok(job, JSON, whole[: len(whole) // 2])
        elif job.entry.streamed:
            await self._stream(job, answer)
        else:
            await self._plain(job, answer)

    async def _send_ok(self, job: Job, content_type: tuple[bytes, bytes], body: bytes) -> None:
        job.entry.status = 200
        await job.exchange.send_whole(200, [content_type, *job.headers], body)

    async def _plain(self, job: Job, answer: Answer) -> None:
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

    async def _stream(self, job: Job, answer: Answer) -> None:
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
        if self.chunk_delay_seconds > 0:
            await exchange.wait(self.chunk_delay_seconds)

    async def _end_early(self, job: Job, answer: Answer, sent: _Sent) -> None:
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
            error = fault_error(fault, job.entry.model, 0, 0)
            await exchange.send_part(write(error, sent.events))
            await exchange.finish()

    async def _break_off(self, job: Job) -> None:
        if job.fault is not None and job.fault.kind == "stall":
            await job.exchange.wait(job.fault.delay)
        await job.exchange.drop()

    def _charge(self, job: Job, usage: Usage, *, interrupted: bool = False) -> None:
        job.entry.usage = usage
        self.bill.record(job.entry.model, job.endpoint.operation, usage, interrupted=interrupted)

    def _abandon(self, job: Job, usage: Usage) -> None:
        self._charge(job, usage, interrupted=True)
        if job.fault is None:  # a fault has counted as a failed attempt already
            self.script.failed(job.digest)
