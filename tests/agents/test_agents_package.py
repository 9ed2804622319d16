"""What the package exports, what importing costs, and the examples that its users are shown."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lc_service import agents

GUIDE = Path(__file__).parents[2] / "docs" / "agents.md"
MODULES = ["budget", "run_scope", "tool_retry", "usage"]


def test_all_is_sorted_and_documented() -> None:
    assert agents.__all__ == sorted(agents.__all__)
    for name in agents.__all__:
        assert "Example:" in (inspect.getdoc(getattr(agents, name)) or "")
        assert f"## {name}" in GUIDE.read_text()


def test_nothing_but_the_agents_imports_langchain() -> None:
    script = (
        "import sys, lc_service\n"
        "from lc_service import Budget, OpenAIService, ReliableChatOpenAI, track_usage\n"
        "print(*[name for name in ('langchain', 'langgraph', 'lc_service.agents') if name in sys.modules])"
    )
    done = subprocess.run(  # noqa: S603  our own interpreter and text
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"lc_service.agents.{name}"))
    assert results.failed == 0
    assert results.attempted or name == "run_scope"


def test_the_guides_example_runs_as_printed(simulate: Any, port: int, monkeypatch: Any, capsys: Any) -> None:
    server = simulate()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")

    def search(words: str) -> str:
        """Search the news."""
        return words

    (example,) = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    exec(example, {"search": search})
    tokens, cost_usd = capsys.readouterr().out.split()
    assert int(tokens) == server.bill.total.total_tokens > 0
    assert float(cost_usd) > 0
