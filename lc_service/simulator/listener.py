"""Uvicorn as the simulator needs it: reachable transports, and an end without patience.

Invariant: when `run_until` returns every connection is closed, whatever its request waited for.
It serves any ASGI application and knows nothing of OpenAI.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lc_service.simulator.exchange import TRANSPORT_KEY

_BACKLOG = 2_048
_KEEP_ALIVE_SECONDS = 3_600


class _Protocol(HttpToolsProtocol):
    """Uvicorn's protocol, with the transport in the scope: faults need the connection itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False  # here, so that the process-wide access logger stays untouched

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)[TRANSPORT_KEY] = self.transport


class Listener(uvicorn.Server):
    """Uvicorn without its polling main loop, signal handlers and patient shutdown.

    Args:
        app: What to serve.
    """

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            server_header=False,
            date_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        super().__init__(config)

    async def run_until(
        self, sock: socket.socket, stopping: asyncio.Event, on_started: Callable[[], None]
    ) -> None:
        """Serve on `sock` until `stopping` is set; close every connection before returning.

        Args:
            sock: A bound socket.
            stopping: Set it to stop.
            on_started: Called when requests are accepted.
        """
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup(sockets=[sock])
        on_started()
        try:
            await stopping.wait()
        finally:
            await self._close_all()

    async def _close_all(self) -> None:
        for server in self.servers:
            server.close()
        tasks = list(self.server_state.tasks)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)
        if tasks:
            # the lost connections end them: this is for one that computes, not for one that waits
            await asyncio.wait(tasks, timeout=0.2)
        for _ in range(3):  # let the transports report their end before the loop closes
            await asyncio.sleep(0)


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop, uvloop's where it is installed."""
    try:
        import uvloop  # noqa: PLC0415  # not on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return cast("asyncio.AbstractEventLoop", uvloop.new_event_loop())
