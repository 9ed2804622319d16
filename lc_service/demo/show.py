"""Show a demo run on a terminal: the progress while it runs, the tables at its end.

Answers are text to print as it is: nothing in them is read as markup. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, zip_longest

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from lc_service.demo.job import DemoJob
from lc_service.demo.result import DemoResult, ItemResult

_GOOD = Text("✓", style="bold green")
_BAD = Text("✗", style="bold red")


@contextmanager
def progress_bar(console: Console, job: DemoJob) -> Iterator[None]:
    """Show how `job` gets on, for as long as the block runs; nothing where `console` is no terminal."""
    progress = Progress(
        TextColumn("Answering"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[failed]} failed"),
        TextColumn("[yellow]{task.fields[retries]} retries"),
        TextColumn("[cyan]{task.fields[tokens]:,} tokens"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        expand=True,
    )
    task = progress.add_task("", total=len(job.documents), failed=0, retries=0, tokens=0)

    def update(job: DemoJob) -> None:
        progress.update(
            task,
            completed=len(job.finished),
            failed=sum(item.answer is None for item in job.finished),
            retries=job.retries.total(),
            tokens=job.usage.total.total_tokens,
        )

    job.watch = update
    with progress:
        yield


def show_plan(console: Console, job: DemoJob, chain: str, *, is_live: bool) -> None:
    """Print what is about to run."""
    languages = len({document.language for document in job.documents})
    settings = job.settings
    if is_live:
        server = "the real API"
    else:
        allowed = settings.requests_per_minute
        server = "a simulator that allows " + (
            f"{allowed:,.0f} requests a minute" if allowed else "any speed"
        )
        server += f" and meets {settings.faults:.0%} of them with a fault" if settings.faults else ""
    console.print(
        f"{_count(len(job.documents), 'document')} in {_count(languages, 'language')} through {chain}, "
        f"{settings.concurrency} at a time, against {server}.",
        highlight=False,
        markup=False,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def show_result(console: Console, result: DemoResult, shown: int) -> None:
    """Print some answers, the summary, and counted against billed."""
    if shown and (answers := _sample(result.finished, shown)):
        console.print(_answers(answers))
    if failures := [item for item in result.finished if item.answer is None or item.is_wrong]:
        console.print(_failures(failures))
    console.print(_summary(result))
    console.print(_tokens(result))
    if result.is_right:
        rest = "" if result.billed is None else " Every answer is its own, every token counted as billed."
        console.print(_GOOD, f"Every item is answered.{rest}")


def _sample(finished: Sequence[ItemResult], count: int) -> list[ItemResult]:
    """Choose `count` answers, of as many languages as possible."""
    answers = sorted((i for i in finished if i.answer is not None), key=lambda i: (i.language, i.id))
    languages = [list(group) for _, group in groupby(answers, key=lambda item: item.language)]
    if count < len(languages):
        languages = [languages[place * len(languages) // count] for place in range(count)]
    turns = [item for turn in zip_longest(*languages) for item in turn if item is not None]
    return sorted(turns[:count], key=lambda item: (item.language, item.id))


def _answers(items: Sequence[ItemResult]) -> Table:
    table = _table("Answers")
    table.add_column("Document", style="cyan", no_wrap=True)
    table.add_column("Tries", justify="right")
    table.add_column("Answer", ratio=1, overflow="fold")  # Chinese and Japanese have no spaces to wrap at
    for item in items:
        table.add_row(item.id, str(item.attempts), Text(item.answer or ""))
    return table


def _failures(items: Sequence[ItemResult]) -> Table:
    table = _table("Lost or wrong")
    table.add_column("Document", style="cyan", no_wrap=True)
    table.add_column("Tries", justify="right")
    table.add_column("What happened", ratio=1)
    for item in items:
        table.add_row(item.id, str(item.attempts), Text(item.error or "the answer of another item"))
    return table


def _summary(result: DemoResult) -> Table:
    table = _table("Summary", header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    table.add_row("Items", str(result.items), "")
    table.add_row("Answered", str(result.answered), "")
    if result.stopped_by:
        table.add_row(
            "Not finished", str(result.pending), Text(f"stopped by {result.stopped_by}", style="yellow")
        )
    table.add_row("Lost", str(result.lost), _mark(not result.lost))
    if result.billed is not None:
        table.add_row("Wrong", str(result.wrong), _mark(not result.wrong))
    seen = "" if result.server_requests is None else f"the server saw {result.server_requests:,}"
    table.add_row("HTTP requests", f"{result.attempts:,}", seen)
    for reason, count in result.retries.items():
        table.add_row(f"  retried: {reason}", f"{count:,}", "")
    table.add_row("Time", f"{result.seconds:.1f} s", "")
    return table


def _tokens(result: DemoResult) -> Table:
    table = _table("Counted against billed")
    table.add_column("Model", no_wrap=True)
    table.add_column("", style="dim")
    for name in ("Input", "Output", "Total"):
        table.add_column(name, justify="right")
    table.add_column("")
    for line in result.lines:
        counted, billed, is_same = result.counted_and_billed(line)
        model, operation = line
        table.add_row(
            f"{model} {operation}", "counted", *_numbers(counted.input_tokens, counted.output_tokens), ""
        )
        if result.billed is None:
            table.add_row("", "billed", "see your OpenAI dashboard")
        else:
            numbers = _numbers(billed.input_tokens, billed.output_tokens)
            in_flight = Text("calls in flight", style="yellow")
            mark = in_flight if result.stopped_by and not is_same else _mark(is_same)
            table.add_row("", "billed", *numbers, mark)
    return table


def _numbers(inputs: int, outputs: int) -> tuple[str, str, str]:
    return f"{inputs:,}", f"{outputs:,}", f"{inputs + outputs:,}"


def _mark(is_good: bool) -> Text:
    return _GOOD if is_good else _BAD


def _table(title: str, *, header: bool = True) -> Table:
    # no right border: right-to-left text would be set on its wrong side
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=header
    )
