"""The peers: each from its released package, in a virtual environment of its own.

Invariant: nothing is installed outside of the cache folder, and what cannot be installed is told, not raised.
It starts no driver.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

DRIVERS = Path(__file__).parents[1] / "peers"
CACHE = Path(__file__).parents[2] / ".bench"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One column of the table.

    Attributes:
        requirement: What pip installs; empty runs in this environment.
        variant: What its driver is told to be.
        limits: The limits that it can be told: none, requests, or tokens too.
    """

    name: str
    title: str
    driver: str
    requirement: str = ""
    variant: str = ""
    told: frozenset[str] = frozenset()

    @property
    def environment(self) -> Path:
        """The folder of its virtual environment."""
        return CACHE / self.requirement.partition("[")[0]

    @property
    def python(self) -> str:
        """The interpreter that runs its driver."""
        if not self.requirement:
            return sys.executable
        folder = "Scripts" if sys.platform == "win32" else "bin"
        return str(self.environment / folder / "python")

    @property
    def package(self) -> str:
        """Name of the package that it comes from."""
        return self.requirement.partition("[")[0] or "lc-service"


_REQUESTS = frozenset({"requests"})
_BOTH = frozenset({"requests", "tokens"})
_LANGCHAIN = {"driver": "chatopenai.py", "requirement": "langchain-openai"}
_PEERS = (
    Peer(name="ours", title="ours", driver="ours.py"),
    Peer(name="chatopenai", title="ChatOpenAI default", variant="default", **_LANGCHAIN),
    Peer(name="max-retries", title="`max_retries=10`", variant="max_retries", **_LANGCHAIN),
    Peer(name="with-retry", title="`with_retry`", variant="with_retry", **_LANGCHAIN),
    Peer(
        name="in-memory", title="InMemoryRateLimiter (told)", variant="rate_limiter", told=_REQUESTS,
        **_LANGCHAIN,
    ),
    Peer(name="openai", title="OpenAI SDK", driver="openai_sdk.py", requirement="openai"),
    Peer(
        name="litellm", title="LiteLLM Router (told)", driver="litellm_router.py", requirement="litellm",
        told=_BOTH,
    ),
    Peer(
        name="pydantic-ai", title="Pydantic AI", driver="pydantic_agent.py",
        requirement="pydantic-ai-slim[openai]",
    ),
    Peer(
        name="async-batch-llm", title="async-batch-llm (told)", driver="async_batch.py",
        requirement="async-batch-llm[openai]", told=_BOTH,
    ),
)  # fmt: skip
PEERS = {peer.name: peer for peer in _PEERS}


def install(peer: Peer) -> str | None:
    """Make the peer's environment where there is none yet; return why that failed, or None."""
    ready = peer.environment / "installed"
    if not peer.requirement or ready.exists():
        return None
    peer.environment.parent.mkdir(exist_ok=True)
    shutil.rmtree(peer.environment, ignore_errors=True)
    uv = shutil.which("uv")
    try:
        if uv:
            _run([uv, "venv", "--quiet", "--python", sys.executable, str(peer.environment)])
            _run([uv, "pip", "install", "--quiet", "--python", peer.python, peer.requirement])
        else:
            venv.create(peer.environment, with_pip=True)
            _run([peer.python, "-m", "pip", "install", "--quiet", peer.requirement])
    except (OSError, subprocess.SubprocessError) as error:
        return f"cannot be installed ({type(error).__name__})"
    ready.write_text(version(peer), encoding="utf-8")
    return None


def version(peer: Peer) -> str:
    """Return the version of the peer's package in its environment."""
    code = f"from importlib.metadata import version; print(version({peer.package!r}))"
    asked = subprocess.run([peer.python, "-c", code], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=1_200)
