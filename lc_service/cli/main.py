"""The program: its commands, and how every error of theirs becomes one line and an exit code."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from lc_service.cli.chains import chain, chains
from lc_service.cli.chat import chat
from lc_service.cli.demo import demo
from lc_service.cli.options import (
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    OK,
    USAGE,
    CommandError,
    Debug,
    Session,
    print_version,
)
from lc_service.cli.simulate import simulate
from lc_service.cli.usage import usage

_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."

app = typer.Typer(
    name="lc-service",
    help="Reliable, accounted-for access to OpenAI models. All of it also runs without a key, against a "
    "simulator on this machine.",
    epilog=_EPILOG,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Debug = False,
) -> None:
    del version, debug  # their callbacks have seen to them
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


for _command in (demo, chat, chains, chain, usage, simulate):
    app.command(epilog=_EPILOG)(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: Those after the program's name; the process's own where None.
    """
    session = Session()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # not a text file
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may lack letters
    try:
        code = app(arguments, prog_name="lc-service", standalone_mode=False, obj=session)
    except CommandError as error:
        return _fail(str(error), error.exit_code, session)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED, session)
    except Exception as error:  # noqa: BLE001  the last resort: one line, as for every other error
        # what typer itself refuses, whichever of its releases: a usage error words itself
        if (words := getattr(error, "format_message", None)) is not None:
            return _fail(words(), USAGE, session)
        return _fail(f"unexpected {type(error).__name__}; --debug shows where", FAILED, session)
    if code == INTERRUPTED:
        return _fail("interrupted", INTERRUPTED, session)
    return code if isinstance(code, int) else OK


def _fail(message: str, exit_code: int, session: Session) -> int:
    if session.is_debug and sys.exc_info()[0] is not None:
        traceback.print_exc()
    typer.echo(f"lc-service: {' '.join(message.split())}", err=True)
    return exit_code
