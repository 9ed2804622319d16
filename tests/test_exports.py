"""The front page: what the package exports, and what importing it costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lc_service

HEAVY = ("langchain", "langchain_core", "langchain_openai", "openai", "httpx2", "pydantic", "tenacity",
         "pydantic_settings", "starlette", "uvicorn", "typer", "rich")  # fmt: skip


def loaded_by(statement: str, names: tuple[str, ...] = HEAVY) -> set[str]:
    """Return which of `names` a fresh interpreter has loaded after `statement`."""
    script = f"import sys\n{statement}\nprint(*(name for name in {names!r} if name in sys.modules))"
    result = subprocess.run(  # noqa: S603
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=50
    )
    return set(result.stdout.split())


def type_checking_imports() -> dict[str, str]:
    """Return `{name: module}` of what type checkers are told."""
    tree = ast.parse(Path(inspect.getfile(lc_service)).read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                assert isinstance(statement, ast.ImportFrom)
                assert statement.module is not None
                found |= {alias.asname or alias.name: statement.module for alias in statement.names}
    return found


def test_all_is_sorted_and_without_doubles() -> None:
    assert lc_service.__all__ == sorted(set(lc_service.__all__))


def test_type_checkers_and_the_interpreter_are_told_the_same() -> None:
    assert type_checking_imports() == lc_service._HOME
    assert set(lc_service._HOME) == set(lc_service.__all__)


@pytest.mark.parametrize("name", lc_service.__all__)
def test_every_name_comes_from_its_home_and_has_a_docstring(name: str) -> None:
    value = getattr(lc_service, name)
    assert value is getattr(importlib.import_module(lc_service._HOME[name]), name)
    assert value.__module__ == lc_service._HOME[name]
    assert value.__name__ == name
    assert inspect.cleandoc(value.__doc__ or "").strip()
    assert value.__doc__ != getattr(value.__mro__[1], "__doc__", None) if inspect.isclass(value) else True


@pytest.mark.parametrize("name", [name for name in lc_service.__all__ if name[0].isupper()])
def test_every_public_member_has_a_docstring(name: str) -> None:
    cls: Any = getattr(lc_service, name)
    for member, value in vars(cls).items():
        is_code = inspect.isfunction(value) or isinstance(value, (property, classmethod, staticmethod))
        if is_code and not member.startswith("_"):
            assert inspect.getdoc(getattr(cls, member)), f"{name}.{member}"


def test_a_star_import_brings_exactly_the_public_names() -> None:
    names: dict[str, Any] = {}
    exec("from lc_service import *", names)
    assert set(names) - {"__builtins__"} == set(lc_service.__all__)


def test_dir_lists_the_public_names() -> None:
    assert set(lc_service.__all__) <= set(dir(lc_service))
    assert dir(lc_service) == sorted(dir(lc_service))


@pytest.mark.parametrize("name", ["Nonsense", "openai", "_HOMES", "__wrapped__"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'lc_service' has no attribute '{name}'"):
        getattr(lc_service, name)
    with pytest.raises(ImportError):
        exec(f"from lc_service import {name}")


def test_a_name_is_looked_up_once() -> None:
    for name in lc_service.__all__:
        getattr(lc_service, name)
        assert name in vars(lc_service)


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import lc_service; dir(lc_service); lc_service.__all__") == set()


def test_the_chat_model_does_not_load_the_server_the_cli_or_the_settings() -> None:
    unneeded = ("pydantic_settings", "starlette", "uvicorn", "typer", "rich", "lc_service.service",
                "lc_service.simulator", "lc_service.cli", "langchain", "langgraph")  # fmt: skip
    assert loaded_by("from lc_service import ReliableChatOpenAI", unneeded) == set()


def test_the_service_does_not_load_the_server_or_the_cli() -> None:
    unneeded = ("starlette", "uvicorn", "typer", "rich", "lc_service.simulator", "lc_service.cli",
                "langchain")  # fmt: skip
    assert loaded_by("from lc_service import OpenAIService", unneeded) == set()


def test_the_simulator_loads_no_client() -> None:
    assert loaded_by("import lc_service.simulator") <= {"starlette", "uvicorn", "pydantic", "rich"}
