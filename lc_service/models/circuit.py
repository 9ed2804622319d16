"""Between a model's attempts and its endpoint's breaker: each attempt passes it first and tells it its end.

Invariant: where the breaker is open nothing is sent or recorded, and whoever waits for it holds no place and
no reservation. Does not retry.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import aclosing, closing, suppress
from typing import TypeVar

from lc_service.limits.breaker import Breaker, breaker_for
from lc_service.limits.circuit import CircuitBreaker
from lc_service.limits.entry import Entry, OpenedSinceError
from lc_service.models.pipeline import Call
from lc_service.retry.exceptions import CircuitOpenError

T = TypeVar("T")


class Gate:
    """What every attempt of one call passes. Belongs to that call.

    Args:
        call: The call.
        breaker: Its endpoint's.
        is_patient: Whether it waits where the breaker is open.
    """

    def __init__(self, call: Call, breaker: Breaker, *, is_patient: bool) -> None:
        self._call = call
        self._breaker = breaker
        self._is_patient = is_patient

    def enter(self) -> Entry:
        """Let the next attempt go; where the breaker refuses a retry, the error names what made it one."""
        try:
            entry = self._breaker.enter(is_patient=self._is_patient)
        except CircuitOpenError as refusal:
            raise refusal from self._call.last_error
        self._call.entry = entry
        return entry

    async def aenter(self) -> Entry:
        """Let the next attempt go; as `enter`."""
        try:
            entry = await self._breaker.aenter(is_patient=self._is_patient)
        except CircuitOpenError as refusal:
            raise refusal from self._call.last_error
        self._call.entry = entry
        return entry


def gate_of(rules: CircuitBreaker | None, call: Call) -> Gate | None:
    """Return what a call's attempts pass; None where the model has no breaker."""
    server = call.request.server
    if rules is None or server is None:
        return None
    return Gate(call, breaker_for(rules, str(server)), is_patient=rules.is_patient)


def behind(gate: Gate | None, attempt: Callable[[], T]) -> Callable[[], T]:
    """Return `attempt` with a breaker before it."""
    if gate is None:
        return attempt

    def guarded() -> T:
        while True:
            with suppress(OpenedSinceError), gate.enter():
                return attempt()

    return guarded


def abehind(gate: Gate | None, attempt: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
    """Return `attempt` with a breaker before it; as `behind`."""
    if gate is None:
        return attempt

    async def guarded() -> T:
        while True:
            with suppress(OpenedSinceError), await gate.aenter():
                return await attempt()

    return guarded


def stream_behind(gate: Gate | None, open_stream: Callable[[], Generator[T]]) -> Callable[[], Iterator[T]]:
    """Return `open_stream` with a breaker before it, for which the first chunk is the success."""
    if gate is None:
        return open_stream

    def guarded() -> Iterator[T]:
        while True:
            with suppress(OpenedSinceError), gate.enter() as entry, closing(open_stream()) as stream:
                for chunk in stream:
                    entry.end()
                    yield chunk
                return

    return guarded


def astream_behind(
    gate: Gate | None, open_stream: Callable[[], AsyncGenerator[T]]
) -> Callable[[], AsyncIterator[T]]:
    """Return `open_stream` with a breaker before it; as `stream_behind`."""
    if gate is None:
        return open_stream

    async def guarded() -> AsyncIterator[T]:
        while True:
            with suppress(OpenedSinceError), await gate.aenter() as entry:
                async with aclosing(open_stream()) as stream:
                    async for chunk in stream:
                        entry.end()
                        yield chunk
                return

    return guarded
