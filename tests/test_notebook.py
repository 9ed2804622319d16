"""`%%usage` in a real IPython shell, and in a real kernel, where cells await inside of a running loop."""

from __future__ import annotations

import atexit
import builtins
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import CapturedIO, capture_output
from nbclient import NotebookClient
from traitlets.config import Config

from lc_service.accounting.tracker import _tracker
from lc_service.accounting.usage_report import UsageReport
from lc_service.notebook import load_ipython_extension
from lc_service.simulator import Simulator

SETUP = """\
from lc_service import ReliableChatOpenAI, track_usage
model = ReliableChatOpenAI(model="gpt-4.1-mini", api_key="sk-x", base_url={url!r}, max_retries=0)
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Simulator() as simulator:
        yield simulator.base_url


class Shell:
    """An IPython shell whose cells return what they show."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell

    def run(self, cell: str, *, is_silent: bool = False) -> tuple[Any, CapturedIO]:
        with capture_output() as captured:
            result = self.shell.run_cell(cell, store_history=not is_silent, silent=is_silent)
        return result, captured

    def __getitem__(self, name: str) -> Any:
        return self.shell.user_ns[name]


@pytest.fixture
def shell(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.delattr(builtins, "_", raising=False)  # doctests leave it, and IPython then sets none
    config = Config()
    config.HistoryManager.enabled = False
    instance = InteractiveShell.instance(config=config, colors="nocolor")
    assert _tracker.get() is None
    made = Shell(instance)
    made.run(SETUP.format(url=url))
    made.run("%load_ext lc_service")
    yield made
    made.run("%unload_ext lc_service")
    assert _tracker.get() is None
    InteractiveShell.clear_instance()
    atexit.unregister(instance.atexit_operations)
    instance.atexit_operations()


def shown(captured: CapturedIO) -> list[str]:
    """Return the tables that were shown."""
    return [output.data["text/plain"] for output in captured.outputs if "Calls" in output.data["text/plain"]]


def test_a_cell_shows_what_it_used_and_is_otherwise_itself(shell: Shell) -> None:
    result, captured = shell.run("%%usage\nprint('out')\nanswer = model.invoke('Hello')\n6 * 7")
    (table,) = shown(captured)
    assert re.search(r"gpt-4.1-mini +1 +1 ", table)
    assert "<table>" in captured.outputs[-1].data["text/html"]
    assert captured.stdout.startswith("out\n")
    assert result.result == 42
    assert shell["_"] == 42
    assert shell["answer"].text


def test_calls_of_other_cells_are_not_in_it(shell: Shell) -> None:
    shell.run("%%usage first\nmodel.invoke('Hello')")
    shell.run("model.invoke('Hello')")
    _, captured = shell.run("%%usage second\nmodel.invoke('a'); model.invoke('b')")
    assert (shell["first"].calls, shell["second"].calls) == (1, 2)
    assert shown(captured) == [str(shell["second"])]
    assert isinstance(shell["first"], UsageReport)


def test_a_cell_without_calls_says_so(shell: Shell) -> None:
    _, captured = shell.run("%%usage\n1")
    assert captured.outputs[-1].data["text/html"] == "<p>No calls.</p>"


def test_a_cell_may_await(shell: Shell) -> None:
    result, captured = shell.run(
        "%%usage\nimport asyncio\n(await asyncio.gather(*(model.ainvoke(w) for w in 'abc')))[0].text"
    )
    assert result.success
    assert isinstance(result.result, str)
    assert re.search(r"gpt-4.1-mini +3 +3 ", *shown(captured))


@pytest.mark.parametrize("call", ["model.invoke('Hello')", "await model.ainvoke('Hello')"])
def test_a_cell_that_raises_shows_its_usage_and_its_own_error(shell: Shell, call: str) -> None:
    result, captured = shell.run(f"%%usage\n{call}\n1 / 0\nmodel.invoke('never')")
    assert isinstance(result.error_in_exec, ZeroDivisionError)
    assert re.search(r"gpt-4.1-mini +1 +1 ", *shown(captured))
    assert "line 3" in captured.stdout + captured.stderr
    _, captured = shell.run("1")
    assert shown(captured) == []


def test_code_that_is_none_is_a_syntax_error_and_nothing_more(shell: Shell) -> None:
    result, captured = shell.run("%%usage\n1 +")
    assert isinstance(result.error_before_exec, SyntaxError)
    assert shown(captured) == []
    assert shell.run("%%usage\nmodel.invoke('Hello');")[0].success


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("%%usage not-a-name\n1", "takes the name of a variable for its report, not 'not-a-name'"),
        ("%%usage\n", "the cell body is empty"),
        ("1\n%usage await model.ainvoke('Hello')", "begin the cell with %%usage"),
        ("%usage", "No cell has been measured yet"),
    ],
)
def test_wrong_use_says_what_is_right(shell: Shell, cell: str, words: str) -> None:
    result, captured = shell.run(cell)
    assert not result.success
    assert words in captured.stdout + captured.stderr


def test_other_magics_work_inside_and_around(shell: Shell) -> None:
    _, inside = shell.run("%%usage report\n%%time\nmodel.invoke('Hello')")
    assert "Wall time" in inside.stdout
    assert shell["report"].calls == 1
    assert len(shown(inside)) == 1
    _, around = shell.run("%%capture caught\n%%usage\nmodel.invoke('Hello')")
    assert around.stdout == ""
    _, line = shell.run("%%usage\n%time model.invoke('Hello')")
    assert "Wall time" in line.stdout
    assert len(shown(line)) == 1


def test_cells_run_by_a_cell_are_its_own(shell: Shell) -> None:
    code = "get_ipython().run_cell('%%usage inner\\nmodel.invoke(1 * \"a\")')"
    _, captured = shell.run(f"%%usage outer\nmodel.invoke('Hello')\n{code};\nmodel.invoke('Bye')")
    assert (shell["inner"].calls, shell["outer"].calls) == (1, 3)
    assert shown(captured) == [str(shell["inner"]), str(shell["outer"])]


def test_trackers_of_the_cell_itself_nest(shell: Shell) -> None:
    shell.run("%%usage outer\nwith track_usage() as own:\n    model.invoke('Hello')\nmodel.invoke('Bye')")
    assert (shell["own"].calls, shell["outer"].calls) == (1, 2)


def test_a_line_shows_what_it_used(shell: Shell) -> None:
    result, captured = shell.run("%usage model.invoke('{x} $y').text.upper()")
    assert result.result.isupper()
    assert "{X} $Y" in result.result
    assert len(shown(captured)) == 1
    shell.run("x = 1\n%usage y = model.invoke('Hello').text\nz = %usage model.invoke('Hello').text")
    assert shell["y"] == shell["z"] != ""
    result, _ = shell.run("await_me = 1\n")
    result, captured = shell.run("%usage (await model.ainvoke('Hello')).text")
    assert isinstance(result.result, str)
    assert len(shown(captured)) == 1


def test_the_last_report_can_be_had_again(shell: Shell) -> None:
    shell.run("%%usage\nmodel.invoke('Hello')")
    shell.run("again = %usage")
    assert shell["again"].calls == 1


def test_a_line_that_raises_shows_its_usage(shell: Shell) -> None:
    result, captured = shell.run("x = 1\n%usage model.invoke('Hello').nothing")
    assert isinstance(result.error_in_exec, AttributeError)
    assert len(shown(captured)) == 1


def test_the_magic_can_be_called_as_a_function(shell: Shell) -> None:
    _, captured = shell.run("get_ipython().run_cell_magic('usage', 'r', 'model.invoke(\"Hello\")')")
    assert shell["r"].calls == 1
    assert len(shown(captured)) == 1
    result, _ = shell.run("get_ipython().run_cell_magic('usage', '', '1 / 0')")
    assert isinstance(result.error_in_exec, ZeroDivisionError)


def test_loading_twice_and_unloading_leave_nothing_behind(shell: Shell) -> None:
    transformers = list(shell.shell.input_transformers_cleanup)
    shell.run("%reload_ext lc_service")
    assert len(shell.shell.input_transformers_cleanup) == len(transformers)
    _, captured = shell.run("%%usage\nmodel.invoke('Hello')")
    assert len(shown(captured)) == 1
    shell.run("%unload_ext lc_service")
    result, captured = shell.run("%%usage\nmodel.invoke('Hello')")
    assert not result.success
    assert "`%%usage` not found" in captured.stdout + captured.stderr
    shell.run("%load_ext lc_service")


def test_a_shell_whose_configuration_loads_it_too_shows_one_table(shell: Shell) -> None:
    load_ipython_extension(shell.shell)
    _, captured = shell.run("%%usage\nmodel.invoke('Hello')")
    assert len(shown(captured)) == 1


def test_a_kernel_shows_usage_below_cells_that_await_print_and_fail(url: str, tmp_path: Path) -> None:
    cells = [
        f"%load_ext lc_service\n{SETUP.format(url=url)}",
        "%%usage\nprint('out')\nmodel.invoke('Hello').text",
        "%%usage report\nanswers = [await model.ainvoke(word) for word in 'ab']\nanswers[0].text",
        "%%usage\n(await model.ainvoke('Hello')).nothing",
        "model.invoke('uncounted').text",
        "%usage (await model.ainvoke('Hello')).text",
        "%%usage\n[chunk async for chunk in model.astream('Hello')][0].text",
        "report.calls",
        "report.plot()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(
        notebook, timeout=50, kernel_name="python3", allow_errors=True,
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()  # fmt: skip

    def outputs(number: int) -> list[str]:
        return [output["output_type"] for output in notebook.cells[number]["outputs"]]

    def calls(number: int) -> str:
        html = notebook.cells[number]["outputs"][-1]["data"]["text/html"]
        return re.findall(r"<td[^>]*>([^<]*)</td>", html)[1]

    assert outputs(0) == []
    assert outputs(1) == ["stream", "execute_result", "display_data"]
    assert outputs(2) == ["execute_result", "display_data"]
    assert outputs(3) == ["error", "display_data"]
    assert outputs(4) == ["execute_result"]
    assert outputs(5) == outputs(6) == ["execute_result", "display_data"]
    assert [calls(number) for number in (1, 2, 3, 5, 6)] == ["1", "2", "1", "1", "1"]
    assert notebook.cells[7]["outputs"][0]["data"]["text/plain"] == "2"
    assert "image/png" in notebook.cells[8]["outputs"][0]["data"]
