"""One HTTP exchange: read the request, send an answer whole, in pieces, broken off, or not at all.

Invariant: after any method that ends the exchange the connection is in a state uvicorn agrees with.
It knows sockets and ASGI messages; it does not know what the bytes mean.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable

from starlette.types import Receive, Scope, Send

Headers = Iterable[tuple[bytes, bytes]]

TRANSPORT_KEY = "lc_service.transport"
"""Where the server's protocol leaves the connection's transport in the scope."""

JSON = (b"content-type", b"application/json")
HTML = (b"content-type", b"text/html; charset=utf-8")
SSE = (b"content-type", b"text/event-stream; charset=utf-8")


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._transport: asyncio.Transport = scope[TRANSPORT_KEY]

    @property
    def is_gone(self) -> bool:
        """Whether the client has gone away, as far as is known without waiting."""
        return self._transport.is_closing()

    def header(self, name: bytes) -> str:
        """Return the request's header `name` (lower case), empty when absent."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value, "latin-1")
        return ""

    async def read_body(self) -> bytes | None:
        """Return the request's body, or None when the client went away before its end."""
        message = await self._receive()
        if message["type"] == "http.request" and not message["more_body"]:
            return bytes(message["body"])
        parts: list[bytes] = []
        while message["type"] == "http.request":
            parts.append(message["body"])
            if not message["more_body"]:
                return b"".join(parts)
            message = await self._receive()
        return None

    async def wait(self, seconds: float) -> bool:
        """Wait, no longer than the client does; return whether it is still there."""
        try:
            async with asyncio.timeout(seconds):
                await self._until_gone()
        except TimeoutError:
            return True
        return False

    async def send_whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a complete answer."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def start(self, status: int, headers: Headers) -> None:
        """Send status and headers."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send_part(self, data: bytes) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self) -> None:
        """End a body sent in parts, cleanly."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def drop(self) -> None:
        """Close the connection after what was sent, in the middle of the answer."""
        self._transport.close()
        await self._until_gone()

    async def reset(self) -> None:
        """Reset the connection: the client gets a TCP RST and nothing else."""
        connection = self._transport.get_extra_info("socket")
        # lingering for zero seconds makes close() send RST instead of FIN
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
        await self._until_gone()

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
