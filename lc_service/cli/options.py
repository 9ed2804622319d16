"""What the commands share: exit codes, option types, and what surrounds their work.

It prints nothing but the version and imports nothing of the service, so that `--help` is quick.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = {
    OK: "all is well",
    FAILED: "it ran and something is wrong: an item lost, an answer wrong or missing, counted not as billed",
    USAGE: "wrong usage or configuration: an option, a key, a model, a chain, a port in use",
    INTERRUPTED: "stopped by you: Ctrl-C, or no to the question that --live asks",
}


class CommandError(Exception):
    """Raise to end a command with one line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Session:
    """What options of any command say about the whole invocation."""

    is_debug: bool = False


def _set_debug(context: typer.Context, is_debug: bool) -> bool:
    if isinstance(context.obj, Session):
        context.obj.is_debug |= is_debug
    return is_debug


def print_version(is_asked: bool) -> None:
    """Print the version and end, where it is asked for."""
    if is_asked:
        typer.echo(f"lc-service {importlib.metadata.version('lc-service')}")
        raise typer.Exit


def option(*names: str, metavar: str = "N", **settings: Any) -> Any:
    """Declare an option that takes a value; `metavar` is its name in the help."""
    return typer.Option(*names, metavar=metavar, **settings)


Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        envvar="LC_SERVICE_DEBUG",
        callback=_set_debug,
        is_eager=True,
        help="Show the traceback of an error; it may quote prompts.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log every retry on stderr.")]
Model = Annotated[
    str | None, option(metavar="NAME", help="Chat model; else LC_SERVICE_MODEL, or a current small one.")
]
RequestsPerMinute = Annotated[float, option(min=0, help="The simulator's request limit; 0 is unlimited.")]
TokensPerMinute = Annotated[float, option(min=0, help="The simulator's token limit; 0 is unlimited.")]
Faults = Annotated[float, option(metavar="RATE", min=0, max=1, help="Share of requests that meet a fault.")]
Seed = Annotated[int, option(help="Another seed gives other faults.")]


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what a wrong setting raises, whose words are ours and quote no secret, into exit code 2."""
    try:
        yield
    except ValueError as error:
        raise CommandError(str(error)) from error


@contextlib.contextmanager
def direct_loopback() -> Iterator[None]:
    """Keep a proxy of the environment out of the way to the simulator."""
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    known = before["no_proxy"] or before["NO_PROXY"]
    os.environ.update(dict.fromkeys(before, f"{known},127.0.0.1" if known else "127.0.0.1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def set_up_logging(console: Console, is_verbose: bool) -> None:
    """Send the log to `console`, where it does not break a progress bar, or nowhere."""
    handler = RichHandler(console=console, show_path=False) if is_verbose else logging.NullHandler()
    logging.basicConfig(handlers=[handler], format="%(message)s", datefmt="%X")
