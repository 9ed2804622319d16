"""One attempt: reserve, acquire, send, record, settle; the same for chat and embeddings, sync and async.

Each attempt ends in exactly one `AttemptRecord`, made in `__exit__` whatever ended it, and all who account
for it read that. Does not retry and does not wait between attempts: that is the policy's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self

import httpx2
from langchain_core.callbacks.manager import AsyncRunManager, RunManager
from langchain_core.utils.uuid import uuid7

from lc_service import clock
from lc_service.accounting.attribution import own_metadata, own_tags
from lc_service.accounting.expected_output import expected, learn
from lc_service.accounting.prompt import PromptEstimate
from lc_service.accounting.record import NO_TOKENS, AttemptRecord, AttemptStatus, Certainty
from lc_service.accounting.spending import AttemptRequest
from lc_service.accounting.tracker import counters_among
from lc_service.limits.admission import Outcome
from lc_service.limits.entry import Entry
from lc_service.limits.limiter import Permit, RateLimiter
from lc_service.models.answer import known
from lc_service.models.evidence import Evidence, status_of
from lc_service.models.flow import outcome, response_headers
from lc_service.models.guard import guarded, log_once
from lc_service.models.http import watcher
from lc_service.models.request import Accounts, Request
from lc_service.retry.errors import TruncatedResponseError, classify, request_id

if TYPE_CHECKING:
    from lc_service.accounting.budget import Reservation
    from lc_service.accounting.ledger import UsageLedger
    from lc_service.accounting.telemetry.call_span import CallSpan

AnyRunManager = RunManager | AsyncRunManager


_PORTS = {"https": 443, "http": 80}


def unwatched() -> None:
    """Nobody wants to know that an attempt begins."""


class Call:
    """One call: what its attempts have in common. Belongs to that call, so it needs no lock.

    A context manager, sync and async alike, around all of the call's attempts.

    Attributes:
        entry: The present attempt's way through the breaker, where there is one.
        is_answered: Whether an attempt has had a good answer; told before its place goes to another.
        finish_reasons: Why each choice of the last answer ended.
    """

    def __init__(
        self,
        request: Request,
        accounts: Accounts,
        run: AnyRunManager | None,
        limiter: RateLimiter | None = None,
    ) -> None:
        self.request = request
        self.accounts = accounts
        self.run = run
        self.limiter = limiter
        self.span: CallSpan | None = None
        self.call_id = uuid7()
        self.run_id = self.call_id if run is None else run.run_id
        self.counters = counters_among(() if run is None else run.handlers)
        self.tags = () if run is None else own_tags(run.tags)
        self.metadata = {} if run is None else own_metadata(run.metadata)
        self.last_error: BaseException | None = None
        self.entry: Entry | None = None
        self.is_answered = False
        self.finish_reasons: tuple[str, ...] = ()
        self._attempts = 0
        for counter in self.counters:
            try:
                counter.on_call(self.run_id)
            except Exception as error:  # noqa: BLE001  a counter's failure is not the call's
                log_once("a counter", error)

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
            self.span.end(error, finish_reasons=self.finish_reasons)

    def attempt(self, begins: Callable[[], None] = unwatched) -> Attempt:
        """Begin the next attempt: a context manager, sync and async.

        Args:
            begins: Called where the attempt has its reservation and its place, and is about to be sent; what
                it raises takes the attempt back, without a record.
        """
        self._attempts += 1
        return Attempt(self, self._attempts, begins)

    def take_back(self) -> None:
        """Take note that the attempt begun last has never been one."""
        self._attempts -= 1

    @cached_property
    def prompt(self) -> PromptEstimate:
        """The prompt's size, as estimated once."""
        try:
            return self.request.measure()
        except Exception as error:  # noqa: BLE001  what cannot be measured can still be sent
            log_once("the estimate of a prompt", error)
            return PromptEstimate(0, 0)

    @cached_property
    def bound(self) -> int | None:
        """What the prompt cannot exceed; asked for strict budgets only, since it reads all of it."""
        return self.request.bound() if any(budget.strict for budget in self.accounts.budgets) else None

    @property
    def tokens(self) -> int:
        """What an attempt is charged against a limit of tokens: the prompt and the expected output."""
        request = self.request
        output_tokens = request.asked_output_tokens
        if output_tokens is None and request.operation == "chat":
            output_tokens = expected(request.model, request.choices)
        return self.prompt.tokens + (output_tokens or 0)

    @contextmanager
    def naming_the_cause(self) -> Iterator[None]:
        """Let what a budget raises at a retry name the failure that made it one."""
        try:
            yield
        except Exception as refusal:
            if self.last_error is not None and refusal.__cause__ is None:
                raise refusal from self.last_error
            raise


class Attempt(Evidence):
    """One HTTP attempt, from its reservation to its record."""

    def __init__(self, call: Call, number: int, begins: Callable[[], None]) -> None:
        super().__init__()
        self._call = call
        self._begins = begins
        self._number = number
        self._reservation: Reservation | None = None
        self._permit: Permit | None = None
        self._entry: Entry | None = None
        self._started = 0.0
        self._started_at_seconds = clock.wall()
        self._first_chunk_seconds: float | None = None

    def __enter__(self) -> Self:
        if self._call.accounts.budgets:
            from lc_service.accounting.budget import reserve_all  # noqa: PLC0415  for those who have one

            with self._call.naming_the_cause():
                self._reservation = reserve_all(self._call.accounts.budgets, self._wanted())
        try:
            if self._call.limiter is not None:
                self._permit = self._call.limiter.acquire(**self._asked())
            self._begin()
        except BaseException:
            self._take_back()
            if self._reservation is not None:
                self._reservation.release()
            raise
        return self

    async def __aenter__(self) -> Self:
        if self._call.accounts.budgets:
            from lc_service.accounting.budget import areserve_all  # noqa: PLC0415  for those who have one

            with self._call.naming_the_cause():
                self._reservation = await areserve_all(self._call.accounts.budgets, self._wanted())
        try:
            if self._call.limiter is not None:
                self._permit = await self._call.limiter.aacquire(**self._asked())
            self._begin()
        except BaseException:
            self._take_back()
            if self._reservation is not None:
                await self._reservation.arelease()
            raise
        return self

    def _take_back(self) -> None:
        self._call.take_back()
        if self._permit is not None:
            guarded("the rate limiter", self._permit.settle, Outcome(used_tokens=0))

    def _begin(self) -> None:
        if (entry := self._call.entry) is not None:
            entry.confirm()
            self._entry = entry
        self._begins()
        self._started = clock.now()
        self._started_at_seconds = clock.wall()

    def _asked(self) -> dict[str, Any]:
        call = self._call
        # Half of the estimate: no prompt is refused here that the server might take.
        return {
            "tokens": call.tokens,
            "least_tokens": call.prompt.tokens // 2,
            "is_retry": self._number > 1,
        }

    def on_send(self) -> None:
        """Take note that the request goes out, and let the limiter know."""
        super().on_send()
        if self._permit is not None:
            self._permit.send()

    def on_response(self, response: httpx2.Response) -> None:
        """Take note of the response's head, and let the limiter learn from it."""
        super().on_response(response)
        if self._permit is not None:
            guarded("the rate limiter", self._permit.see, response.headers)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        named, record = self._end(error)
        self._release_place(named, record)
        waiting = list(self._call.accounts.ledgers)
        try:
            # A generator may be closed by the garbage collector, inside of anything: nothing may wait in it.
            while waiting and not isinstance(error, GeneratorExit):
                guarded("a ledger", waiting.pop(0).record, record)
        finally:
            self._settle(record, waiting)
        if named is not error and named is not None:
            raise named

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        named, record = self._end(error)
        self._release_place(named, record)
        waiting = list(self._call.accounts.ledgers)
        try:
            # Nor may it have a loop any more.
            while waiting and not isinstance(error, GeneratorExit):
                try:
                    await waiting.pop(0).arecord(record)
                except Exception as failure:  # noqa: BLE001  the answer is paid for: it reaches the caller
                    log_once("a ledger", failure)
        finally:
            self._settle(record, waiting)
        if named is not error and named is not None:
            raise named

    def _release_place(self, error: BaseException | None, record: AttemptRecord) -> None:
        permit = self._permit
        if permit is None:
            return
        if self.response is None and (headers := response_headers(error)) is not None:
            guarded("the rate limiter", permit.see, headers)  # a client of the caller's own sent it
        guarded("the rate limiter", permit.settle, outcome(error, record))

    def _settle(self, record: AttemptRecord, waiting: Sequence[UsageLedger]) -> None:
        for ledger in waiting:  # those that were not reached: a wait was cancelled, or impossible
            guarded("a ledger", ledger.post, record)
        # After the ledgers: a budget that lives in one has been charged there.
        if self._reservation is not None:
            guarded("a budget", self._reservation.settle, record)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Watch what is sent in this block."""
        token = watcher.set(self)
        span = self._call.span
        try:
            with nullcontext() if span is None else span.activate():
                yield
        finally:
            with suppress(ValueError):  # collected with its loop: in another context
                watcher.reset(token)

    def see_content(self) -> None:
        """Take note that a stream's content has begun to come."""
        if self._first_chunk_seconds is None:
            self._first_chunk_seconds = clock.now() - self._started

    def _wanted(self) -> AttemptRequest:
        call, request = self._call, self._call.request
        return AttemptRequest(
            call_id=call.call_id,
            attempt=self._number,
            operation=request.operation,
            model=request.model,
            service_tier=request.service_tier,
            input_tokens=call.prompt.tokens,
            max_input_tokens=call.bound,
            max_output_tokens=request.max_output_tokens,
            choices=request.choices,
            tags=call.tags,
            at=datetime.fromtimestamp(self._started_at_seconds, UTC),
        )

    def _end(self, error: BaseException | None) -> tuple[BaseException | None, AttemptRecord]:
        """Make the record and show it to everybody in this process; return what to raise, too."""
        call = self._call
        call.last_error = error = known(error) if isinstance(error, Exception) else error
        call.is_answered |= error is None
        if self._entry is not None:
            self._entry.tell(error)  # before its place goes to the next, which may be better off unsent
        record = self._record(error)
        if isinstance(error, TruncatedResponseError) and record.certainty is not Certainty.UNKNOWN:
            error.usage = record.usage
        guarded("the expected output", partial(learn, choices=call.request.choices), record)
        if record.certainty is Certainty.MEASURED and record.status is AttemptStatus.OK:
            call.request.estimator.calibrate(call.prompt.raw_tokens, record.usage.input_tokens)
        for counter in call.counters:
            guarded("a counter", counter.on_attempt, record)
        if call.span is not None:
            call.span.on_attempt(record)
            call.finish_reasons = self.reported.finish_reasons
        return error, record

    def _record(self, error: BaseException | None) -> AttemptRecord:
        call = self._call
        try:
            certainty, usage = self.usage(error, call.request, lambda: call.prompt)
        except Exception as failure:  # noqa: BLE001  the answer is paid for: it reaches the caller
            log_once("the usage of an attempt", failure)
            certainty, usage = Certainty.UNKNOWN, NO_TOKENS
        verdict = classify(error) if isinstance(error, Exception) else None
        amount = None if self._reservation is None else self._reservation.amount
        response = self.response
        return AttemptRecord(
            run_id=call.run_id,
            call_id=call.call_id,
            attempt=self._number,
            operation=call.request.operation,
            model=call.request.model,
            response_model=self.reported.model,
            status=status_of(error),
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
            else request_id(response.headers),
            is_stream=call.request.is_stream,
            tags=call.tags,
            metadata=call.metadata,
            reserved_tokens=amount.tokens if amount else 0,
            reserved_usd=amount.usd if amount else None,
        )
