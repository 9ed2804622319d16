"""The simulator as its users hold it: a server on a loopback socket, in a thread of its own.

Invariant: it listens on 127.0.0.1 only, stops at once whatever its clients do, and stops by itself
when its time is over. It holds the public face; `engine` holds the behaviour.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from lc_service.simulator.app import build_app
from lc_service.simulator.bill import Bill
from lc_service.simulator.engine import Engine, EngineSettings
from lc_service.simulator.faults import Fault, FaultPlan
from lc_service.simulator.journal import ServedRequest
from lc_service.simulator.limits import RateLimiter, ServerLimits
from lc_service.simulator.listener import Listener, new_loop
from lc_service.simulator.script import FaultScript

_HOST = "127.0.0.1"
_LOOPBACK = frozenset({"127.0.0.1", "localhost"})
_START_SECONDS = 10.0
_STOP_SECONDS = 5.0

Faults = Sequence[Fault | str | None] | FaultPlan | None


class Simulator:
    """A server that speaks OpenAI's protocol, on loopback, for demos, tests and notebooks.

    Use it as a context manager, or call `start()` and `stop()`. Its attributes are safe to use from
    any thread while it runs; several simulators can run in one process.

    Args:
        limits: Rate limits of each model; None is unlimited.
        faults: None; or a list with one entry per POST request in order of arrival (a fault, its
            kind, or None or "ok" for serve), after whose end everything is served; or a plan.
        api_key: When set, requests with another key get 401; else any key will do.
        latency_seconds: Time before the first byte of each answer; errors come at once.
        chunk_delay_seconds: Time between the content chunks of a stream.
        context_window_tokens: Longer prompts get 400 `context_length_exceeded`.
        deployments: Azure deployments by name, with their models; None takes every name for its model.
        clock: Time for the limits, in seconds; called in the server's thread.
        port: TCP port on 127.0.0.1; 0 takes a free one.
        max_lifetime_seconds: It stops by itself after this time.

    Raises:
        ValueError: `max_lifetime_seconds` is not above 0, or a fault's kind is unknown.
        TypeError: `faults` is one word: pass a list.

    Example:
        >>> with Simulator(faults=["rate_limit", "ok"]) as sim:  # doctest: +SKIP
        ...     model = ChatOpenAI(base_url=sim.base_url, api_key="sk-test", model="gpt-4.1-mini")
        ...     model.invoke("Hello")
        ...     sim.bill.total
    """

    def __init__(
        self,
        *,
        limits: ServerLimits | None = None,
        faults: Faults = None,
        api_key: str | None = None,
        latency_seconds: float = 0.0,
        chunk_delay_seconds: float = 0.0,
        context_window_tokens: int = 128_000,
        deployments: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        port: int = 0,
        max_lifetime_seconds: float = 600.0,
    ) -> None:
        if not max_lifetime_seconds > 0:
            raise ValueError(f"max_lifetime_seconds must be positive, not {max_lifetime_seconds}")
        settings = EngineSettings(
            api_key=api_key,
            latency_seconds=latency_seconds,
            chunk_delay_seconds=chunk_delay_seconds,
            context_window_tokens=context_window_tokens,
            deployments=deployments,
        )
        self._engine = Engine(settings, RateLimiter(limits), FaultScript(faults), clock)
        self._wanted_port = port
        self._max_lifetime_seconds = max_lifetime_seconds
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._port = 0

    @property
    def base_url(self) -> str:
        """The URL to give a client: `http://127.0.0.1:PORT/v1`.

        Raises:
            RuntimeError: It is not running.
        """
        if not self._port:
            raise RuntimeError("the simulator is not running: use it in a with statement")
        return f"http://{_HOST}:{self._port}/v1"

    @property
    def azure_endpoint(self) -> str:
        """The endpoint to give a client of Azure OpenAI's: `http://127.0.0.1:PORT`; raises as `base_url`."""
        return self.base_url.removesuffix("/v1")

    @property
    def bill(self) -> Bill:
        """What was served, to the token."""
        return self._engine.bill

    @property
    def requests(self) -> list[ServedRequest]:
        """A snapshot of the requests so far, in order of arrival; the latest 100,000 are kept."""
        return self._engine.journal.snapshot()

    @property
    def is_running(self) -> bool:
        """Whether it accepts requests."""
        return self._thread is not None and self._thread.is_alive()

    def reset(self) -> None:
        """Empty the bill and the requests, fill the buckets, and begin the faults again."""
        self._call(self._engine.reset)

    def set_limits(self, limits: ServerLimits | None) -> None:
        """Replace the rate limits; buckets stay as full as they are, new ones start full.

        Args:
            limits: Those of each model; None is unlimited.
        """
        self._call(lambda: self._engine.set_limits(limits))

    def set_faults(self, faults: Faults) -> None:
        """Replace the faults; they begin with the next request.

        Args:
            faults: As for `Simulator`.
        """
        self._call(lambda: self._engine.script.set_faults(faults))

    def wait_until_idle(self, timeout_seconds: float = 1.0) -> bool:
        """Wait until no request is in progress; return whether that came to be.

        The bill of an abandoned stream is written when the server notices: wait before reading it.

        Args:
            timeout_seconds: How long to wait at most.
        """
        deadline = time.monotonic() + timeout_seconds
        while self._engine.in_progress:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def wait_until_stopped(self, timeout_seconds: float | None = None) -> bool:
        """Block until it stops; return whether it did.

        Args:
            timeout_seconds: How long to wait at most; None waits for its whole lifetime.
        """
        if self._thread is not None:
            self._thread.join(timeout_seconds)
        return not self.is_running

    def start(self) -> Self:
        """Start serving; returns when requests are accepted.

        Raises:
            RuntimeError: It is running already.
            OSError: The port is taken.
        """
        if self.is_running:
            raise RuntimeError("the simulator is already running")
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((_HOST, self._wanted_port))
        except OSError:
            sock.close()
            raise
        ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=self._run, args=(sock, ready), name="lc-service-simulator", daemon=True
        )
        self._thread.start()
        ready.result(timeout=_START_SECONDS)
        self._port = sock.getsockname()[1]
        return self

    def stop(self) -> None:
        """Stop serving; open connections are closed, whatever they wait for."""
        thread, loop, stopping = self._thread, self._loop, self._stopping
        if thread is None:
            return
        if loop is not None and stopping is not None:
            with contextlib.suppress(RuntimeError):  # its time was over: the loop is closed
                loop.call_soon_threadsafe(stopping.set)
        thread.join(_STOP_SECONDS)
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self, sock: socket.socket, ready: concurrent.futures.Future[None]) -> None:
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(self._serve(sock, ready))
        except BaseException as error:  # noqa: BLE001  # start() raises it in its caller's thread
            if not ready.done():
                ready.set_exception(error)
        finally:
            sock.close()

    async def _serve(self, sock: socket.socket, ready: concurrent.futures.Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        stopping = self._stopping = asyncio.Event()
        end = self._loop.call_later(self._max_lifetime_seconds, stopping.set)
        try:
            await Listener(build_app(self._engine)).run_until(sock, stopping, lambda: ready.set_result(None))
        finally:
            end.cancel()

    def _call(self, function: Callable[[], None]) -> None:
        """Run `function` in the server's thread, where it meets no request half-way."""
        loop = self._loop
        if loop is None or not self.is_running:
            function()
            return
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def run() -> None:
            function()
            done.set_result(None)

        loop.call_soon_threadsafe(run)
        done.result(timeout=_STOP_SECONDS)


def run_simulator(
    *,
    host: str = _HOST,
    port: int = 8089,
    limits: ServerLimits | None = None,
    faults: Faults = None,
    api_key: str | None = None,
    latency_seconds: float = 0.0,
    stop_after_seconds: float | None = None,
    on_start: Callable[[Simulator], None] | None = None,
) -> Bill:
    """Serve in the foreground until Ctrl-C or the end of the time; return the bill.

    Args:
        host: A loopback address; others are refused.
        port: TCP port; 0 takes a free one.
        limits: Rate limits of each model; None is unlimited.
        faults: As for `Simulator`.
        api_key: As for `Simulator`.
        latency_seconds: Time before the first byte of each answer.
        stop_after_seconds: Time to serve; None serves until Ctrl-C.
        on_start: Called with the running simulator, to show its URL.

    Raises:
        ValueError: If `host` is not loopback.
    """
    if host not in _LOOPBACK:
        raise ValueError(f"the simulator serves loopback only (127.0.0.1), not {host!r}")
    simulator = Simulator(
        limits=limits,
        faults=faults,
        api_key=api_key,
        latency_seconds=latency_seconds,
        port=port,
        max_lifetime_seconds=threading.TIMEOUT_MAX / 1e3
        if stop_after_seconds is None
        else stop_after_seconds,
    )
    with contextlib.suppress(KeyboardInterrupt), simulator:
        if on_start is not None:
            on_start(simulator)
        # in slices: a thread's join without a timeout does not see Ctrl-C everywhere
        while not simulator.wait_until_stopped(0.2):
            pass
    return simulator.bill
