"""The notebooks as they are stored: short, without outputs, offline unless one variable says otherwise.

That they run is seen to by nbmake, which the test run collects them with.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SCREENSHOTS = sorted((ROOT / "docs" / "screenshots").glob("*.png"))
MAX_CELLS = 14
MAX_SCREENSHOT_BYTES = 200_000
PUBLIC = (
    "lc_service",
    "lc_service.agents",
    "lc_service.data",
    "lc_service.simulator",
    "chains",
)


def _cells(path: Path, kind: str) -> list[Any]:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]  # nbformat says nothing of it
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def _python(path: Path) -> str:
    lines = "\n".join(cell.source for cell in _cells(path, "code")).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("%", "!")))


def _nodes(path: Path) -> list[ast.AST]:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    return list(ast.walk(compile(_python(path), str(path), "exec", flags)))


def test_there_is_a_notebook_for_each_part() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_quickstart",
        "02_accounting",
        "03_chains",
        "04_agents",
        "05_retrieval",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_tells_one_story_in_few_cells(self, path: Path) -> None:
        words, code = _cells(path, "markdown"), _cells(path, "code")
        assert len(words) + len(code) <= MAX_CELLS
        assert [cell.source.startswith("# ") for cell in words] == [True] + [False] * (len(words) - 1)

    def test_is_stored_without_outputs(self, path: Path) -> None:
        for cell in _cells(path, "code"):
            assert cell.outputs == []
            assert cell.execution_count is None

    def test_runs_offline_unless_one_variable_says_otherwise(self, path: Path) -> None:
        assert _cells(path, "code")[0].source.startswith("LIVE = False\n")
        set_anew = [
            node
            for node in _nodes(path)
            if isinstance(node, ast.Name) and node.id == "LIVE" and isinstance(node.ctx, ast.Store)
        ]
        assert len(set_anew) == 1

    def test_says_that_answers_are_made_by_rules(self, path: Path) -> None:
        assert "made by rules" in " ".join(_cells(path, "markdown")[0].source.split())

    def test_compares_with_the_bill_and_stops_the_server(self, path: Path) -> None:
        assert "server.bill" in _python(path)
        assert "server.stop()" in _cells(path, "code")[-1].source

    def test_imports_public_names_only(self, path: Path) -> None:
        imports = [node for node in _nodes(path) if isinstance(node, ast.ImportFrom) and node.module]
        ours = {node.module for node in imports if str(node.module).startswith(("lc_service", "chains"))}
        assert ours <= set(PUBLIC)
        names = [alias.name for node in imports if node.module in ours for alias in node.names]
        assert names
        assert not [name for name in names if name.startswith("_")]


def test_each_notebook_can_be_seen_in_a_small_picture() -> None:
    assert [path.stem for path in SCREENSHOTS] == [path.stem for path in NOTEBOOKS]
    for path in SCREENSHOTS:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(content) < MAX_SCREENSHOT_BYTES, path.name
