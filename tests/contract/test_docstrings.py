"""The folder's own rule: no test without its fact and the part of ours that leans on it."""

from __future__ import annotations

import ast
from pathlib import Path


def test_every_contract_test_states_its_fact_and_what_leans_on_it():
    """A contract test that fails must say what to look at. Ours: `tests/contract/conftest.py`."""
    nameless = [
        f"{path.name}::{node.name}"
        for path in sorted(Path(__file__).parent.glob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
        and "Ours: " not in (ast.get_docstring(node) or "")
    ]
    assert nameless == []
