"""Breakers: a circuit that threads, tasks and event loops share, and the registry of one per endpoint.

Invariant: nothing here blocks but a patient call's wait. A stream that the garbage collector closes in the
midst of anything, this module included, only posts. Does not judge errors' kinds: that is `classify`'s.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime

import httpx2

from lc_service import clock
from lc_service.limits.alarm import TaskAlarm, ThreadAlarm
from lc_service.limits.circuit import DEAD_KINDS, Circuit, CircuitBreaker
from lc_service.limits.entry import Entry
from lc_service.retry.errors import ErrorKind, classify
from lc_service.retry.exceptions import CircuitOpenError

logger = logging.getLogger(__name__)

_BUSY_SECONDS = 0.005
_SIGNS_OF_LIFE = frozenset({ErrorKind.TRUNCATED, ErrorKind.RATE_LIMIT, ErrorKind.REFUSED_ANSWER})

_is_waiting: ContextVar[bool] = ContextVar("lc_service_waiting_for_endpoints", default=False)


@contextmanager
def waiting_for_endpoints() -> Iterator[None]:
    """Let the calls of this block, and of the tasks begun in it, wait where a breaker would fail them.

    What a run over many items does: an endpoint that is down for a while costs it time, and no item.
    """
    token = _is_waiting.set(True)
    try:
        yield
    finally:
        with suppress(ValueError):  # a generator that was closed in another context
            _is_waiting.reset(token)


class Breaker:
    """One endpoint's breaker. Share it between threads, tasks and event loops.

    Args:
        endpoint: Scheme, host and port, for errors and logs.
        rules: When it opens, and when it probes; whether calls wait is each call's own affair.
    """

    def __init__(self, endpoint: str, rules: CircuitBreaker) -> None:
        self.endpoint = endpoint
        self._circuit = Circuit(rules)
        self._inbox: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._alarms: deque[ThreadAlarm | TaskAlarm] = deque()

    @property
    def is_open(self) -> bool:
        """Whether only probes may go."""
        return self._circuit.is_open

    def enter(self, *, is_patient: bool = False) -> Entry:
        """Let one attempt go, or wait for that where `is_patient`.

        Returns:
            The entry, to be ended whatever happens.

        Raises:
            CircuitOpenError: The circuit is open, and nobody is to wait.
        """
        entry = self._admit()
        if entry is None:
            entry = self._wait() if is_patient or _is_waiting.get() else self._refuse()
        return entry

    async def aenter(self, *, is_patient: bool = False) -> Entry:
        """Let one attempt go, or wait for that; as `enter`."""
        entry = self._admit()
        if entry is None:
            entry = await self._await() if is_patient or _is_waiting.get() else self._refuse()
        return entry

    def _admit(self) -> Entry | None:
        if not self._circuit.is_open:
            return Entry(self, 0)
        if not self._lock.acquire(blocking=False):  # somebody is at it: who asks again will know
            return None
        try:
            probe = self._circuit.admit(clock.now())
        finally:
            self._lock.release()
        self._work()
        return None if probe is None else Entry(self, probe)

    def _refuse(self) -> Entry:
        now = clock.now()
        opened = self._circuit.opened
        if not self._circuit.is_open:  # closed just now
            return Entry(self, 0)
        raise CircuitOpenError(
            endpoint=self.endpoint,
            failures=opened.failures,
            since=datetime.fromtimestamp(clock.wall() - (now - opened.since), UTC),
            retry_after_seconds=self._circuit.seconds_left(now),
            last_error_kind=opened.kind,
        )

    def _wait(self) -> Entry:
        while True:
            alarm = ThreadAlarm()
            self._alarms.append(alarm)  # before asking: what happens in between rings
            if (entry := self._admit()) is not None:
                return entry
            clock.wait(alarm, self._patience_seconds())

    async def _await(self) -> Entry:
        while True:
            alarm = TaskAlarm()
            self._alarms.append(alarm)
            if (entry := self._admit()) is not None:
                return entry
            await clock.async_wait(alarm.future, self._patience_seconds())

    def _patience_seconds(self) -> float:
        return max(_BUSY_SECONDS, self._circuit.patience_seconds(clock.now()))

    def post(self, step: Callable[[], None]) -> None:
        """Have `step` carried out: here and now, or by whoever is at it."""
        self._inbox.append(step)
        self._work()

    def _work(self) -> None:
        while self._inbox and self._lock.acquire(blocking=False):
            try:
                while self._inbox:
                    self._inbox.popleft()()
            finally:
                self._lock.release()

    def ended(self, probe: int, error: BaseException | None) -> None:
        """Learn from an attempt's end; never blocks."""
        if error is None:
            if self._circuit.has_failures:
                self.post(self._succeed)
            return
        verdict = classify(error)
        if verdict.kind in DEAD_KINDS:
            self.post(lambda: self._fail(probe, verdict.kind))
        elif verdict.kind in _SIGNS_OF_LIFE or verdict.status_code is not None:
            self.post(self._succeed)
        elif probe:  # it was stopped, or refused before it was sent: nobody knows more
            self.post(lambda: self._give_up(probe))

    def _succeed(self) -> None:
        was_open = self._circuit.is_open
        self._circuit.succeed()
        if was_open:
            logger.warning("%s is back: calls go through again.", self.endpoint)
            self._ring()

    def _fail(self, probe: int, kind: ErrorKind) -> None:
        was_open = self._circuit.is_open
        self._circuit.fail(probe, kind, clock.now())
        if self._circuit.is_open and not was_open:
            failures = self._circuit.opened.failures
            logger.warning(
                "%s is taken for dead: %d failures in a row, the last: %s.", self.endpoint, failures, kind
            )
        elif probe:
            self._ring()

    def _give_up(self, probe: int) -> None:
        self._circuit.give_up(probe, clock.now())
        self._ring()

    def _ring(self) -> None:
        for _ in range(len(self._alarms)):  # not those who, rung for, ask again and wait once more
            self._alarms.popleft().set()


_MAX_BREAKERS = 1_024
_by_url: dict[tuple[str, CircuitBreaker], Breaker] = {}
_breakers: dict[tuple[str, CircuitBreaker], Breaker] = {}


def breaker_for(rules: CircuitBreaker, base_url: str) -> Breaker:
    """Return the breaker that all with the same rules and endpoint share in this process. Thread-safe.

    Args:
        rules: The model's.
        base_url: The API's; its path is no part of the endpoint.
    """
    breaker = _by_url.get((base_url, rules))
    if breaker is None:
        endpoint = _endpoint(base_url)
        key = (endpoint, replace(rules, is_patient=False))
        breaker = _breakers.setdefault(key, Breaker(endpoint, rules))  # of threads that meet here one wins
        _by_url[base_url, rules] = breaker
        for table in (_by_url, _breakers):
            while len(table) > _MAX_BREAKERS:
                table.pop(next(iter(table)), None)
    return breaker


def _endpoint(base_url: str) -> str:
    url = httpx2.URL(base_url)
    port = "" if url.port is None else f":{url.port}"
    return f"{url.scheme}://{url.host}{port}"


def forget() -> None:
    """Forget all breakers, for tests and for measurements that start anew."""
    _by_url.clear()
    _breakers.clear()


if hasattr(os, "register_at_fork"):  # the parent's waiters do not exist here, nor may its locks be free
    os.register_at_fork(after_in_child=forget)
