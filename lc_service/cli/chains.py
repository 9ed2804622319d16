"""`lc-service chains` and `lc-service chain`: what chains come along, and one of them over files.

Answers go to stdout and everything else to stderr. What is wrong is said before anything is paid for; a file
that fails loses no other's answer.
"""

# ruff: noqa: PLC0415  importing what a command needs takes longer than printing the help

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.status import Status
from rich.table import Table

from lc_service import clock
from lc_service.cli.given import STDIN, read_text
from lc_service.cli.options import (
    INTERRUPTED,
    OK,
    CommandError,
    Debug,
    Model,
    Verbose,
    direct_loopback,
    option,
    set_up_logging,
    usage_errors,
)
from lc_service.cli.outcome import NotAnsweredError, as_dict, as_json, exit_code, show, spent, verdict, words

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable, RunnableConfig

    from lc_service import UsageReport
    from lc_service.cli.task import Task
    from lc_service.retry.event import RetryEvent


def chains(
    *,
    is_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    debug: Debug = False,
) -> int:
    """List the chains that come along, with their inputs.

    An input in brackets may be left out. `lc-service chain NAME` runs one; docs/chains.md has more of each.
    """
    del debug
    from lc_service.cli.task import tasks

    if is_json:
        rows = {task.name: _as_dict(task) for task in tasks().values()}
        typer.echo(as_json(rows))
        return OK
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    longest = max(len(name) for task in tasks().values() for name in task.inputs) + len("[]")
    for heading in ("Chain", "What it does", "Inputs", "Gives", "Prompt"):
        table.add_column(heading, overflow="fold", min_width=longest if heading == "Inputs" else None)
    for task in tasks().values():
        inputs = [name if name in task.required else f"[{name}]" for name in task.inputs]
        table.add_row(task.name, task.summary, ", ".join(inputs), task.gives, task.version)
    Console(highlight=False, markup=False).print(table)
    return OK


def _as_dict(task: Task) -> dict[str, Any]:
    inputs = {
        name: {"required": name in task.required, "description": schema.get("description", "")}
        for name, schema in task.inputs.items()
    }
    about = {
        "summary": task.summary, "inputs": inputs, "gives": task.gives, "prompt_version": task.version
    }  # fmt: skip
    return about if task.why_not is None else about | {"only_in_python": task.why_not}


def chain(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The chain, such as summarize.", show_default=False)
    ],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Texts in UTF-8; - is stdin.", show_default=False),
    ] = None,
    *,
    inputs: Annotated[
        list[str] | None,
        option(
            "--input", "-i", metavar="NAME=VALUE", help="An input of the chain; may be given several times."
        ),
    ] = None,
    question: Annotated[str | None, option(metavar="TEXT", help="Short for --input question=TEXT.")] = None,
    labels: Annotated[
        list[str] | None,
        option("--label", metavar="NAME[=MEANING]", help="A label to choose; classify needs two or more."),
    ] = None,
    schema: Annotated[
        str | None,
        option(metavar="FILE.json", help="What to extract: a JSON schema, or MODULE:CLASS of Pydantic's."),
    ] = None,
    several: Annotated[
        bool, typer.Option("--several", help="Any number of labels of a text, or of objects in it.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        option("--set", metavar="NAME=VALUE", help="An option of the chain, such as max_sentences=5."),
    ] = None,
    model: Model = None,
    base_url: Annotated[
        str | None, option(metavar="URL", help="The API's URL; else OPENAI_BASE_URL, or OpenAI's own.")
    ] = None,
    concurrency: Annotated[int, option(min=1, help="Files in progress at a time.")] = 16,
    is_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Run a chain over files: an answer each on stdout, tokens and cost on stderr.

    A file is the chain's text: for ask the context, for critique_and_revise the draft, for
    answer_with_sources a document to search. All else that the chain takes is given by --input. Answers
    that are no text are JSON.

    The key is OPENAI_API_KEY. Without one, and without a URL, the built-in simulator answers.
    """
    del debug
    from lc_service.cli.given import Choices, read_labels, read_schema
    from lc_service.cli.task import task_named

    err = Console(stderr=True, highlight=False)
    set_up_logging(err, verbose)
    task = task_named(name)
    asked = [f"question={question}"] if question is not None else []
    given = task.read_input([*(inputs or ()), *asked])
    what = None if schema is None else read_schema(schema)
    choices = Choices(read_labels(labels or ()), what, several, task.read_settings(settings or ()))
    task.check_choices(choices)
    texts = _read(task, files or [], given)
    values = _values(task, texts, given)
    with contextlib.ExitStack() as stack:
        with err.status("Loading…"), usage_errors():
            from lc_service import track_usage
            from lc_service.cli.connection import connect

            stack.enter_context(direct_loopback())
            waiting = err.status("Waiting…")
            service = connect(stack, err, base_url, on_retry=partial(_show_retry, waiting), model=model)
        started = clock.now()
        with track_usage() as usage, _accounted_for(err, usage, started):
            with waiting:
                built = task.build(service, choices, _documents(texts) if task.takes_documents else ())
                if len(values) == 1 and built.OutputType is str and not is_json:
                    return _stream(built, values[0], waiting)
                answers = _run(built, values, concurrency, waiting)
            sources = [source for source, _ in texts]
            if is_json:
                typer.echo(as_json(as_dict(sources, answers, usage)))
            else:
                show(sources, answers)
            return verdict(answers)


def _read(task: Task, files: Sequence[str], given: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the files hold, by their names; what is piped in where a text is needed and none named."""
    needs_text = task.takes_documents or (task.files_are in task.required and task.files_are not in given)
    if not files and needs_text and not sys.stdin.isatty():
        files = [STDIN]
    if task.takes_documents and not files:
        raise CommandError(f"{task.name} searches documents: name some files")
    if files and task.files_are in given:
        raise CommandError(f"a file is the {task.files_are}: give either, not both")
    return [(name, read_text(name)) for name in files]


def _values(task: Task, texts: Sequence[tuple[str, str]], given: dict[str, Any]) -> list[dict[str, Any]]:
    if task.takes_documents or not texts:
        task.check(given, "")
        return [given]
    values = [given | {str(task.files_are): text} for _, text in texts]
    for (source, _), value in zip(texts, values, strict=True):
        task.check(value, source)
    return values


def _documents(texts: Sequence[tuple[str, str]]) -> list[Any]:
    from langchain_core.documents import Document

    return [Document(text, metadata={"source": source}) for source, text in texts]


@contextlib.contextmanager
def _accounted_for(err: Console, usage: UsageReport, started: float) -> Iterator[None]:
    """Say what was used, however it ends, and of an error what it means."""
    try:
        yield
    except KeyboardInterrupt:
        raise CommandError("interrupted; what was asked so far may have been billed", INTERRUPTED) from None
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(words(error), exit_code(error)) from error
    finally:
        if usage.attempts:
            err.print(spent(usage, clock.now() - started), style="dim")


def _show_retry(waiting: Status, event: RetryEvent) -> None:
    waiting.update(f"Trying again in {event.wait_seconds:.1f} s ({event.verdict.kind})…")


def _run(
    built: Runnable[Any, Any], values: list[dict[str, Any]], concurrency: int, waiting: Status
) -> list[Any]:
    """Return an answer, an error, or where Ctrl-C came before either, that, for each value."""
    if len(values) == 1:
        return [built.invoke(values[0])]
    answers: list[Any] = [NotAnsweredError()] * len(values)

    async def run() -> None:
        config: RunnableConfig = {"max_concurrency": concurrency}
        done_count = 0
        async for number, answer in built.abatch_as_completed(values, config, return_exceptions=True):
            answers[number] = answer
            done_count += 1
            waiting.update(f"{done_count} of {len(values)}…")

    with contextlib.suppress(KeyboardInterrupt):  # what is answered is paid for, and shown
        asyncio.run(run())
    return answers


def _stream(built: Runnable[Any, Any], value: dict[str, Any], waiting: Status) -> int:
    has_begun = False
    try:
        for piece in built.stream(value):
            waiting.stop()
            typer.echo(piece, nl=False)
            has_begun = True
    finally:
        if has_begun:
            typer.echo()
    return OK
