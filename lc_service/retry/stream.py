"""Retry a stream as long as nothing of it was handed on.

The first chunk with content ends the retrying: from then on an error passes through, because a second
attempt would repeat what the caller has seen. Does not judge whether a stream ended well.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Generic, TypeVar

from lc_service import clock
from lc_service.retry.event import RetryEvent
from lc_service.retry.policy import Attempts, RetryWithExponentialBackoff

T = TypeVar("T")


def _anything(_: object) -> bool:
    return True


def _always() -> bool:
    return True


def retry_stream(
    policy: RetryWithExponentialBackoff,
    open_stream: Callable[[], Iterator[T]],
    on_wait: Callable[[RetryEvent], None] | None = None,
    has_content: Callable[[T], bool] = _anything,
    can_reopen: Callable[[], bool] = _always,
) -> Iterator[T]:
    """Yield the chunks of the first stream that gets as far as a chunk with content.

    Chunks before that one (a role, an id) are held back until it comes, so that a stream that dies right
    after its opening is still retried unseen.

    Args:
        policy: When and how often to try again.
        open_stream: Starts one attempt.
        on_wait: Told before each wait.
        has_content: Whether a chunk shows the caller anything.
        can_reopen: Asked after a failure: whether `open_stream` can still start from the beginning.
    """
    attempts = Attempts(policy)
    while True:
        held: list[T] = []
        stream: Iterator[T] | None = None
        try:
            try:
                stream = open_stream()
                for chunk in stream:
                    held.append(chunk)
                    if has_content(chunk):
                        break
            except Exception as error:
                event = attempts.next_wait(error) if can_reopen() else None
                if event is None:
                    raise
            else:
                attempts.succeed()
                yield from held
                yield from stream
                return
        finally:
            if (close := getattr(stream, "close", None)) is not None:
                close()
        if on_wait is not None:
            on_wait(event)
        wait_seconds = event.wait_seconds
        del event  # as in retry_call: a cycle
        clock.sleep(wait_seconds)


async def aretry_stream(  # noqa: C901  the twin of retry_stream, line by line
    policy: RetryWithExponentialBackoff,
    open_stream: Callable[[], AsyncIterator[T]],
    on_wait: Callable[[RetryEvent], Awaitable[None]] | None = None,
    has_content: Callable[[T], bool] = _anything,
    can_reopen: Callable[[], bool] = _always,
) -> AsyncGenerator[T]:
    """Yield the chunks of the first stream that gets as far as a chunk with content; as `retry_stream`."""
    attempts = Attempts(policy)
    while True:
        held: list[T] = []
        stream: AsyncIterator[T] | None = None
        try:
            try:
                stream = open_stream()
                async for chunk in stream:
                    held.append(chunk)
                    if has_content(chunk):
                        break
            except Exception as error:
                event = attempts.next_wait(error) if can_reopen() else None
                if event is None:
                    raise
            else:
                attempts.succeed()
                for chunk in held:
                    yield chunk
                async for chunk in stream:
                    yield chunk
                return
        finally:
            if (aclose := getattr(stream, "aclose", None)) is not None:
                await aclose()
        if on_wait is not None:
            await on_wait(event)
        wait_seconds = event.wait_seconds
        del event  # as in retry_call: a cycle
        await clock.async_sleep(wait_seconds)


class Replay(Generic[T]):
    """An iterator that can be read from its beginning again, for the next attempt.

    Its source cannot: once that has raised, `is_broken` says that nothing more will come of it, and what
    was read so far must not be taken for the whole input. The lock is for a RunnableParallel inside: a
    branch of the attempt that failed may still be reading.
    """

    def __init__(self, source: Iterator[T]) -> None:
        self.is_broken = False
        self._source = source
        self._read: list[T] = []
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[T]:
        for position in itertools.count():
            with self._lock:
                if position == len(self._read) and not self._read_on():
                    return
            yield self._read[position]

    def _read_on(self) -> bool:
        try:
            self._read.append(next(self._source))
        except StopIteration:
            return False
        except BaseException:
            self.is_broken = True
            raise
        return True


class AsyncReplay(Generic[T]):
    """`Replay` for an async iterator."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self.is_broken = False
        self._source = source
        self._read: list[T] = []
        self._lock = asyncio.Lock()

    async def __aiter__(self) -> AsyncIterator[T]:
        for position in itertools.count():
            async with self._lock:
                if position == len(self._read) and not await self._read_on():
                    return
            yield self._read[position]

    async def _read_on(self) -> bool:
        try:
            self._read.append(await anext(self._source))
        except StopAsyncIteration:
            return False
        except BaseException:
            self.is_broken = True
            raise
        return True
