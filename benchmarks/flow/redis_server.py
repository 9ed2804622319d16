"""A Redis server of one's own, for benchmarks and tests, where the machine has one installed.

Invariant: it listens on loopback, keeps nothing on disk, and ends with the block, or after ten minutes where
nobody is left to end it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

_START_SECONDS = 10.0
_MOST_SECONDS = 600


class RedisServer:
    """A server on a port that stays the same however often it is killed and started again.

    Args:
        options: Further arguments of `redis-server`.
    """

    def __init__(self, *options: str) -> None:
        self.port = _free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> RedisServer:
        """Start it, and wait until it listens."""
        command = [
            "timeout", str(_MOST_SECONDS), "redis-server", "--port", str(self.port), "--bind", "127.0.0.1",
            "--save", "", "--appendonly", "no", "--maxmemory", "64mb", *self._options,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
        )
        _wait_until_open(self.port)
        return self

    def kill(self) -> None:
        """End it as a crash does: nothing is said to anybody."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)  # the group that was made for it
            self._process.wait(5)
            self._process = None


@contextlib.contextmanager
def redis_server() -> Iterator[str | None]:
    """Give the URL of a fresh server; None where `redis-server` is not installed."""
    if not is_installed():
        yield None
        return
    server = RedisServer()
    try:
        yield server.start().url
    finally:
        server.stop()


def is_installed() -> bool:
    """Return whether there is a `redis-server`."""
    return shutil.which("redis-server") is not None and shutil.which("timeout") is not None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_open(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
