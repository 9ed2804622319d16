"""Programs that use the package, under the type checkers that their authors may have: mypy and pyright.

The programs are `typed_*.py` here. They are checked outside the repository, as an installed package's users
have it, in each checker's strict mode and without pydantic's plugin.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Two kinds of errors that must be found, and a mark that is not needed.
BROKEN = """\
from lc_service import OpenAIService
from typing import assert_type
assert_type(OpenAIService().embed(["Aurora"]), list[float])
OpenAIService(modle="gpt-5.4-mini")
OpenAIService()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
"""
PYRIGHT_SETTINGS = {
    "include": ["*.py"],
    "typeCheckingMode": "strict",
    "pythonVersion": "3.11",
    "enableTypeIgnoreComments": False,  # mypy's marks are not pyright's
    "reportUnnecessaryTypeIgnoreComment": "error",
    # what LangChain itself leaves unknown
    "reportMissingTypeStubs": "none",
    "reportUnknownMemberType": "none",
    "reportUnknownVariableType": "none",
}
# The first run of a machine types all of LangChain: 20 s of a core; later ones take what changed.
FIRST_RUN_SECONDS = 180

Found = list[tuple[str, int, str]]
"""File, line and rule of each error."""


def run(*command: str, cwd: Path) -> str:
    """Run a checker with no way to the network; return what it says."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    # --verifytypes looks for the packages of the first Python on the path, whatever it is told
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    offline = {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "PYRIGHT_PYTHON_CACHE_DIR": str(cwd / "pyright")}
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYRIGHT_", "MYPY", "PYTHONPATH"))
    }
    result = subprocess.run(  # noqa: S603
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={**environment, **path, **nowhere, **offline},
        capture_output=True,
        text=True,
        timeout=FIRST_RUN_SECONDS,
        check=False,
    )
    assert result.returncode in {0, 1}, result.stdout + result.stderr
    return result.stdout


def mypy(folder: Path) -> Found:
    # one cache for all runs: of the repository, and not the one of `make check`, whose settings are others
    cache = HERE.parents[1] / ".mypy_cache" / "programs"
    files = sorted(path.name for path in folder.glob("*.py"))
    options = ("--strict", "--no-pretty", "--config-file=", "--cache-dir", str(cache))
    errors = re.findall(
        r"^(\S+?):(\d+): error: .*?\[([\w-]+)\]$", run("mypy", *options, *files, cwd=folder), re.MULTILINE
    )
    return [(name, int(line), rule) for name, line, rule in errors]


def pyright(folder: Path) -> Found:
    (folder / "pyrightconfig.json").write_text(json.dumps(PYRIGHT_SETTINGS))
    told = run("pyright", "--outputjson", "--pythonpath", sys.executable, cwd=folder)
    return [
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1, each.get("rule", "unneeded mark"))
        for each in json.loads(told)["generalDiagnostics"]
        if each["severity"] == "error"
    ]


@pytest.mark.timeout(FIRST_RUN_SECONDS)
@pytest.mark.parametrize(
    ("check", "rules"),
    [
        (mypy, ["assert-type", "call-arg", "unused-ignore"]),
        (pyright, ["reportAssertTypeFailure", "reportCallIssue", "reportUnnecessaryTypeIgnoreComment"]),
    ],
    ids=["mypy", "pyright"],
)
def test_a_checker_finds_what_is_wrong_and_nothing_else(
    check: Callable[[Path], Found], rules: list[str], tmp_path: Path
):
    programs = sorted(HERE.glob("typed_*.py"))
    assert len(programs) == 4
    for program in programs:
        shutil.copy(program, tmp_path)
    (tmp_path / "broken.py").write_text(BROKEN)
    # one run for both: a checker that found nothing at all would not find what is broken
    assert sorted(check(tmp_path)) == [("broken.py", line, rule) for line, rule in enumerate(rules, start=3)]


@pytest.mark.parametrize("package", ["lc_service", "chains"])
def test_no_public_type_is_unknown(package: str, tmp_path: Path):
    told = json.loads(
        run("pyright", "--verifytypes", package, "--ignoreexternal", "--outputjson",
            "--pythonpath", sys.executable, cwd=tmp_path)
    )["typeCompleteness"]  # fmt: skip
    unknown = [
        each["name"] for each in told["symbols"] if not (each["isTypeKnown"] or each["isTypeAmbiguous"])
    ]
    assert told["packageName"] == package
    assert told["exportedSymbolCounts"]["withKnownType"] > 300
    assert told["exportedSymbolCounts"]["withUnknownType"] == 0, unknown
