"""A simulator for each plan of faults, models that talk to it, and what was counted held against its bill."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lc_service import track_usage
from lc_service.models.chat import ReliableChatOpenAI
from lc_service.retry.policy import RetryWithExponentialBackoff
from lc_service.simulator import FaultPlan, Simulator

PLANS = {"clean": None, "each_rejected_once": FaultPlan.first("rate_limit")}


class Bench:
    """A simulator, and models that talk to it.

    Attributes:
        failed_calls: Calls that the shape of the moment makes to a server that is not there.
    """

    def __init__(self, simulator: Simulator) -> None:
        self.sim = simulator
        self.failed_calls = 0

    def model(self, cls: type = ReliableChatOpenAI, **options: Any) -> Any:
        options = {"model": "gpt-4.1-mini", "api_key": "sk-test", "base_url": self.sim.base_url} | options
        if issubclass(cls, ReliableChatOpenAI) and not {"retry", "max_retries"} & options.keys():
            options["retry"] = RetryWithExponentialBackoff(initial_delay=0.001, max_delay=0.001)
        return cls(**options)

    def run(self, shape: Callable[[Bench], Any]) -> None:
        """Run a shape and hold what was counted against the bill."""
        with track_usage() as usage:
            result = shape(self)
            if inspect.isawaitable(result):
                asyncio.run(_finish(result))
        assert self.sim.wait_until_idle()
        bill = self.sim.bill
        assert bill.requests > 0, "nothing was billed: the test proves nothing"
        assert (usage.total.input_tokens, usage.total.output_tokens) == (
            bill.total.input_tokens,
            bill.total.output_tokens,
        )
        assert (usage.estimated, usage.unknown) == (0, 0)
        assert usage.calls == bill.requests + self.failed_calls
        assert usage.attempts == len(self.sim.requests) + self.failed_calls


async def _finish(awaitable: Any) -> None:
    await awaitable


@pytest.fixture(scope="session")
def _simulators() -> Iterator[Callable[[str], Simulator]]:
    """Keep one simulator a plan: LangChain makes two HTTP clients for each new URL, which takes a while."""
    with contextlib.ExitStack() as stack:
        running: dict[str, Simulator] = {}

        def get(plan: str) -> Simulator:
            if plan not in running:
                running[plan] = stack.enter_context(Simulator(faults=PLANS[plan], max_lifetime_seconds=300))
            running[plan].reset()
            return running[plan]

        yield get


@pytest.fixture(params=PLANS)
def bench(request: pytest.FixtureRequest, _simulators: Callable[[str], Simulator]) -> Bench:
    """A bench with an empty bill, under each plan in turn."""
    return Bench(_simulators(request.param))


@pytest.fixture
def clean_bench(_simulators: Callable[[str], Simulator]) -> Bench:
    return Bench(_simulators("clean"))


class Posts:
    """A server that keeps what is posted to it."""

    def __init__(self) -> None:
        posts = self
        self.bodies: list[bytes] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posts.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(202)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_PATCH = do_POST  # noqa: N815  the server's name for it

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def posts() -> Iterator[Posts]:
    started = Posts()
    threading.Thread(target=started.server.serve_forever, args=(0.005,), daemon=True).start()
    yield started
    started.server.shutdown()
    started.server.server_close()
