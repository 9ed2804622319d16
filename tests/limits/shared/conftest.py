"""What every test of shared limits needs: a real Redis where one is installed, and states of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from flow.redis_server import RedisServer, is_installed

from lc_service.limits.shared import courier

NO_REDIS = "redis-server is not installed (Debian: apt-get install redis-server)"


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RedisServer]:
    """One server for all tests that do it no harm."""
    if not is_installed():
        pytest.skip(NO_REDIS)
    server = RedisServer()
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that a test may kill and start again; not started yet."""
    if not is_installed():
        pytest.skip(NO_REDIS)
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def client(shared_server: RedisServer) -> Iterator[Any]:
    """A connection to the shared server."""
    with redis.Redis.from_url(shared_server.url) as connected:
        yield connected


@pytest.fixture
def key() -> str:
    """A state that no other test has."""
    return f"test:{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def _no_couriers_left() -> Iterator[None]:
    yield
    courier._close_all()
    courier._couriers.clear()
