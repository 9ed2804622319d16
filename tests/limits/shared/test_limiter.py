"""Shared limiters on a real Redis: one set of limits for all, through crashes of processes and of Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from flow.redis_server import RedisServer

from lc_service.limits.admission import Outcome
from lc_service.limits.limiter import RateLimiter
from lc_service.limits.rate_limits import RateLimits
from lc_service.limits.registry import limiter_for
from lc_service.limits.shared.call import Call
from lc_service.limits.shared.courier import Courier
from lc_service.limits.shared.limiter import SharedRateLimiter, key_of

DONE = Outcome(is_admitted=True, used_tokens=10, latency_seconds=0.1)
LEASE_SECONDS = 0.4
KEY = "sk-test-DISTINCTIVE-0123456789"


@pytest.fixture
def limiter_on(key: str) -> Iterator[Callable[..., SharedRateLimiter]]:
    """Make limiters as separate processes have them: the state in Redis is all that they share."""
    couriers: list[Courier] = []

    def make(url: str, **limits: Any) -> SharedRateLimiter:
        couriers.append(Courier(url, lease_seconds=LEASE_SECONDS, try_every_seconds=0.02))
        return SharedRateLimiter(RateLimits(**limits), key, couriers[-1])

    yield make
    for courier in couriers:
        courier.close()
        courier.join(2)


def in_a_thread(limiter: RateLimiter) -> threading.Thread:
    thread = threading.Thread(target=limiter.acquire, args=(10,), daemon=True)
    thread.start()
    return thread


def carried(limiter: SharedRateLimiter) -> None:
    """Wait until Redis has answered whatever this one had asked by now."""
    is_answered = threading.Event()
    limiter._shared._courier.carry(Call("test:carried", ("try",), lambda _: is_answered.set()))
    assert is_answered.wait(5)


# --- shared


def test_a_cap_is_one_for_all(shared_server: RedisServer, limiter_on: Any) -> None:
    limiters = [limiter_on(shared_server.url, requests_per_minute=1_200) for _ in range(2)]
    began = time.monotonic()
    threads = [
        threading.Thread(target=lambda of=limiter: [of.acquire(10) for _ in range(15)])
        for limiter in limiters
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert 0.49 <= time.monotonic() - began < 2, "20 at once, 10 more at 20 a second"


def test_what_one_is_told_the_others_keep_to(shared_server: RedisServer, limiter_on: Any) -> None:
    one, other = limiter_on(shared_server.url), limiter_on(shared_server.url)
    permit = one.acquire(10)
    began = time.monotonic()  # half a second from when it is sent
    permit.send()
    carried(one)  # no server answers before Redis does
    said = {"limit": "120", "remaining": "0", "reset": "1s"}
    permit.see(httpx2.Headers({f"x-ratelimit-{name}-requests": value for name, value in said.items()}))
    permit.settle(DONE)
    carried(one)
    other.acquire(10)
    assert time.monotonic() - began > 0.4


def test_a_pause_is_one_for_all_and_ends_by_proof(shared_server: RedisServer, limiter_on: Any) -> None:
    one, other = limiter_on(shared_server.url), limiter_on(shared_server.url)
    rejected, later = one.acquire(10), other.acquire(10)
    rejected.send()
    rejected.settle(Outcome(is_admitted=False, is_rejected=True, used_tokens=0, retry_after_seconds=30.0))
    carried(one)
    time.sleep(0.05)
    waits = in_a_thread(other)
    waits.join(0.05)
    assert waits.is_alive()
    time.sleep(0.02)
    later.send()
    later.settle(DONE)
    waits.join(5)
    assert not waits.is_alive()


def test_places_are_for_all_together(shared_server: RedisServer, limiter_on: Any) -> None:
    one, other = (limiter_on(shared_server.url, max_concurrency=2) for _ in range(2))
    permits = [one.acquire(10), other.acquire(10)]
    waits = in_a_thread(other)
    waits.join(0.05)
    assert waits.is_alive()
    permits[0].settle(DONE)
    waits.join(5)
    assert not waits.is_alive()


def test_many_threads_and_tasks_of_two_never_hold_more_than_the_most(
    shared_server: RedisServer, limiter_on: Any
) -> None:
    limiters = [limiter_on(shared_server.url, max_concurrency=3) for _ in range(2)]
    lock, held, most, done = threading.Lock(), 0, 0, 0

    async def work(limiter: RateLimiter) -> None:
        nonlocal held, most, done
        for _ in range(5):
            permit = await limiter.aacquire(10)
            with lock:
                held += 1
                most = max(most, held)
            await asyncio.sleep(0.001)
            with lock:
                held -= 1
                done += 1
            permit.settle(DONE)

    async def all_of(limiter: RateLimiter) -> None:
        await asyncio.gather(*(work(limiter) for _ in range(8)))

    threads = [threading.Thread(target=lambda of=limiter: asyncio.run(all_of(of))) for limiter in limiters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert done == 80
    assert 2 <= most <= 3


# --- crashes

HOLDER = """
import sys
from lc_service.limits.rate_limits import RateLimits
from lc_service.limits.shared.call import Call
from lc_service.limits.shared.courier import Courier
from lc_service.limits.shared.limiter import SharedRateLimiter

url, key, lease = sys.argv[1:]
limiter = SharedRateLimiter(RateLimits(max_concurrency=2), key, Courier(url, lease_seconds=float(lease)))
permits = [limiter.acquire(10), limiter.acquire(10)]
print("held", flush=True)
sys.stdin.read()
"""


def test_the_places_of_a_killed_process_come_back(
    shared_server: RedisServer, limiter_on: Any, key: str
) -> None:
    limiter = limiter_on(shared_server.url, max_concurrency=2)
    with subprocess.Popen(  # noqa: S603  ourselves
        [sys.executable, "-c", HOLDER, shared_server.url, key, str(LEASE_SECONDS)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            waits = in_a_thread(limiter)
            waits.join(2 * LEASE_SECONDS)
            assert waits.is_alive(), "it renews what it holds"
        finally:
            os.kill(holder.pid, signal.SIGKILL)
        waits.join(5)
        assert not waits.is_alive()


def test_a_redis_that_is_killed_leaves_each_to_itself_until_it_is_back(
    own_server: RedisServer, limiter_on: Any, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    own_server.start()
    one, other = (limiter_on(own_server.url, max_concurrency=1) for _ in range(2))
    first = one.acquire(10)
    own_server.kill()
    began = time.monotonic()
    second = other.acquire(10)
    assert time.monotonic() - began < 1
    second.settle(DONE)
    couriers = [limiter._shared._courier for limiter in (one, other)]
    deadline = time.monotonic() + 10
    while any(courier.is_up for courier in couriers):  # the one sees it when it renews its lease
        assert time.monotonic() < deadline
        time.sleep(0.01)
    own_server.start()
    while not all(courier.is_up for courier in couriers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    carried(one)
    carried(one)  # by the first it has been asked what it holds, by the second it has said so
    waits = in_a_thread(other)
    waits.join(0.1)
    assert waits.is_alive(), "the new server knows of places that were taken before it began"
    first.settle(DONE)
    waits.join(5)
    assert not waits.is_alive()
    assert len(caplog.records) == 2, "one warning for each process"


async def test_no_event_loop_waits_for_redis(limiter_on: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        limiter = limiter_on(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        longest, is_over = 0.0, asyncio.Event()

        async def watch() -> None:
            nonlocal longest
            while not is_over.is_set():
                began = time.monotonic()
                await asyncio.sleep(0.001)
                longest = max(longest, time.monotonic() - began)

        watching = asyncio.create_task(watch())
        permits = await asyncio.gather(*(limiter.aacquire(10) for _ in range(4)))
        is_over.set()
        await watching
        assert all(permit.is_admitted for permit in permits)
        assert longest < 0.15


# --- names


def test_the_registry_shares_where_there_is_a_redis(shared_server: RedisServer) -> None:
    where = {"endpoint": "http://here", "credential": (KEY, None), "model": "m"}
    limiter = limiter_for(RateLimits(redis_url=shared_server.url), **where)
    assert isinstance(limiter, SharedRateLimiter)
    assert limiter_for(RateLimits(redis_url=shared_server.url), **where) is limiter
    assert not isinstance(limiter_for(RateLimits(), **where), SharedRateLimiter)


def test_a_state_has_the_same_name_in_every_process_and_tells_nothing() -> None:
    program = (
        "from lc_service.limits.rate_limits import RateLimits\n"
        "from lc_service.limits.shared.limiter import key_of\n"
        f"print(key_of(RateLimits(max_concurrency=1), 'http://here', ({KEY!r}, print), 'm'))"
    )
    names = set()
    for seed in "12":
        command, environment = [sys.executable, "-c", program], {**os.environ, "PYTHONHASHSEED": seed}
        names.add(subprocess.check_output(command, env=environment, text=True, timeout=30))  # noqa: S603  ourselves
    assert len(names) == 1
    assert KEY not in names.pop()


@pytest.mark.parametrize(
    "other",
    [
        (RateLimits(max_concurrency=2), "http://here", KEY, "m"),
        (RateLimits(), "http://there", KEY, "m"),
        (RateLimits(), "http://here", "another", "m"),
        (RateLimits(), "http://here", KEY, "n"),
    ],
)
def test_what_differs_shares_nothing(other: Any) -> None:
    assert key_of(*other) != key_of(RateLimits(), "http://here", KEY, "m")


def test_where_redis_is_makes_no_other_limits() -> None:
    same = RateLimits(redis_url="redis://one"), RateLimits(redis_url="redis://user:word@two:7000/0")
    assert len({key_of(limits, "http://here", KEY, "m") for limits in same}) == 1
