"""What came of a chain's run: answers for stdout, errors in words that quote nothing, tokens and cost."""

# ruff: noqa: PLC0415  importing what a command needs takes longer than printing the help

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from lc_service.cli.options import FAILED, INTERRUPTED, OK, USAGE, CommandError

if TYPE_CHECKING:
    from lc_service import UsageReport


class NotAnsweredError(Exception):
    """Stands for an answer that was not waited for."""


def show(sources: Sequence[str], answers: Sequence[Any]) -> None:
    """Print answers, each under its file's name where there are several; errors go to stderr."""
    for number, answer in enumerate(answers):
        if isinstance(answer, NotAnsweredError):
            continue
        if isinstance(answer, Exception):
            typer.echo(f"lc-service: {sources[number]}: {words(answer)}", err=True)
            continue
        if len(answers) > 1:
            typer.echo(f"==> {sources[number]} <==")
        typer.echo(answer if isinstance(answer, str) else as_json(_plain(answer)))


def as_json(value: Any) -> str:
    """Return readable JSON."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def as_dict(sources: Sequence[str], answers: Sequence[Any], usage: UsageReport) -> dict[str, Any]:
    """Return all of it: answers or errors, by their files where each has one, and what they took."""
    shown = [
        {"error": words(answer)} if isinstance(answer, Exception) else {"answer": _plain(answer)}
        for answer in answers
    ]
    if len(sources) == len(shown):
        shown = [{"source": source} | each for source, each in zip(sources, shown, strict=True)]
    cost = usage.cost_usd
    return {
        "answers": shown,
        "usage": {
            "requests": usage.attempts,
            "input_tokens": usage.total.input_tokens,
            "output_tokens": usage.total.output_tokens,
            "cost_usd": None if cost is None else str(cost),
        },
    }


def _plain(answer: Any) -> Any:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(answer)


def words(error: Exception) -> str:
    """Return what went wrong in words that quote neither a text nor a key."""
    from lc_service.demo import describe

    if isinstance(error, NotAnsweredError):
        return "interrupted"
    # those of the chains say what is wrong with an answer, and what an input lacks; never what is in it
    is_ours = type(error) is ValueError or type(error).__module__.partition(".")[0] == "chains"
    return str(error) if is_ours else describe(error)


def exit_code(error: Exception) -> int:
    """Return the code for an error: wrong usage where no other call would fare better."""
    from lc_service.demo import is_hopeless

    return USAGE if type(error) is ValueError or is_hopeless(error) else FAILED


def spent(usage: UsageReport, seconds: float) -> str:
    """Return what a run took, in a line."""
    total, cost, known = usage.total, usage.cost_usd, usage.known_cost_usd
    price = f"${cost:.4f}" if cost is not None else f"at least ${known:.4f}" if known else "cost unknown"
    requests = f"{usage.attempts} request{'' if usage.attempts == 1 else 's'}"
    facts = [f"{total.input_tokens:,} tokens in, {total.output_tokens:,} out", price, requests]
    return " · ".join([*facts, f"{seconds:.1f} s"])


def verdict(answers: Sequence[Any]) -> int:
    """Return success.

    Raises:
        CommandError: There is an error among the answers.
    """
    failed = [answer for answer in answers if isinstance(answer, Exception)]
    if not failed:
        return OK
    if any(isinstance(answer, NotAnsweredError) for answer in failed):
        answered = f"{len(answers) - len(failed)} of {len(answers)} texts answered"
        raise CommandError(f"interrupted: {answered}; others may have been billed", INTERRUPTED)
    raise CommandError(f"{len(failed)} of {len(answers)} texts have no answer", max(map(exit_code, failed)))
