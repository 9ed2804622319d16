"""The one thread of a process that talks to a Redis; what is asked of it goes in bundles.

Invariant: every call is answered once, with None where it was lost. While Redis is away nothing is asked of
it but whether it is back. Warns once for each outage and never names a password.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import queue
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from lc_service import clock
from lc_service.limits.shared.call import Call, Reply

_logger = logging.getLogger(__name__)
_SCRIPT = Path(__file__).with_name("script.lua")
_TIMEOUT_SECONDS = 0.5
_PATIENCE_SECONDS = 1.0
"""Longer than this, name look-ups included, is away."""
_TRY_EVERY_SECONDS = 2.0
_LEASE_SECONDS = 60.0
_MOST_AT_ONCE = 64
_TRY_KEY = "lc_service:limits:try"


class Renewing(Protocol):
    """Somebody who holds what expires."""

    def renew(self) -> None:
        """Have it renewed; never blocks."""


class Courier:
    """Carries calls to one Redis. Thread-safe, and safe in finalizers: `carry` waits for nothing.

    Args:
        url: Of Redis.
        lease_seconds: How long what this process holds stays its own when it says nothing more.
        try_every_seconds: How often it is looked whether a Redis that was lost is back.
    """

    def __init__(
        self,
        url: str,
        *,
        lease_seconds: float = _LEASE_SECONDS,
        try_every_seconds: float = _TRY_EVERY_SECONDS,
    ) -> None:
        self._client = _client(url)
        known = self._client.connection_pool.connection_kwargs
        self._place = known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"
        self.lease_seconds = lease_seconds
        self._try_every_seconds = try_every_seconds
        self._digest = ""
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._renewing: weakref.WeakSet[Renewing] = weakref.WeakSet()
        self._renewing_lock = threading.Lock()
        self._renewed_at = clock.now()
        self._busy_since = math.inf
        self._is_up = True
        self._thread = threading.Thread(target=self._run, name="lc-service-limits", daemon=True)
        self._thread.start()

    @property
    def is_up(self) -> bool:
        """Whether it makes sense to ask."""
        return self._is_up and clock.now() - self._busy_since < _PATIENCE_SECONDS

    def keep_renewing(self, renewing: Renewing) -> None:
        """Have it renew what it holds from time to time, for as long as it lives."""
        with self._renewing_lock:
            self._renewing.add(renewing)

    def carry(self, call: Call) -> None:
        """Have a call carried out; never blocks."""
        self._queue.put(call)

    def close(self) -> None:
        """Carry out what is waiting, and end; does not wait for that."""
        self._queue.put(None)

    def join(self, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        """Wait for the end."""
        self._thread.join(timeout_seconds)

    # --- the thread

    def _run(self) -> None:
        is_open = True
        try:
            while is_open:
                calls, is_open = self._next()
                if calls or is_open:
                    self._answer(calls, self._carry_out(calls))
                if self._is_up and clock.now() - self._renewed_at >= self.lease_seconds / 4:
                    self._renew()
        finally:
            self._is_up = False
            self._client.close()

    def _answer(self, calls: Sequence[Call], replies: Sequence[Reply]) -> None:
        for call, reply in zip(calls, replies, strict=True):
            if call.on_reply is not None:
                call.on_reply(reply)

    def _next(self) -> tuple[list[Call], bool]:
        """Return what waits, none where it is time for something else, and whether more is to come."""
        calls: list[Call] = []
        try:
            call = self._queue.get(timeout=self.lease_seconds / 4 if self._is_up else self._try_every_seconds)
            while call is not None:
                calls.append(call)
                if len(calls) == _MOST_AT_ONCE:
                    break
                call = self._queue.get_nowait()
        except queue.Empty:
            return calls, True
        return calls, call is not None

    def _renew(self) -> None:
        self._renewed_at = clock.now()
        with self._renewing_lock:
            renewing = list(self._renewing)
        for one in renewing:
            one.renew()

    def _carry_out(self, calls: Sequence[Call]) -> Sequence[Reply]:
        lost: Sequence[Reply] = [None] * len(calls)
        self._busy_since = clock.now()
        try:
            if not self._is_up:
                self._try_again()
            elif calls:
                return self._ask(calls)
        except Exception as error:  # noqa: BLE001  whatever is wrong with Redis, calls go on without it
            if self._is_up:
                self._lose(error)
        finally:
            self._busy_since = math.inf
        return lost

    def _ask(self, calls: Sequence[Call]) -> Sequence[Reply]:
        replies = self._bundle(calls) if self._digest else []
        if not replies or any(isinstance(reply, _redis().exceptions.NoScriptError) for reply in replies):
            self._digest = self._client.script_load(_SCRIPT.read_text(encoding="utf-8"))
            self._renewed_at = -math.inf  # a server that knows no script knows of no places either
            replies = self._bundle(calls)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _bundle(self, calls: Sequence[Call]) -> Sequence[Any]:
        errors = _redis().exceptions
        try:
            return self._send(calls)
        except errors.TimeoutError:
            raise
        except (errors.ConnectionError, OSError):
            # Mostly an idle connection that somebody closed. What was counted twice is given back by time.
            return self._send(calls)

    def _send(self, calls: Sequence[Call]) -> Sequence[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for key, (step, *arguments), _ in calls:
            pipeline.evalsha(self._digest, 1, key, step, "", *arguments)
        found: Sequence[Any] = pipeline.execute(raise_on_error=False)
        return found

    def _lose(self, error: Exception) -> None:
        self._is_up = False
        _logger.warning(
            "Redis at %s fails (%s): until it is back, each process keeps to limits by itself.",
            self._place,
            type(error).__name__,
        )

    def _try_again(self) -> None:
        self._ask([Call(_TRY_KEY, ("try",))])
        self._is_up = True
        self._renewed_at = -math.inf
        _logger.info("Redis at %s is back: limits are shared.", self._place)


def _redis() -> Any:
    """Return redis-py: for those who have a Redis."""
    import redis  # noqa: PLC0415  the extra `redis`

    return redis


def _client(url: str) -> Any:
    redis = _redis()
    return redis.Redis.from_url(  # `RateLimits` has read it before
        url,
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        protocol=2,
    )


_couriers: dict[str, Courier] = {}
_couriers_lock = threading.Lock()


def courier_for(url: str) -> Courier:
    """Return the courier of this process to the Redis of `url`. Thread-safe."""
    with _couriers_lock:
        if url not in _couriers:
            _couriers[url] = Courier(url)
        return _couriers[url]


def _close_all() -> None:
    couriers = list(_couriers.values())
    for courier in couriers:
        courier.close()
    for courier in couriers:
        courier.join()


def _begin_anew() -> None:
    global _couriers_lock  # noqa: PLW0603  the parent's may be held by a thread that does not exist here
    _couriers_lock = threading.Lock()
    _couriers.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
