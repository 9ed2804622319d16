"""The courier: every call answered once, nobody waits, one warning for an outage, no password anywhere."""

from __future__ import annotations

import gc
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from flow.redis_server import RedisServer

from lc_service.limits.shared import courier as module
from lc_service.limits.shared.call import Call, Reply
from lc_service.limits.shared.courier import Courier, courier_for

SECRET = "DISTINCTIVE-pass-0123"
TAKE = ("take", 0, 1.0, "", "", 0.0, "", "", "")


@pytest.fixture
def courier_to() -> Iterator[Callable[..., Courier]]:
    made: list[Courier] = []

    def make(url: str, **options: Any) -> Courier:
        made.append(Courier(url, try_every_seconds=0.02, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
        one.join(2)


def ask(courier: Courier, key: str, *arguments: Any) -> Reply:
    replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
    courier.carry(Call(key, arguments or TAKE, replies.put))
    return replies.get(timeout=5)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def warnings_of(caplog: pytest.LogCaptureFixture) -> Sequence[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- while Redis is there


def test_replies_come_in_the_order_of_calls(shared_server: RedisServer, courier_to: Any, key: str) -> None:
    courier, replies = courier_to(shared_server.url), queue.SimpleQueue()
    for _ in range(200):
        courier.carry(Call(key, TAKE, replies.put))
    assert [float(replies.get(timeout=5)[5]) for _ in range(200)] == list(range(1, 201))


def test_a_script_that_redis_forgot_is_loaded_again(
    shared_server: RedisServer, client: Any, courier_to: Any, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    courier = courier_to(shared_server.url)
    assert ask(courier, key)
    client.script_flush()
    assert float(ask(courier, key)[5]) == 2
    assert not warnings_of(caplog)


def test_an_idle_connection_that_was_closed_is_no_outage(
    shared_server: RedisServer, client: Any, courier_to: Any, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    courier = courier_to(shared_server.url)
    ask(courier, key)
    client.client_kill_filter(_type="normal", skipme=True)
    assert float(ask(courier, key)[5]) == 2
    assert not warnings_of(caplog)


def test_what_was_handed_over_is_carried_out_before_the_end(
    shared_server: RedisServer, client: Any, courier_to: Any, key: str
) -> None:
    courier = courier_to(shared_server.url)
    for _ in range(100):
        courier.carry(Call(key, TAKE))
    courier.close()
    courier.join(5)
    assert float(client.eval(module._SCRIPT.read_text(), 1, key, "take", "", *TAKE[1:])[5]) == 101


def test_who_holds_places_renews_until_nobody_knows_it(
    shared_server: RedisServer, courier_to: Any, key: str
) -> None:
    renewed = threading.Semaphore(0)

    class Holder:
        def renew(self) -> None:
            renewed.release()

    courier, holder = courier_to(shared_server.url, lease_seconds=0.04), Holder()
    courier.keep_renewing(holder)
    assert all(renewed.acquire(timeout=5) for _ in range(3))
    del holder
    gc.collect()
    assert not len(courier._renewing)


# --- while it is not


def test_an_outage_is_told_once_and_ends(
    own_server: RedisServer, courier_to: Any, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    own_server.start()
    courier = courier_to(own_server.url)
    assert float(ask(courier, key)[5]) == 1
    own_server.kill()
    assert ask(courier, key) is None
    assert not courier.is_up
    assert ask(courier, key) is None
    time.sleep(0.05)  # some tries
    own_server.start()
    until(lambda: courier.is_up)
    assert float(ask(courier, key)[5]) == 1, "another server, another state"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert f"127.0.0.1:{own_server.port}" in caplog.text


def test_whoever_holds_places_says_so_to_a_redis_that_is_back(
    own_server: RedisServer, courier_to: Any, key: str
) -> None:
    renewed = threading.Event()

    class Holder:
        def renew(self) -> None:
            renewed.set()

    courier, holder = courier_to(own_server.url), Holder()
    courier.keep_renewing(holder)
    assert ask(courier, key) is None
    own_server.start()
    assert renewed.wait(5)


def test_a_redis_that_accepts_and_says_nothing_is_away(courier_to: Any, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        courier = courier_to(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        began = time.monotonic()
        assert ask(courier, key) is None
        assert time.monotonic() - began < 1
        assert not courier.is_up


def test_a_redis_that_refuses_to_write_is_away_until_it_writes(
    own_server: RedisServer, courier_to: Any, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    import redis

    own_server.start()
    courier = courier_to(own_server.url)
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("maxmemory", 1)
        assert ask(courier, key) is None
        time.sleep(0.05)  # it answers pings, and is of no use
        assert not courier.is_up
        client.config_set("maxmemory", 0)
        until(lambda: courier.is_up)
    assert len(warnings_of(caplog)) == 1


def test_a_courier_that_hangs_is_away(courier_to: Any, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.02)
    courier, go_on, hangs = courier_to("redis://127.0.0.1:1/0"), threading.Event(), threading.Event()

    def hang(_: object) -> Any:
        hangs.set()
        go_on.wait(5)
        raise OSError

    monkeypatch.setattr(courier, "_ask", hang)
    courier.carry(Call(key, TAKE))
    assert hangs.wait(5)
    until(lambda: not courier.is_up)
    go_on.set()


def test_a_courier_whose_thread_ended_is_away(courier_to: Any) -> None:
    courier = courier_to("redis://127.0.0.1:1/0")
    courier.close()
    courier.join(5)
    assert not courier.is_up


def test_nobody_waits_for_it(courier_to: Any, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        courier = courier_to(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        began = time.monotonic()
        for _ in range(1_000):
            courier.carry(Call(key, TAKE))
        assert time.monotonic() - began < 0.2


# --- what it keeps to itself, and each process for itself


def test_a_password_is_in_no_log(
    own_server: RedisServer, courier_to: Any, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    own_server.start()
    courier = courier_to(f"redis://somebody:{SECRET}@127.0.0.1:{own_server.port}/0")
    assert ask(courier, key) is None, "there is nobody of that name"
    assert len(warnings_of(caplog)) == 1
    assert SECRET not in caplog.text
    assert SECRET not in repr(courier)


def test_a_process_has_one_courier_to_a_redis(shared_server: RedisServer) -> None:
    assert courier_for(shared_server.url) is courier_for(shared_server.url)
    assert courier_for(shared_server.url) is not courier_for(shared_server.url.replace("/0", "/1"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_has_a_courier_of_its_own(shared_server: RedisServer, key: str) -> None:
    program = f"""
import os, queue
from lc_service.limits.shared.call import Call
from lc_service.limits.shared.courier import courier_for

def ask():
    replies = queue.SimpleQueue()
    courier_for({shared_server.url!r}).carry(Call({key!r}, {TAKE!r}, replies.put))
    return float(replies.get(timeout=5)[5])

assert ask() == 1
child = os.fork()
if not child:
    os._exit(int(ask()))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
assert ask() == 3
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=30)  # noqa: S603  ourselves


def test_nobody_without_a_redis_url_imports_redis() -> None:
    program = (
        "import sys, lc_service; from lc_service import RateLimits; RateLimits(max_concurrency=1);"
        "lc_service.ReliableChatOpenAI; assert 'redis' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)  # noqa: S603  ourselves
