"""A simulator and a raw HTTP client for it; no SDK between the test and the wire."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from lc_service.simulator import Simulator

LONG_TEXT = (
    "The library opened in 1887 and has been renovated twice. Its reading room seats two hundred. "
    "Visitors come for the maps, which the library has collected since its first year. The oldest "
    "map of the library shows the harbour before the great fire. Entrance is free on Sundays."
)


class Wire:
    """Sends requests to a simulator and reads what comes back."""

    def __init__(self, simulator: Simulator) -> None:
        self.sim = simulator
        self.client = httpx2.Client(
            base_url=simulator.base_url,
            headers={"authorization": "Bearer sk-test-1234567890"},
            timeout=5.0,
        )

    def body(self, text: str = LONG_TEXT, **extra: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": text}]
        return {"model": "gpt-4.1-mini", "messages": messages, **extra}

    def chat(self, text: str = LONG_TEXT, **extra: Any) -> httpx2.Response:
        return self.client.post("/chat/completions", json=self.body(text, **extra))

    def post(self, path: str, **body: Any) -> httpx2.Response:
        return self.client.post(path, json=body)

    def broken_stream(self, path: str, **body: Any) -> tuple[list[Any], Exception | None]:
        """Return the events until the end of the stream, and the exception that ended it."""
        text = ""
        error: Exception | None = None
        with self.client.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            try:
                for part in response.iter_text():
                    text += part
            except httpx2.TransportError as caught:
                error = caught
        return parse_events(text), error

    def stream(self, path: str, **body: Any) -> list[Any]:
        events, error = self.broken_stream(path, **body)
        assert error is None
        return events

    def chat_stream(self, text: str = LONG_TEXT, **extra: Any) -> list[Any]:
        return self.stream("/chat/completions", **self.body(text, **extra))


def parse_events(text: str) -> list[Any]:
    events: list[Any] = []
    for block in text.split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                events.append(data if data == "[DONE]" else json.loads(data))
    return events


@pytest.fixture
def wire_to() -> Iterator[Any]:
    """Start a simulator with the given options; it and its client are closed after the test."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Wire:
            simulator = stack.enter_context(Simulator(**options))
            wire = Wire(simulator)
            stack.callback(wire.client.close)
            return wire

        yield start


@pytest.fixture
def wire(wire_to: Any) -> Wire:
    return wire_to()


@pytest.fixture
def long_text() -> str:
    return LONG_TEXT
