"""Between a model's attempts and its endpoint's breaker: each attempt passes it first and tells it its end.

Invariant: where the breaker is open nothing is reserved, sent or recorded. Does not retry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import ParamSpec, TypeVar

from lc_service.limits.breaker import Breaker, Entry, breaker_for
from lc_service.limits.circuit import CircuitBreaker
from lc_service.models.pipeline import Call
from lc_service.retry.exceptions import CircuitOpenError

P = ParamSpec("P")
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
            return self._breaker.enter(is_patient=self._is_patient)
        except CircuitOpenError as refusal:
            raise refusal from self._call.last_error

    async def aenter(self) -> Entry:
        """Let the next attempt go; as `enter`."""
        try:
            return await self._breaker.aenter(is_patient=self._is_patient)
        except CircuitOpenError as refusal:
            raise refusal from self._call.last_error


def gate_of(rules: CircuitBreaker | None, call: Call) -> Gate | None:
    """Return what a call's attempts pass; None where the model has no breaker."""
    server = call.request.server
    if rules is None or server is None:
        return None
    return Gate(call, breaker_for(rules, str(server)), is_patient=rules.is_patient)


def behind(gate: Gate | None, attempt: Callable[P, T]) -> Callable[P, T]:
    """Return `attempt` with a breaker before it."""
    if gate is None:
        return attempt

    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        entry = gate.enter()
        try:
            result = attempt(*args, **kwargs)
        except BaseException as error:
            entry.end(error)
            raise
        entry.end()
        return result

    return guarded


def abehind(gate: Gate | None, attempt: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Return `attempt` with a breaker before it; as `behind`."""
    if gate is None:
        return attempt

    async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        entry = await gate.aenter()
        try:
            result = await attempt(*args, **kwargs)
        except BaseException as error:
            entry.end(error)
            raise
        entry.end()
        return result

    return guarded


def stream_behind(gate: Gate | None, open_stream: Callable[[], Iterator[T]]) -> Callable[[], Iterator[T]]:
    """Return `open_stream` with a breaker before it, for which the first chunk is the success."""
    if gate is None:
        return open_stream

    def guarded() -> Iterator[T]:
        entry = gate.enter()
        stream = None
        try:
            stream = open_stream()
            for chunk in stream:
                entry.end()
                yield chunk
        except BaseException as error:
            entry.end(error)
            raise
        finally:
            if (close := getattr(stream, "close", None)) is not None:
                close()
        entry.end()

    return guarded


def astream_behind(
    gate: Gate | None, open_stream: Callable[[], AsyncIterator[T]]
) -> Callable[[], AsyncIterator[T]]:
    """Return `open_stream` with a breaker before it; as `stream_behind`."""
    if gate is None:
        return open_stream

    async def guarded() -> AsyncIterator[T]:
        entry = await gate.aenter()
        stream = None
        try:
            stream = open_stream()
            async for chunk in stream:
                entry.end()
                yield chunk
        except BaseException as error:
            entry.end(error)
            raise
        finally:
            if (aclose := getattr(stream, "aclose", None)) is not None:
                await aclose()
        entry.end()

    return guarded
