from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lc_service.retry.event import RetryEvent
from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.retry.quota import RetryQuota
from lc_service.retry.stream import aretry_stream, retry_stream


class Streams:
    """Attempts written down as lists: an exception in a list is raised there."""

    def __init__(self, *scripts: list[object]) -> None:
        self.scripts = list(scripts)
        self.opened = 0
        self.log: list[str] = []

    def open(self) -> Iterator[object]:
        self.opened += 1
        return self._read(self.opened, self.scripts[self.opened - 1])

    def aopen(self) -> AsyncIterator[object]:
        self.opened += 1
        return self._aread(self.opened, self.scripts[self.opened - 1])

    def _read(self, number: int, script: list[object]) -> Iterator[object]:
        try:
            for item in script:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.log.append(f"closed {number}")

    async def _aread(self, number: int, script: list[object]) -> AsyncIterator[object]:
        try:
            for item in script:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.log.append(f"closed {number}")


def read_sync(policy, streams, *, take=None, on_wait=None, **kwargs):
    chunks: list[object] = []
    stream = retry_stream(policy, streams.open, on_wait, **kwargs)
    try:
        while take is None or len(chunks) < take:
            chunks.append(next(stream))
    except StopIteration:
        return chunks, None
    except BaseException as error:
        return chunks, error
    stream.close()
    return chunks, None


def read_async(policy, streams, *, take=None, on_wait=None, **kwargs):
    async def told(event: RetryEvent) -> None:
        on_wait(event)

    async def main() -> tuple[list[object], BaseException | None]:
        chunks: list[object] = []
        stream = aretry_stream(policy, streams.aopen, told if on_wait else None, **kwargs)
        try:
            while take is None or len(chunks) < take:
                chunks.append(await anext(stream))
        except StopAsyncIteration:
            return chunks, None
        except (Exception, GeneratorExit) as error:
            return chunks, error
        await stream.aclose()
        streams.log.append("aclose returned")
        return chunks, None

    try:
        return asyncio.run(main())
    except KeyboardInterrupt as error:
        return [], error


@pytest.fixture(params=[read_sync, read_async])
def read(request: pytest.FixtureRequest) -> Callable[..., tuple[list[object], BaseException | None]]:
    """Read a retried stream through either twin: its chunks, and the error that ended it."""
    return request.param


NONE = RetryWithExponentialBackoff(jitter="none")


def test_a_good_stream_is_opened_once_and_handed_on_as_it_is(read, fake_clock):
    streams = Streams(["a", "b", "c"])
    assert read(NONE, streams) == (["a", "b", "c"], None)
    assert (streams.opened, streams.log, fake_clock.waits) == (1, ["closed 1"], [])


def test_it_is_retried_until_the_first_chunk(read, fake_clock, api_error):
    streams = Streams([api_error()], [api_error(429, retry_after="5")], ["a", "b"])
    assert read(NONE, streams) == (["a", "b"], None)
    assert fake_clock.waits == [1.0, 5.0]
    assert streams.log == ["closed 1", "closed 2", "closed 3"]


def test_after_the_first_chunk_an_error_passes_through(read, fake_clock, api_error):
    error = api_error()
    streams = Streams(["a", error], ["never"])
    chunks, raised = read(NONE, streams)
    assert chunks == ["a"]
    assert raised is error
    assert (streams.opened, fake_clock.waits) == (1, [])
    assert not hasattr(error, "__notes__")


def test_chunks_without_content_are_held_back(read, fake_clock, api_error):
    """A role chunk shows nothing: a stream that dies behind it is retried, and its role is not repeated."""
    streams = Streams(["", "", api_error()], ["", "a", "", "b"])
    assert read(NONE, streams, has_content=bool) == (["", "a", "", "b"], None)
    assert streams.opened == 2


def test_a_held_back_chunk_is_not_shown_when_all_attempts_fail(read, fake_clock, api_error):
    streams = Streams(["", api_error()], ["", api_error()])
    chunks, raised = read(RetryWithExponentialBackoff(max_retries=1), streams, has_content=bool)
    assert chunks == []
    assert isinstance(raised, openai.APIStatusError)


@pytest.mark.parametrize("script", [[], ["", ""]])
def test_a_stream_with_no_content_at_all_is_handed_on(read, fake_clock, script):
    """Whether it ended well is not judged here."""
    streams = Streams(script)
    assert read(NONE, streams, has_content=bool) == (script, None)
    assert streams.opened == 1


def test_the_last_error_is_the_very_object(read, fake_clock, api_error):
    errors = [api_error(), api_error(), api_error()]
    _, raised = read(RetryWithExponentialBackoff(max_retries=2), Streams(*[[error] for error in errors]))
    assert raised is errors[-1]
    assert len(raised.__notes__) == 1


def test_a_hopeless_error_is_not_retried(read, fake_clock, api_error):
    streams = Streams([api_error(400)], ["never"])
    assert isinstance(read(NONE, streams)[1], openai.APIStatusError)
    assert streams.opened == 1


def test_a_failure_to_open_is_retried(fake_clock, api_error):
    openings = [api_error(), iter(["a"])]

    def open_stream() -> Iterator[str]:
        opening = openings.pop(0)
        if isinstance(opening, Exception):
            raise opening
        return opening

    assert list(retry_stream(NONE, open_stream)) == ["a"]
    assert fake_clock.waits == [1.0]


def test_it_is_not_reopened_where_it_cannot_start_from_the_beginning(read, fake_clock, api_error):
    error = api_error()
    streams = Streams([error], ["never"])
    assert read(NONE, streams, can_reopen=lambda: False) == ([], error)
    assert (streams.opened, fake_clock.waits) == (1, [])


@pytest.mark.parametrize("take", [1, 2])
def test_closing_early_closes_the_inner_stream_at_once(read, fake_clock, take):
    streams = Streams(["a", "b", "c"])
    chunks, _ = read(NONE, streams, take=take)
    assert chunks == ["a", "b", "c"][:take]
    assert streams.log[0] == "closed 1"  # before aclose returned


class Closable:
    """A stream that is no generator, as the SDK's: nobody closes it but the one who calls `close`."""

    def __init__(self, *items: object) -> None:
        self.items = list(items)
        self.closed = 0

    def __iter__(self) -> Closable:
        return self

    def __next__(self) -> object:
        if not self.items:
            raise StopIteration
        item = self.items.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.closed += 1

    def __aiter__(self) -> Closable:
        return self

    async def __anext__(self) -> object:
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        self.closed += 1


async def test_every_stream_is_closed_failed_abandoned_or_read_to_its_end(fake_clock, api_error):
    made = [Closable(api_error()), Closable("a", "b"), Closable(api_error()), Closable("a", "b")]
    left = list(made)
    assert list(retry_stream(NONE, lambda: left.pop(0))) == ["a", "b"]
    stream = retry_stream(NONE, lambda: left.pop(0))
    assert next(stream) == "a"
    stream.close()
    assert [each.closed for each in made] == [1, 1, 1, 1]

    made = [Closable(api_error()), Closable("a", "b"), Closable(api_error()), Closable("a", "b")]
    left = list(made)
    assert [chunk async for chunk in aretry_stream(NONE, lambda: left.pop(0))] == ["a", "b"]
    astream = aretry_stream(NONE, lambda: left.pop(0))
    assert await anext(astream) == "a"
    await astream.aclose()
    assert [each.closed for each in made] == [1, 1, 1, 1]


def test_an_interrupt_passes_through_and_closes(read, fake_clock):
    interrupt = KeyboardInterrupt()
    streams = Streams([interrupt], ["never"])
    _, raised = read(NONE, streams)
    assert isinstance(raised, KeyboardInterrupt)
    assert (streams.opened, streams.log) == (1, ["closed 1"])


async def test_cancellation_passes_through_and_closes(fake_clock):
    closed = asyncio.Event()
    reached = asyncio.Event()

    async def hang() -> AsyncIterator[str]:
        try:
            reached.set()
            await asyncio.Event().wait()
            yield "never"
        finally:
            closed.set()

    async def consume() -> list[str]:
        return [chunk async for chunk in aretry_stream(NONE, hang)]

    task = asyncio.create_task(consume())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
    assert fake_clock.waits == []


def test_on_wait_is_told_before_each_wait_with_the_failed_stream_closed(read, fake_clock, api_error):
    streams = Streams([api_error()], [api_error()], ["a"])
    told: list[tuple[int, float, int]] = []
    read(
        NONE,
        streams,
        on_wait=lambda event: told.append((event.attempt, event.wait_seconds, len(streams.log))),
    )
    assert told == [(1, 1.0, 1), (2, 2.0, 2)]


def test_the_quota_is_paid_back_at_the_first_chunk(read, fake_clock, api_error):
    quota = RetryQuota(capacity=20, retry_cost=10)
    policy = RetryWithExponentialBackoff(quota=quota)
    chunks, raised = read(policy, Streams([api_error()], ["a", api_error()]))
    assert (chunks, raised is None, quota.available) == (["a"], False, 20)


class ChunkError(ConnectionError):
    """Equal to nothing, as exceptions are."""


scripts = st.lists(
    st.tuples(st.lists(st.sampled_from(["", "a", "b"]), max_size=4), st.booleans()), min_size=1, max_size=5
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors])
@given(scripts=scripts)
def test_what_comes_out_is_exactly_one_attempts_stream(read, fake_clock, scripts):
    """Never a mixture of two attempts, nothing repeated, no content lost; an error only as it happened."""
    written = [chunks + ([ChunkError(n)] if fails else []) for n, (chunks, fails) in enumerate(scripts)]
    expected = next(
        (n for n, (chunks, fails) in enumerate(scripts) if any(chunks) or not fails), len(scripts) - 1
    )
    streams = Streams(*written)
    policy = RetryWithExponentialBackoff(max_retries=len(scripts) - 1, quota=None)
    chunks, error = read(policy, streams, has_content=bool)
    whole, fails = scripts[expected]
    assert streams.opened == expected + 1
    assert chunks == (whole if any(whole) or not fails else [])
    assert (error is written[expected][-1]) if fails else error is None
