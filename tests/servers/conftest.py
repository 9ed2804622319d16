"""Servers that this project did not write, each on a port of loopback's, and models that talk to them.

`install.py` brings them; a server that is not there skips its tests, and says why. Each ends with the test
run, however that ends (`leash.py`), and after `LIFETIME_SECONDS` in any case.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lc_service import OpenAIService, ReliableChatOpenAI, ReliableOpenAIEmbeddings
from lc_service.retry.policy import RetryWithExponentialBackoff

HERE = Path(__file__).parent
KEY = "sk-local"
LIFETIME_SECONDS = 900
START_SECONDS = 120  # LiteLLM's imports, on a busy machine

_spec = importlib.util.spec_from_file_location("install_servers", HERE / "install.py")
assert _spec is not None
assert _spec.loader is not None
servers = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = servers
_spec.loader.exec_module(servers)


@dataclass(frozen=True)
class Server:
    """A running server, and models of this package that talk to it.

    Attributes:
        name: As in `docs/servers.md`.
        url: Scheme, host and port.
        chat_model: What answers a chat.
        embedding_url: As `url`, of what answers embeddings.
        embedding_model: What makes vectors.
        takes_any_model: Whether it answers for a model of any name.
        too_long: What the user must say for the server to find it too long.
        too_long_model: What finds it so; `chat_model` where empty.
        limited: What to ask, and whom, to be told of limits.
        rejected: What to ask, and whom, twice or thrice, to be rejected by a limit; empty where none is.
    """

    name: str
    url: str
    chat_model: str
    embedding_url: str
    embedding_model: str
    takes_any_model: bool = True
    too_long: str = "too long"
    too_long_model: str = ""
    limited: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)

    def chat(self, **options: Any) -> ReliableChatOpenAI:
        defaults = {
            "model": self.chat_model,
            "base_url": f"{self.url}/v1",
            "temperature": 0,
            "max_tokens": 24,
        }
        return ReliableChatOpenAI(**defaults | _COMMON | options)

    def embeddings(self, **options: Any) -> ReliableOpenAIEmbeddings:
        defaults = {"model": self.embedding_model, "base_url": f"{self.embedding_url}/v1"}
        return ReliableOpenAIEmbeddings(**defaults | _COMMON | options)

    def service(self, **options: Any) -> OpenAIService:
        defaults = {"model": self.chat_model, "base_url": f"{self.url}/v1"}
        return OpenAIService(**defaults | _COMMON | options)

    def ask(self, text: str = "hello", *, key: str = KEY, **body: Any) -> httpx2.Response:
        """Send a chat request as it is, past this package."""
        body = {"model": self.chat_model, "temperature": 0, "max_tokens": 24} | body
        return self.post(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": text}]} | body, key=key
        )

    def post(self, path: str, body: dict[str, Any], *, key: str = KEY) -> httpx2.Response:
        url = self.embedding_url if "embeddings" in path else self.url
        with httpx2.Client(trust_env=False, timeout=30) as client:
            return client.post(url + path, json=body, headers={"Authorization": f"Bearer {key}"})

    def get(self, path: str) -> httpx2.Response:
        return self._request("GET", path)

    def delete(self, path: str) -> httpx2.Response:
        return self._request("DELETE", path)

    def _request(self, method: str, path: str) -> httpx2.Response:
        with httpx2.Client(trust_env=False, timeout=30) as client:
            return client.request(method, self.url + path, headers={"Authorization": f"Bearer {KEY}"})


_COMMON: dict[str, Any] = {
    "api_key": KEY,
    "retry": RetryWithExponentialBackoff(initial_delay=0.01, max_delay=0.02, max_retries=3),
}


def _installed(name: str) -> Path:
    place = servers.place_of(name)
    if not place.is_ready:
        pytest.skip(f"{name}: {place.reason}")
    return Path(place.folder)


def _free_port() -> int:
    for number in random.sample(range(15_000, 30_000), 100):  # below the range of outgoing connections
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", number))
            return number
    raise RuntimeError("no free port")


@contextlib.contextmanager
def _running(
    command: Callable[[int], list[object]],
    *,
    log: Path,
    health: str,
    environment: dict[str, str] | None = None,
) -> Iterator[str]:
    """Run the command that `command` makes for a port, and yield the server's URL once it is healthy."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    leash = [sys.executable, str(HERE / "leash.py"), str(LIFETIME_SECONDS)]
    # nothing that leads out of this machine, and none of the developer's own keys
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603  the arguments are all ours
            [*leash, *map(str, command(port))],
            stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent,
            env=kept | (environment or {}),
        )  # fmt: skip
    assert process.stdin is not None
    try:
        _wait_for(url + health, process, log)
        yield url
    finally:
        process.stdin.close()  # the leash ends the server, and then itself
        process.wait(15)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx2.Client(trust_env=False, timeout=5) as client:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx2.HTTPError):
                if client.get(url).status_code == 200:
                    return
            time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-2_000:]}")


@pytest.fixture(scope="session")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = _installed("aimock")
    program = folder / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"

    def command(port: int) -> list[object]:
        return [
            "node",
            program,
            "-h",
            "127.0.0.1",
            "-p",
            port,
            "-f",
            HERE / "aimock.json",
            "--log-level",
            "warn",
        ]

    log = tmp_path_factory.mktemp("aimock") / "log"
    with _running(command, log=log, health="/health", environment={"AIMOCK_API_KEYS": KEY}) as url:
        yield Server(
            "aimock", url, "gpt-4.1-mini", url, "text-embedding-3-small", rejected={"text": "rejected"}
        )


@pytest.fixture(scope="session")
def litellm(tmp_path_factory: pytest.TempPathFactory, aimock: Server) -> Iterator[Server]:
    """LiteLLM's proxy; what it does not make up itself, it has from aimock."""
    programs = _installed("litellm") / "venv" / "bin"

    def command(port: int) -> list[object]:
        script = [
            programs / "python",
            programs / "litellm",
        ]  # its first line is void in a folder that was moved
        return [*script, "--config", HERE / "litellm.yaml", "--host", "127.0.0.1", "--port", port]

    environment = {
        "UPSTREAM": f"{aimock.url}/v1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it would be fetched
        "LITELLM_TELEMETRY": "False",
        "NO_DOCS": "True",
    }
    log = tmp_path_factory.mktemp("litellm") / "log"
    with _running(command, log=log, health="/health/liveliness", environment=environment) as url:
        yield Server(
            "LiteLLM", url, "gpt-4.1-mini", url, "text-embedding-3-small",
            takes_any_model=False, too_long_model="mock-too-long",
            limited={"model": "mock-1000-a-minute"}, rejected={"model": "mock-1-a-minute"},
        )  # fmt: skip


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """llama.cpp's server with a model that is made here: one process for chats, one for embeddings."""
    home = _installed("llama")
    folder = tmp_path_factory.mktemp("llama")
    model = folder / "tiny.gguf"
    subprocess.run(  # noqa: S603  the arguments are all ours
        [home / "venv" / "bin" / "python", HERE / "tiny_model.py", model],
        check=True, timeout=30, capture_output=True,
    )  # fmt: skip

    def command(*options: object) -> Callable[[int], list[object]]:
        return lambda port: [
            home / "llama-server", "-m", model, "-a", "tiny", "--host", "127.0.0.1", "--port", port,
            "--api-key", KEY, "-t", 1, "--no-webui", *options,
        ]  # fmt: skip

    chats = command("-c", 8192, "-np", 4, "--jinja", "--metrics", "--no-cache-prompt")
    vectors = command("-c", 2048, "--embedding", "--pooling", "mean")
    with (
        _running(chats, log=folder / "chats.log", health="/health") as url,
        _running(vectors, log=folder / "vectors.log", health="/health") as embedding_url,
    ):
        yield Server("llama.cpp", url, "tiny", embedding_url, "tiny", too_long="too long " * 2_000)


@pytest.fixture(
    params=[
        "aimock",
        pytest.param("litellm", marks=pytest.mark.servers),
        pytest.param("llama", marks=pytest.mark.servers),
    ]
)
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the servers in turn."""
    return request.getfixturevalue(request.param)
