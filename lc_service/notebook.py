"""`%load_ext lc_service`: `%%usage` shows below a cell what its model calls used and cost.

Invariant: the cell runs as it would without it: `await`, output, `_`, line numbers and errors are its own. It
counts this cell's calls and no others. What it shows is `UsageReport`'s doing.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from lc_service.accounting.tracker import track_usage
from lc_service.accounting.usage_report import UsageReport

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_BEGIN = "_usage_begin"
_CELL = re.compile(r"%%usage(?:[ \t]+(?P<name>.*\S))?[ \t]*$")
_LINE = re.compile(r"%usage[ \t]+(?P<code>.*\S)[ \t]*$")
_loaded: WeakKeyDictionary[Any, _UsageMagics] = WeakKeyDictionary()


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Give `%%usage` and `%usage` to a shell; `%load_ext lc_service` calls it."""
    if shell in _loaded:
        return
    magics = _loaded[shell] = _UsageMagics(shell)
    magics.register()


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take them away again; `%unload_ext lc_service` calls it."""
    if magics := _loaded.pop(shell, None):
        magics.unregister()


def _rewritten(lines: list[str]) -> list[str]:
    """Turn a cell under `%%usage` into its own code after a line that begins to count.

    A cell magic runs its cell as a text, inside of a running event loop where nothing can be awaited. So it
    is none: the cell is what IPython runs, and what IPython tells of its end shows the report. IPython may
    ask for this several times a cell.
    """
    if not lines:
        return lines
    if found := _CELL.match(lines[0].rstrip("\n")):
        name, body = found["name"] or "", lines[1:]
    elif (found := _LINE.match(lines[0].rstrip("\n"))) and not "".join(lines[1:]).strip():
        name, body = "", [found["code"] + "\n"]
    else:
        return lines
    code = "".join(body).lstrip()
    if not code or code.startswith("%%") or not _is_name(name):
        return lines  # for the real magic: to run another one inside, or to say what is wrong
    return [f"get_ipython().run_line_magic({_BEGIN!r}, {name!r})\n", *body]


def _is_name(name: str) -> bool:
    return not name or name.isidentifier()


class _UsageMagics:
    """What one shell has: the reports of cells that are running, and that of the last."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell: Any = shell  # hardly anything of it is typed
        self.last: UsageReport | None = None
        self._depth = 0  # a cell can run others
        self._running: list[tuple[int, UsageReport, AbstractContextManager[UsageReport]]] = []
        self._events = {"pre_run_cell": self._on_begin, "post_run_cell": self._on_end}

    def register(self) -> None:
        from IPython.core.magic import no_var_expand  # noqa: PLC0415  only a shell that is there can load this

        @no_var_expand  # it would take {} and $ in the code for names of variables
        def usage(line: str) -> Any:
            """Show what the calls in a statement used and cost; alone, return the report of the last cell.

            `%usage answer = chain.invoke("x")`, `report = %usage`
            """
            return self._run_line(line) if line.strip() else self._last_report()

        @no_var_expand
        def usage_cell(line: str, cell: str) -> Any:
            """Show what the calls in this cell used and cost; `%%usage NAME` keeps the report as NAME."""
            return self._run_cell(line.strip(), cell)

        self.shell.register_magic_function(usage, "line", "usage")
        self.shell.register_magic_function(usage_cell, "cell", "usage")
        self.shell.register_magic_function(self._begin, "line", _BEGIN)
        self.shell.input_transformers_cleanup.append(_rewritten)
        for event, callback in self._events.items():
            self.shell.events.register(event, callback)

    def unregister(self) -> None:
        for kind, name in (("line", "usage"), ("cell", "usage"), ("line", _BEGIN)):
            self.shell.magics_manager.magics[kind].pop(name, None)
        self.shell.input_transformers_cleanup.remove(_rewritten)
        for event, callback in self._events.items():
            self.shell.events.unregister(event, callback)

    def _begin(self, name: str) -> None:
        """Count from here to the end of the cell."""
        tracking = track_usage()
        report = tracking.__enter__()
        self._running.append((self._depth, report, tracking))
        if name:
            self.shell.user_ns[name] = report

    def _on_begin(self, info: object) -> None:
        del info
        self._depth += 1

    def _on_end(self, result: object) -> None:
        del result
        while self._running and self._running[-1][0] >= self._depth:
            _, report, tracking = self._running.pop()
            tracking.__exit__(None, None, None)
            self._show(report)
        self._depth = max(0, self._depth - 1)

    @contextmanager
    def _tracked(self) -> Iterator[UsageReport]:
        with track_usage() as report:
            try:
                yield report
            finally:
                self._show(report)

    def _show(self, report: UsageReport) -> None:
        from IPython.display import display  # noqa: PLC0415  as above

        self.last = report
        display(report)  # type: ignore[no-untyped-call]  # IPython says nothing of its types

    def _last_report(self) -> UsageReport | None:
        if self.last is None:
            _refuse("No cell has been measured yet: begin one with %%usage.")
        return self.last

    def _run_line(self, line: str) -> Any:
        source = self.shell.transform_cell(line)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        try:
            code = compile(source, "<usage>", "eval", flags)
        except SyntaxError:
            code = compile(source, "<usage>", "exec", flags)
        if code.co_flags & inspect.CO_COROUTINE:
            _refuse("%usage can only await when it is all of its cell; begin the cell with %%usage.")
        with self._tracked():
            return eval(code, self.shell.user_ns)  # noqa: S307  the user's own code, in the user's namespace

    def _run_cell(self, name: str, cell: str) -> Any:
        if not _is_name(name):
            _refuse(f"%%usage takes the name of a variable for its report, not {name!r}.")
        with self._tracked() as report:
            if name:
                self.shell.user_ns[name] = report
            first, _, body = cell.lstrip().partition("\n")
            if first.startswith("%%"):
                magic, _, line = first.removeprefix("%%").partition(" ")
                return self.shell.run_cell_magic(magic, line, body)
            self.shell.run_cell(cell).raise_error()
            return None


def _refuse(words: str) -> None:
    from IPython.core.error import UsageError  # noqa: PLC0415  as above

    raise UsageError(words)
