"""One attempt: reserve, send, record, settle; the same for chat and embeddings, sync and async.

Each attempt ends in exactly one `AttemptRecord`, made in `__exit__` whatever ended it, and all who account
for it read that. Does not retry and does not wait between attempts: that is the policy's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Self

import httpx2
from langchain_core.callbacks.manager import AsyncRunManager, RunManager
from langchain_core.utils.uuid import uuid7

from lc_service import clock
from lc_service.accounting.attribution import own_metadata, own_tags
from lc_service.accounting.expected_output import expected_reasoning, learn
from lc_service.accounting.failure import may_be_billed, paid_usage
from lc_service.accounting.prompt import PromptEstimate
from lc_service.accounting.record import NO_TOKENS, AttemptRecord, AttemptStatus, Certainty
from lc_service.accounting.reported import Reported
from lc_service.accounting.spending import AttemptRequest
from lc_service.accounting.token_counter import counters_among
from lc_service.accounting.usage import TokenUsage
from lc_service.models.answer import known
from lc_service.models.http import response_hook
from lc_service.models.request import Accounts, Request
from lc_service.retry.errors import TruncatedResponseError, classify

if TYPE_CHECKING:
    from lc_service.accounting.budget import Reservation
    from lc_service.accounting.telemetry.call_span import CallSpan

logger = logging.getLogger(__name__)

AnyRunManager = RunManager | AsyncRunManager


_PORTS = {"https": 443, "http": 80}


class Call:
    """One call: what its attempts have in common. Belongs to that call, so it needs no lock.

    A context manager, sync and async alike, around all of the call's attempts.
    """

    def __init__(self, request: Request, accounts: Accounts, run: AnyRunManager | None) -> None:
        self.request = request
        self.accounts = accounts
        self.run = run
        self.span: CallSpan | None = None
        self.call_id = uuid7()
        self.run_id = self.call_id if run is None else run.run_id
        self.counters = counters_among(() if run is None else run.handlers)
        self.tags = () if run is None else own_tags(run.tags)
        self.metadata = {} if run is None else own_metadata(run.metadata)
        self._attempts = 0
        for counter in self.counters:
            counter.on_call(self.run_id)

    def __enter__(self) -> Self:
        if self.accounts.telemetry is not None:
            request = self.request
            server = request.server
            self.span = self.accounts.telemetry.start_call(
                operation=request.operation,
                model=request.model,
                run_id=self.run_id,
                is_stream=request.is_stream,
                server_address=None if server is None else server.host,
                server_port=None if server is None else server.port or _PORTS.get(server.scheme),
                parameters=request.parameters,
            )
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self.span is not None:
            self.span.end(error)

    def attempt(self) -> Attempt:
        """Begin the next attempt: a context manager, sync and async."""
        self._attempts += 1
        return Attempt(self, self._attempts)

    @cached_property
    def prompt(self) -> PromptEstimate:
        """The prompt's size, as estimated once."""
        try:
            return self.request.measure()
        except Exception as error:  # noqa: BLE001  what cannot be measured can still be sent
            _log_once("the estimate of a prompt", error)
            return PromptEstimate(0, 0)


class Attempt:
    """One HTTP attempt, from its reservation to its record."""

    def __init__(self, call: Call, number: int) -> None:
        self.reported = Reported()
        self.received: Callable[[], Sequence[str]] = tuple
        self._call = call
        self._number = number
        self._reservation: Reservation | None = None
        self._response: httpx2.Response | None = None
        self._started = 0.0
        self._started_at_seconds = clock.wall()  # before any wait for a budget: the day it is reserved in
        self._first_chunk_seconds: float | None = None

    def __enter__(self) -> Self:
        if self._call.accounts.budgets:
            from lc_service.accounting.budget import reserve_all  # noqa: PLC0415  for those who have one

            self._reservation = reserve_all(self._call.accounts.budgets, self._request())
        return self._start()

    async def __aenter__(self) -> Self:
        if self._call.accounts.budgets:
            from lc_service.accounting.budget import areserve_all  # noqa: PLC0415  for those who have one

            self._reservation = await areserve_all(self._call.accounts.budgets, self._request())
        return self._start()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        named, record = self._end(error)
        try:
            for ledger in self._call.accounts.ledgers:
                _guarded("a ledger", ledger.record, record)
        finally:
            self._settle(record)
        if named is not error and named is not None:
            raise named

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        named, record = self._end(error)
        try:
            for ledger in self._call.accounts.ledgers:
                try:
                    await ledger.arecord(record)
                except Exception as failure:  # noqa: BLE001  the answer is paid for: it reaches the caller
                    _log_once("a ledger", failure)
        finally:
            self._settle(record)
        if named is not error and named is not None:
            raise named

    def _settle(self, record: AttemptRecord) -> None:
        # After the ledger: a budget that lives in it has been charged there.
        if self._reservation is not None:
            _guarded("a budget", self._reservation.settle, record)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Watch for the response head of what is sent in this block."""
        token = response_hook.set(self._see_response)
        span = self._call.span
        try:
            with nullcontext() if span is None else span.activate():
                yield
        finally:
            response_hook.reset(token)

    def see_content(self) -> None:
        """Take note that a stream's content has begun to come."""
        if self._first_chunk_seconds is None:
            self._first_chunk_seconds = clock.now() - self._started

    def _see_response(self, response: httpx2.Response) -> None:
        self._response = response

    def _start(self) -> Self:
        self._started = clock.now()
        return self

    def _request(self) -> AttemptRequest:
        call, request = self._call, self._call.request
        return AttemptRequest(
            call_id=call.call_id,
            attempt=self._number,
            operation=request.operation,
            model=request.model,
            service_tier=request.service_tier,
            input_tokens=call.prompt.tokens,
            max_input_tokens=request.bound(),
            max_output_tokens=request.max_output_tokens,
            choices=request.choices,
            tags=call.tags,
            at=datetime.fromtimestamp(self._started_at_seconds, UTC),
        )

    def _end(self, error: BaseException | None) -> tuple[BaseException | None, AttemptRecord]:
        """Make the record and show it to everybody in this process; return what to raise, too."""
        error = known(error) if isinstance(error, Exception) else error
        record = self._record(error)
        if isinstance(error, TruncatedResponseError) and record.certainty is not Certainty.UNKNOWN:
            error.usage = record.usage
        _guarded("the expected output", partial(learn, choices=self._call.request.choices), record)
        if record.certainty is Certainty.MEASURED and record.status is AttemptStatus.OK:
            call = self._call
            call.request.estimator.calibrate(call.prompt.raw_tokens, record.usage.input_tokens)
        for counter in self._call.counters:
            _guarded("a counter", counter.on_attempt, record)
        if self._call.span is not None:
            self._call.span.on_attempt(record)
        return error, record

    def _record(self, error: BaseException | None) -> AttemptRecord:
        call = self._call
        certainty, usage = self._usage(error)
        verdict = classify(error) if isinstance(error, Exception) else None
        amount = None if self._reservation is None else self._reservation.amount
        response = self._response
        return AttemptRecord(
            run_id=call.run_id,
            call_id=call.call_id,
            attempt=self._number,
            operation=call.request.operation,
            model=call.request.model,
            response_model=self.reported.model,
            status=_status(error),
            certainty=certainty,
            usage=usage,
            service_tier=self.reported.service_tier,
            started_at=datetime.fromtimestamp(self._started_at_seconds, UTC),
            latency_seconds=clock.now() - self._started,
            first_chunk_seconds=self._first_chunk_seconds,
            error_kind=None if verdict is None else str(verdict.kind),
            status_code=getattr(verdict, "status_code", None) if response is None else response.status_code,
            request_id=getattr(verdict, "request_id", None)
            if response is None
            else response.headers.get("x-request-id"),
            is_stream=call.request.is_stream,
            tags=call.tags,
            metadata=call.metadata,
            reserved_tokens=amount.tokens if amount else 0,
            reserved_usd=amount.usd if amount else None,
        )

    def _usage(self, error: BaseException | None) -> tuple[Certainty, TokenUsage]:
        told = self.reported.usage or (paid_usage(error) if error is not None else None)
        if told is not None:
            return Certainty.MEASURED, told
        if texts := self.received():
            return Certainty.ESTIMATED, self._estimate(texts)
        if error is not None and not may_be_billed(error):
            return Certainty.MEASURED, NO_TOKENS
        # A server that opens a stream has read the prompt.
        is_open_stream = self._call.request.is_stream and self._response is not None
        return (Certainty.ESTIMATED, self._estimate(())) if is_open_stream else (Certainty.UNKNOWN, NO_TOKENS)

    def _estimate(self, texts: Sequence[str]) -> TokenUsage:
        request = self._call.request
        reasoning_tokens = (expected_reasoning(request.model) or 0) * request.choices if texts else 0
        # No piece of a stream is less than a token.
        output_tokens = max(len(texts), request.estimator.count("".join(texts))) + reasoning_tokens
        return TokenUsage(
            input_tokens=self._call.prompt.tokens,
            output_tokens=output_tokens,
            reasoning_tokens=reasoning_tokens,
        )


def _status(error: BaseException | None) -> AttemptStatus:
    match error:
        case None:
            return AttemptStatus.OK
        case TruncatedResponseError():
            return AttemptStatus.TRUNCATED
        case Exception():
            return AttemptStatus.FAILED
        case GeneratorExit():
            return AttemptStatus.ABANDONED
        case _:  # CancelledError, KeyboardInterrupt
            return AttemptStatus.CANCELLED


def _guarded(what: str, observe: Callable[..., None], record: AttemptRecord) -> None:
    """Show `record` to one of those who account for it: its failure is neither the call's nor another's."""
    try:
        observe(record)
    except Exception as error:  # noqa: BLE001  see above
        _log_once(what, error)


_logged: set[tuple[str, str]] = set()


def _log_once(what: str, error: Exception) -> None:
    """Log a failure once a kind: not its text, which may quote what was sent, but where it was raised."""
    place = "?"
    traceback = error.__traceback__
    while traceback is not None:
        place = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    if (what, place) not in _logged:
        _logged.add((what, place))
        logger.error(
            "%s failed with %s in %s; calls go on. This is logged once.", what, type(error).__name__, place
        )
