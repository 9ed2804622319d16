"""`lc-service usage`: what a ledger says the attempts in it used and cost."""

# ruff: noqa: PLC0415  --help is quick because a command imports the service only when it runs

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from lc_service import clock
from lc_service.cli.options import OK, CommandError, Debug, option, usage_errors

if TYPE_CHECKING:
    from lc_service.accounting.report import Table
    from lc_service.accounting.usage_line import LineKey, UsageLine

_MOMENT = "2026-11-01, 2026-11-01T10:00, today, yesterday, 7d, 24h or 30m ago; in UTC"


def usage(
    *,
    ledger: Annotated[
        str | None,
        typer.Argument(
            envvar="LC_SERVICE_LEDGER", metavar="LEDGER", help="The ledger's file or URL.", show_default=False
        ),
    ] = None,
    by: Annotated[
        str,
        option(metavar="KEYS", help="model, operation, status, day, tag, metadata:KEY; several with commas."),
    ] = "model",
    since: Annotated[str | None, option(metavar="WHEN", help=f"Attempts from then on: {_MOMENT}.")] = None,
    until: Annotated[str | None, option(metavar="WHEN", help="Attempts before then.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    html: Annotated[
        str | None, option(metavar="FILE", help="Write a page for browsers and phones there; - prints it.")
    ] = None,
    debug: Debug = False,
) -> int:
    """Say what the attempts in a ledger used and cost, by model, day, tag, status or metadata.

    Costs are those of the day on which an attempt was made. Nothing is changed in the ledger.
    """
    del debug
    if sum((as_csv, as_json, html is not None)) > 1:
        raise CommandError("give one of --csv, --json and --html")
    keys = list(dict.fromkeys(key.strip() for key in by.split(",")))
    moments = _moment("--since", since), _moment("--until", until)
    with usage_errors():
        from lc_service.accounting.report import make_table

        make_table({}, keys)  # a wrong key is told before a large ledger is read
        lines = _read(ledger, *moments)
        table = make_table(lines, keys)
    if as_csv:
        _print_csv(table)
    elif as_json:
        typer.echo(json.dumps(_as_dict(table), ensure_ascii=False, indent=2))
    elif html is not None:
        _write_page(lines, keys, html)
    else:
        _print(table)
    return OK


def _read(ledger: str | None, since: datetime | None, until: datetime | None) -> dict[LineKey, UsageLine]:
    if not ledger:
        raise CommandError("name a ledger: lc-service usage FILE, or set LC_SERVICE_LEDGER")
    from lc_service.accounting.ledger import LedgerError, UsageLedger

    try:
        if not _is_there(ledger):  # to open it would make it one
            raise CommandError(f"there is no ledger {ledger if '://' not in ledger else 'at this URL'}")
        with UsageLedger(ledger) as opened:
            return opened.lines(since=since, until=until, resolution="hour")
    except LedgerError as error:
        raise CommandError(str(error)) from error


def _is_there(ledger: str) -> bool:
    import sqlalchemy as sa

    from lc_service.accounting.ledger import place, schema, sqlite

    database = place.find(ledger, "process", 30.0)
    if isinstance(database, sqlite.SqliteDatabase) and not Path(database.place).exists():
        return False
    try:
        return sa.inspect(database.engine).has_table(schema.attempts.name)
    except sa.exc.SQLAlchemyError as error:
        raise database.error(error) from error
    finally:
        database.engine.dispose()


_SPANS = {"d": "days", "h": "hours", "m": "minutes"}


def _moment(name: str, words: str | None) -> datetime | None:
    """Read a moment as people write it.

    Raises:
        CommandError: It is none.
    """
    if words is None:
        return None
    now = datetime.fromtimestamp(clock.wall(), UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if words in ("today", "yesterday"):
        return midnight - timedelta(days=words == "yesterday")
    try:
        if span := re.fullmatch(r"(\d+)([dhm])", words):
            return now - timedelta(**{_SPANS[span[2]]: int(span[1])})
        moment = datetime.fromisoformat(words)
    except (OverflowError, ValueError):
        raise CommandError(f"{name} takes {_MOMENT}, not {words!r}") from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _figures(line: UsageLine) -> dict[str, Any]:
    """Return a sum as plain values; money as text, which loses nothing."""
    figures = asdict(line)
    tokens, cost = figures.pop("usage"), figures.pop("cost_usd")
    return {
        **figures,
        **tokens,
        "total_tokens": line.usage.total_tokens,
        "cost_usd": None if line.unpriced else _exact(cost),
        "known_cost_usd": _exact(cost),
    }


def _exact(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def _named(table: Table, names: tuple[str, ...]) -> Mapping[str, str]:
    return dict(zip(table.by, names, strict=True))


def _as_dict(table: Table) -> dict[str, Any]:
    rows = [{**_named(table, row.names), **_figures(row.line)} for row in table.rows]
    return {"by": list(table.by), "rows": rows, "total": _figures(table.total)}


def _print_csv(table: Table) -> None:
    writer = csv.DictWriter(sys.stdout, [*table.by, *_figures(table.total)], lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        writer.writerow({**_named(table, row.names), **_figures(row.line)})


def _write_page(lines: Mapping[LineKey, UsageLine], keys: list[str], target: str) -> None:
    from lc_service.accounting.usage_report import UsageReport

    page = UsageReport(lines).to_html(keys)
    if target == "-":
        typer.echo(page, color=True)  # as it is: a page has no colours to take out
        return
    try:
        Path(target).write_text(page, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}") from error


_MAX_NAME_WIDTH = 48


def _print(table: Table) -> None:
    from lc_service.accounting.report.table import key_in_words

    out = Console()
    if not table.total.calls and not table.total.attempts:
        out.print("There are no attempts of that time in the ledger.")
        return
    shown = RichTable(box=box.SIMPLE_HEAD)
    for key in table.by:
        shown.add_column(key_in_words(key), overflow="fold", max_width=_MAX_NAME_WIDTH)
    for column in table.columns:
        shown.add_column(column.title, justify="right", no_wrap=True)

    def cells(names: tuple[str, ...], line: UsageLine) -> list[Text]:
        # Text, not markup: names come from servers and programs
        return [Text(_printable(cell)) for cell in (*names, *(column.text(line) for column in table.columns))]

    for names, line in table.written():
        shown.add_row(*cells(names, line))
    shown.add_section()
    shown.add_row(*cells(("Total", *("" for _ in table.by[1:])), table.total), style="bold")
    # A line that the terminal breaks can still be read; a name broken to four letters a line cannot.
    out.width = max(out.width, Measurement.get(out, out.options.update(max_width=10_000), shown).maximum)
    out.print(shown)
    for doubt in table.doubts:
        out.print(Text(doubt), style="yellow", soft_wrap=True)


def _printable(text: str) -> str:
    """Return `text` without what a terminal would take for a command."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
