"""`lc-service demo`: run a chain over documents and end with a verdict.

The demo itself is `lc_service.demo`; here are its options, the question before money is spent, and the exit
code.
"""

# ruff: noqa: PLC0415  importing what a command needs takes longer than printing the help

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console

from lc_service.cli.options import (
    FAILED,
    INTERRUPTED,
    OK,
    USAGE,
    CommandError,
    Debug,
    Faults,
    Model,
    RequestsPerMinute,
    Seed,
    TokensPerMinute,
    Verbose,
    direct_loopback,
    option,
    set_up_logging,
    usage_errors,
)

if TYPE_CHECKING:
    from lc_service.accounting.ledger import UsageLedger
    from lc_service.demo import DemoResult


def demo(
    *,
    documents: Annotated[int | None, option(min=1, help="How many of the documents; else all.")] = None,
    chain: Annotated[
        str, option(metavar="MODULE:FUNCTION", help="A function that makes a chain from a chat model.")
    ] = "chains.summarize:build_summarize_chain",
    faults: Faults = 0.2,
    requests_per_minute: RequestsPerMinute = 540,
    tokens_per_minute: TokensPerMinute = 200_000,
    concurrency: Annotated[int, option(min=1, help="Items in progress at a time.")] = 16,
    seed: Seed = 7,
    model: Model = None,
    live: Annotated[
        bool, typer.Option("--live", help="Use the real API and your key. This costs money.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --live spends it.")] = False,
    ledger: Annotated[
        str | None, option(metavar="FILE", help="Keep every attempt there, for `lc-service usage FILE`.")
    ] = None,
    show: Annotated[int, option(min=0, help="How many answers to print.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Run a chain over real documents, against limits and faults, and check every token.

    The documents ship with the package: short texts in ten languages. The server is a simulator on this
    machine that limits, fails and bills as OpenAI does: no key, no network, no cost. Each answer is held
    against a rehearsal without faults, each token against the server's bill. A difference or a lost item
    ends in exit code 1.

    A chain of your own: --chain my_module:build_chain. Its input is a dictionary with title and text, and the
    same input has to get the same answer.
    """
    del debug
    out, err = Console(), Console(stderr=True)
    set_up_logging(err, verbose)
    with err.status("Loading…"), direct_loopback(), usage_errors():
        from lc_service import demo as room

        settings = room.DemoSettings(
            faults=faults,
            requests_per_minute=requests_per_minute or None,
            tokens_per_minute=tokens_per_minute or None,
            seed=seed,
            concurrency=concurrency,
            model=model,
            ledger=_open(ledger),
        )
        live_target = _live_target(model) if live else ""
        job = room.DemoJob(room.load_factory(chain), room.choose_documents(documents), settings)
        estimate = job.rehearse()
    if live and not yes:
        _confirm_cost(
            f"{len(job.documents)} documents, about {estimate.input_tokens:,} tokens in and "
            f"{estimate.output_tokens:,} or more out, go to {live_target} and are billed to your account."
        )
    if not as_json:
        room.show_plan(out, job, chain, is_live=live)
    with direct_loopback(), room.progress_bar(err, job):
        result = job.run_live() if live else job.run_simulated()
    if as_json:
        typer.echo(json.dumps(result.as_dict(), ensure_ascii=False, indent=2))
    else:
        room.show_result(out, result, show)
    return _verdict(result)


def _open(ledger: str | None) -> UsageLedger | None:
    if ledger is None:
        return None
    from lc_service.accounting.ledger import LedgerError, UsageLedger

    try:
        return UsageLedger(ledger)
    except LedgerError as error:
        raise CommandError(str(error)) from error


def _live_target(model: str | None) -> str:
    """Return which model at which host a live run would use, after checking that it can be used at all."""
    from lc_service.service import OpenAIService
    from lc_service.settings import ServiceSettings

    OpenAIService(model=model)
    settings = ServiceSettings.load(model=model)
    return f"{settings.model} at {urlsplit(settings.base_url or 'https://api.openai.com').hostname}"


def _confirm_cost(what: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError("--live costs money: pass --yes to agree to it where nobody can be asked")
    if not typer.confirm(f"{what} Go on?", err=True):
        raise CommandError("nothing was sent", INTERRUPTED)


def _verdict(result: DemoResult) -> int:
    from lc_service.demo import INTERRUPTED as BY_CTRL_C

    if result.is_right:
        return OK
    reached = f"{result.answered} of {result.items} items answered"
    if result.stopped_by == BY_CTRL_C:
        raise CommandError(f"interrupted: {reached}; calls in flight may have been billed", INTERRUPTED)
    if result.stopped_by:
        exit_code = FAILED if result.answered else USAGE
        raise CommandError(f"stopped: {result.stopped_by}; {reached}", exit_code)
    problems = [
        f"{result.lost} of {result.items} items lost" if result.lost else "",
        f"{result.wrong} wrong answers" if result.wrong else "",
        "" if result.is_balanced else "counted is not what was billed",
    ]
    raise CommandError("; ".join(filter(None, problems)), FAILED)
