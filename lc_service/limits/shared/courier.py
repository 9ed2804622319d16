"""The one thread of a process that talks to a Redis; what is asked of it goes in bundles.

Invariant: every call is answered once, with None where it was lost. While Redis is away nothing is asked of
it but whether it is back. Warns once for each outage and never names a password.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import math
import os
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lc_service import clock

_logger = logging.getLogger(__name__)
_SCRIPT = Path(__file__).with_name("script.lua")
_TIMEOUT_SECONDS = 0.25
_TRY_EVERY_SECONDS = 2.0
_RENEW_EVERY_SECONDS = 15.0
_MOST_AT_ONCE = 64

Reply = Sequence[bytes] | None
Argument = str | float | int


class Call(NamedTuple):
    """One step of the script.

    Attributes:
        key: The state that it is about.
        arguments: The step's name, then what it asks for; the time is added.
        on_reply: Told the reply, in the courier's thread; None where nobody waits for one.
    """

    key: str
    arguments: Sequence[Argument]
    on_reply: Callable[[Reply], None] | None = None


class Renewing(Protocol):
    """Somebody who holds what expires."""

    def renewal(self) -> Call | None:
        """Return what renews it; None where nothing is held."""


class Courier:
    """Carries calls to one Redis. Thread-safe, and safe in finalizers: nothing here waits for anything.

    Args:
        url: Of Redis.

    Raises:
        ImportError: redis is not installed.
        ValueError: The URL is none that redis-py reads.
    """

    def __init__(self, url: str) -> None:
        self._redis = _import_redis()
        retry = importlib.import_module("redis.retry").Retry(
            importlib.import_module("redis.backoff").NoBackoff(), 0
        )
        try:
            self._client: Any = self._redis.Redis.from_url(
                url,
                socket_timeout=_TIMEOUT_SECONDS,
                socket_connect_timeout=_TIMEOUT_SECONDS,
                retry=retry,
                decode_responses=False,
                protocol=2,
            )
        except ValueError:
            raise ValueError("redis_url is none that redis-py reads.") from None  # its text may name a secret
        known = self._client.connection_pool.connection_kwargs
        self._place = known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"
        self._digest = ""
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._renewing: weakref.WeakSet[Renewing] = weakref.WeakSet()
        self._renewed_at = clock.now()
        self.is_up = True

    def renew(self, renewing: Renewing) -> None:
        """Ask it for its renewal from time to time, for as long as it lives."""
        self._renewing.add(renewing)

    def carry(self, call: Call) -> None:
        """Have a call carried out; never blocks."""
        self._queue.put(call)
        if self._thread is None and self._starting.acquire(blocking=False):
            thread = threading.Thread(target=self._run, name="lc-service-limits", daemon=True)
            self._thread = thread
            thread.start()

    def close(self, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        """Carry out what is waiting, and end."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        is_open = True
        while is_open:
            calls: list[Call] = []
            try:
                call = self._queue.get(timeout=_RENEW_EVERY_SECONDS if self.is_up else _TRY_EVERY_SECONDS)
                while call is not None and len(calls) < _MOST_AT_ONCE:
                    calls.append(call)
                    call = self._queue.get_nowait()
                is_open = call is not None
                if call is not None:
                    calls.append(call)
            except queue.Empty:
                pass
            self._carry(calls)
        self._client.close()

    def _carry(self, calls: list[Call]) -> None:
        now = clock.now()
        if self.is_up and now - self._renewed_at >= _RENEW_EVERY_SECONDS:
            self._renewed_at = now
            calls += [call for one in list(self._renewing) if (call := one.renewal()) is not None]
        replies: Sequence[Any] = [None] * len(calls)
        if self.is_up and calls:
            try:
                replies = self._ask(calls)
            except (self._redis.RedisError, OSError) as error:
                self._lose(error)
        elif not self.is_up:
            self._try_again()
        for call, reply in zip(calls, replies, strict=True):
            if call.on_reply is not None:
                call.on_reply(None if isinstance(reply, Exception) else reply)

    def _ask(self, calls: Sequence[Call]) -> Sequence[Any]:
        if not self._digest:
            self._digest = self._client.script_load(_SCRIPT.read_text(encoding="utf-8"))
        replies = self._bundle(calls)
        broken = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if isinstance(broken, self._redis.exceptions.NoScriptError):  # another server, or one that began anew
            self._digest = self._client.script_load(_SCRIPT.read_text(encoding="utf-8"))
            replies = self._bundle(calls)
            broken = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if broken is not None:
            raise broken
        return replies

    def _bundle(self, calls: Sequence[Call]) -> Sequence[Any]:
        try:
            return self._send(calls)
        except self._redis.TimeoutError:
            raise
        except (self._redis.ConnectionError, OSError):
            return self._send(calls)  # it may have been an idle connection that somebody closed

    def _send(self, calls: Sequence[Call]) -> Sequence[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for key, (step, *arguments), _ in calls:
            pipeline.evalsha(self._digest, 1, key, step, "", *arguments)
        found: Sequence[Any] = pipeline.execute(raise_on_error=False)
        return found

    def _lose(self, error: BaseException) -> None:
        self.is_up = False
        self._tried_at = clock.now()
        _logger.warning(
            "Redis at %s does not answer (%s): until it does, each process keeps to limits by itself.",
            self._place,
            type(error).__name__,
        )

    def _try_again(self) -> None:
        if clock.now() - self._tried_at < _TRY_EVERY_SECONDS:
            return
        self._tried_at = clock.now()
        try:
            self._client.ping()
        except (self._redis.RedisError, OSError):
            return
        self.is_up = True
        _logger.info("Redis at %s answers again: limits are shared.", self._place)


def _import_redis() -> Any:
    try:
        return importlib.import_module("redis")
    except ModuleNotFoundError as error:
        raise ImportError('redis_url needs redis-py: pip install "lc-service[redis]".') from error


def shown(value: float | None) -> Argument:
    """Return a number as the script reads it; what is not known is empty."""
    return "" if value is None or not math.isfinite(value) else value


_couriers: dict[str, Courier] = {}


def courier_for(url: str) -> Courier:
    """Return the courier of this process to the Redis of `url`."""
    courier = _couriers.get(url)
    return courier if courier is not None else _couriers.setdefault(url, Courier(url))


def _close_all() -> None:
    for courier in list(_couriers.values()):
        courier.close()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):  # its thread does not exist in the child
    os.register_at_fork(after_in_child=_couriers.clear)
