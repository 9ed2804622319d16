"""About the package: its examples run, and importing it drags in no provider."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import chains

TASKS = [
    "answer_with_sources",
    "ask",
    "chat",
    "classify",
    "critique_and_revise",
    "extract",
    "rewrite",
    "route",
    "summarize",
    "translate",
]
PROBE = """
import json, sys
import chains
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_every_task_is_known_here():
    names = (module.name for module in pkgutil.iter_modules(chains.__path__))
    has_factory = {name for name in names if hasattr(chains, f"build_{name}_chain")}
    assert has_factory == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_the_factorys_example_runs(task):
    module = importlib.import_module(f"chains.{task}")
    (example,) = (
        test for test in doctest.DocTestFinder().find(module) if test.name.endswith(f"build_{task}_chain")
    )
    assert example.examples
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(example).failed == 0


def test_importing_chains_imports_no_provider():
    root = Path(chains.__file__).parents[1]
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)  # noqa: S603
    loaded = set(json.loads(done.stdout))
    assert "langchain_core" in loaded
    assert not loaded & {"langchain", "langchain_openai", "lc_service", "openai", "tiktoken"}
