"""Contract tests: what upstream does today, each fact in a test's docstring with what of ours leans on it.

All of it is seen on stock classes over loopback sockets. A failing test prints its docstring: the fact that
changed upstream and the part of `lc_service` to look at.
"""

from __future__ import annotations

import http.server
import inspect
import json
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, Self

import openai
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from lc_service.simulator import Simulator

KEY = "sk-test-0123456789"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fact = inspect.getdoc(getattr(item, "function", None))
    if report.failed and fact:
        report.sections.append(("the fact that no longer holds, and what of ours leans on it", fact))
    return report


@pytest.fixture
def simulate() -> Iterator[Callable[..., Simulator]]:
    """Start a simulator with the given options; stopped after the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Simulator(max_lifetime_seconds=60, **options))


class CannedServer:
    """Answers each POST with the next reply, the last one again and again; for bodies no simulator sends.

    A reply is a JSON object, or a tuple of status, headers and body.
    """

    def __init__(self, replies: tuple[Any, ...]) -> None:
        canned = self
        self.requests: list[SimpleNamespace] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                canned.requests.append(
                    SimpleNamespace(path=self.path, headers=self.headers, json=json.loads(body))
                )
                reply = replies[min(len(canned.requests), len(replies)) - 1]
                if not isinstance(reply, tuple):
                    reply = (200, {}, json.dumps(reply).encode())
                status, headers, content = reply
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False  # kept-alive connections would be waited for
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def canned() -> Iterator[Callable[..., CannedServer]]:
    """Start a server that answers with the given replies; stopped after the test."""
    with ExitStack() as stack:
        yield lambda *replies: stack.enter_context(CannedServer(replies))


@pytest.fixture
def sync_client() -> Iterator[openai.DefaultHttpxClient]:
    """An HTTP client of the test's own: LangChain's are cached for the process."""
    with openai.DefaultHttpxClient(verify=False) as client:
        yield client


@pytest.fixture
async def async_client() -> AsyncIterator[openai.DefaultAsyncHttpxClient]:
    """An async HTTP client of the test's own, closed in the test's loop."""
    async with openai.DefaultAsyncHttpxClient(verify=False) as client:
        yield client


@pytest.fixture
def chat(sync_client: Any, async_client: Any) -> Callable[..., ChatOpenAI]:
    """Make a stock ChatOpenAI, without SDK retries unless told otherwise."""

    def make(server: Any, cls: type[ChatOpenAI] = ChatOpenAI, **options: Any) -> ChatOpenAI:
        defaults = {
            "model": "gpt-4.1-mini",
            "api_key": KEY,
            "max_retries": 0,
            "http_client": sync_client,
            "http_async_client": async_client,
        }
        return cls(base_url=server.base_url, **{**defaults, **options})

    return make


@pytest.fixture
def embed(sync_client: Any, async_client: Any) -> Callable[..., OpenAIEmbeddings]:
    """Make stock OpenAIEmbeddings that send texts as text, without SDK retries unless told otherwise."""

    def make(server: Any, cls: type[OpenAIEmbeddings] = OpenAIEmbeddings, **options: Any) -> OpenAIEmbeddings:
        defaults = {
            "api_key": KEY,
            "max_retries": 0,
            "check_embedding_ctx_length": False,
            "http_client": sync_client,
            "http_async_client": async_client,
        }
        return cls(base_url=server.base_url, **{**defaults, **options})

    return make


class Recorder(BaseCallbackHandler):
    """Keeps what it is told, as (event, arguments)."""

    run_inline = True

    def __init__(self) -> None:
        self.events: list[tuple[str, SimpleNamespace]] = []

    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    def only(self, name: str) -> SimpleNamespace:
        (found,) = [arguments for event, arguments in self.events if event == name]
        return found

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self._note("start", serialized=serialized, messages=messages, **kwargs)

    def on_llm_start(self, serialized: Any, prompts: Any, **kwargs: Any) -> None:
        self._note("start", serialized=serialized, prompts=prompts, **kwargs)

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self._note("end", response=response, **kwargs)

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self._note("error", error=error, **kwargs)

    def on_retry(self, retry_state: Any, **kwargs: Any) -> None:
        self._note("retry", retry_state=retry_state, **kwargs)

    def _note(self, event: str, **arguments: Any) -> None:
        self.events.append((event, SimpleNamespace(**arguments)))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make_recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect the waits of tenacity, the SDK and langchain's agent middleware in place of waiting."""
    import openai._base_client
    import tenacity.nap
    from langchain.agents.middleware import model_retry

    waits: list[float] = []
    for module in (tenacity.nap, openai._base_client, model_retry):
        fake = SimpleNamespace(**{**vars(module.time), "sleep": waits.append})
        monkeypatch.setattr(module, "time", fake)
    return waits
