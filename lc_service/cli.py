"""The command line: `lc-service demo | chat | simulate`.

Every error is one line on stderr, with an exit code that says what kind it is. A command imports what it needs
when it runs, so that `--help` is quick; the work itself is done elsewhere.
"""

# ruff: noqa: PLC0415  a command's imports take longer than the whole help

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

if TYPE_CHECKING:
    from lc_service.demo import DemoJob, DemoResult
    from lc_service.retry.policy import RetryEvent
    from lc_service.service import OpenAIService
    from lc_service.simulator import Bill, Simulator

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

EXIT_CODES = {
    OK: "all is well",
    FAILED: "the job ran and something is wrong: an item lost, an answer wrong, counted not as billed",
    USAGE: "wrong usage or configuration: an option, a key, a chain, a port in use",
    INTERRUPTED: "stopped by you: Ctrl-C, or no to the question that --live asks",
}
_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."

app = typer.Typer(
    name="lc-service",
    help="Reliable, accounted-for access to OpenAI models. No key at hand? Everything here also runs against a "
    "simulator on this machine.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


class CommandError(Exception):
    """Raise to end a command with one line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class _Session:
    """What options of any command say about the whole invocation."""

    is_debug: bool = False


def _set_debug(context: typer.Context, is_debug: bool) -> bool:
    if isinstance(context.obj, _Session):
        context.obj.is_debug = context.obj.is_debug or is_debug
    return is_debug


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"lc-service {importlib.metadata.version('lc-service')}")
        raise typer.Exit


Debug = Annotated[
    bool,
    typer.Option(
        "--debug", envvar="LC_SERVICE_DEBUG", callback=_set_debug, is_eager=True,
        help="Show the traceback of an error; it may quote prompts.",
    ),
]  # fmt: skip
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log every retry.")]
Model = Annotated[
    str | None,
    typer.Option(help="Chat model; LC_SERVICE_MODEL, or a current small one, if not given.", metavar="NAME"),
]
RequestsPerMinute = Annotated[
    float | None, typer.Option(min=0.01, help="The simulator's request limit.", metavar="N")
]
TokensPerMinute = Annotated[
    float | None, typer.Option(min=1, help="The simulator's token limit.", metavar="N")
]
Faults = Annotated[
    float, typer.Option(min=0, max=1, help="Share of requests that meet a fault, 0 to 1.", metavar="RATE")
]
Seed = Annotated[int, typer.Option(help="Another seed gives other faults.", metavar="N")]


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Take the options that stand before a command."""


@app.command(epilog=_EPILOG)
def demo(
    documents: Annotated[
        int | None, typer.Option(min=1, help="How many of the documents; all if not given.", metavar="N")
    ] = None,
    chain: Annotated[
        str,
        typer.Option(
            help="What to run: a function that makes a chain from a model.", metavar="MODULE:FUNCTION"
        ),
    ] = "chains.summarize:build_summarize_chain",
    faults: Faults = 0.2,
    requests_per_minute: RequestsPerMinute = 480,
    tokens_per_minute: TokensPerMinute = 200_000,
    concurrency: Annotated[int, typer.Option(min=1, help="Items in progress at a time.", metavar="N")] = 16,
    seed: Seed = 7,
    model: Model = None,
    live: Annotated[
        bool, typer.Option("--live", help="Use the real API and OPENAI_API_KEY: this costs money.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --live spends money.")] = False,
    show: Annotated[int, typer.Option(min=0, help="How many answers to print.", metavar="N")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Run a chain over real documents, against rate limits and faults, and check every token.

    The documents ship with the package: short texts in ten languages. The server is a simulator on this machine
    that limits, fails and bills as OpenAI does, so this needs no key and no network. Each answer is held against
    a rehearsal without faults, each token against the server's bill; a difference or a lost item ends in exit
    code 1.
    """
    out, err = Console(), Console(stderr=True)
    _set_up_logging(err, verbose)
    with err.status("Loading…"):
        from lc_service.demo import (
            DemoJob,
            DemoSettings,
            choose_documents,
            load_factory,
            progress_bar,
            show_result,
        )

    settings = DemoSettings(
        faults=faults, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute,
        seed=seed, concurrency=concurrency, model=model,
    )  # fmt: skip
    with _usage_errors():
        factory, chosen = load_factory(chain), choose_documents(documents)
    with progress_bar(err, len(chosen)) as watch:
        job = DemoJob(factory, chosen, settings, watch)
        job.rehearse()
        result = job.run_simulated()
    if as_json:
        typer.echo(json.dumps(result.as_dict(), ensure_ascii=False, indent=2))
    else:
        show_result(out, result, show)
    return OK if result.is_right else FAILED


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    """Turn what a wrong setting raises, whose words are ours, into a line and exit code 2."""
    try:
        yield
    except ValueError as error:
        raise CommandError(str(error)) from error


def _set_up_logging(console: Console, is_verbose: bool) -> None:
    """Send the log to `console`, where it does not break a progress bar, or nowhere."""
    handler = RichHandler(console=console, show_path=False) if is_verbose else logging.NullHandler()
    logging.basicConfig(handlers=[handler], format="%(message)s", datefmt="%X")


def main() -> int:
    """Run the command line and return its exit code."""
    return app(standalone_mode=False, obj=_Session())
