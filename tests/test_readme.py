"""The README's examples, run as they are printed, against the simulator."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lc_service.settings import ServiceSettings
from lc_service.simulator import Simulator

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"^### (.+?)\n.*?^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
TEST_DOUBLE = re.findall(
    r"^## Test your.*?^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE
)
BLOCKS = [*EXAMPLES, *(("Test your own program", block) for block in TEST_DOUBLE)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Simulator]:
    monkeypatch.chdir(tmp_path)  # an example writes a ledger
    with Simulator() as sim:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-readme")
        monkeypatch.setenv("OPENAI_BASE_URL", sim.base_url)
        yield sim


def test_every_python_block_is_run():
    assert len(BLOCKS) == README.read_text().count("```python") >= 5


@pytest.mark.parametrize("code", [block for _, block in BLOCKS], ids=[name for name, _ in BLOCKS])
def test_example_runs_as_printed(code: str, server: Simulator, capsys: pytest.CaptureFixture[str]):
    compiled = compile(code, str(README), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    namespace: dict[str, object] = {}
    if compiled.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(compiled, namespace))
    else:
        exec(compiled, namespace)
    assert capsys.readouterr().out.strip()


def test_the_settings_table_has_every_setting():
    variables = {
        str(field.validation_alias.choices[0]) if field.validation_alias else f"LC_SERVICE_{name.upper()}"
        for name, field in ServiceSettings.model_fields.items()
    }
    assert variables == set(re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE))
