"""Usage as HTML: a small table for notebooks, and a whole page that needs nothing but itself.

Invariant: every name is escaped, wherever it stands; nothing is loaded and no script runs. Writes no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from html import escape
from importlib.resources import files

from lc_service import clock
from lc_service.accounting.record import AttemptStatus
from lc_service.accounting.report import wording
from lc_service.accounting.report.chart import stacked_bars
from lc_service.accounting.report.table import Lines, Table, key_in_words, make_table
from lc_service.accounting.report.timeline import Timeline, make_timeline
from lc_service.accounting.usage_line import CACHED, UsageLine, total_of

_MAX_CELL_ROWS, _MAX_PAGE_ROWS = 20, 1_000
_HEADINGS = {"model": "Models", "day": "Days", "operation": "Operations", "status": "Outcomes", "tag": "Tags"}


def html_fragment(lines: Lines) -> str:
    """Return the table by model that notebooks show. No colours of its own: it suits light and dark."""
    if not lines:
        return "<p>No calls.</p>"
    table = make_table(lines, max_rows=_MAX_CELL_ROWS)
    left = ' style="text-align: left; padding: .2em .6em"'
    right = ' style="text-align: right; padding: .2em .6em; white-space: nowrap"'

    def row(name: str, texts: Iterable[str], tag: str) -> str:
        cells = "".join(f"<{tag}{right}>{escape(text)}</{tag}>" for text in texts)
        return f"<tr><{tag}{left}>{escape(name)}</{tag}>{cells}</tr>"

    def figures(line: UsageLine) -> list[str]:
        return [column.text(line) for column in table.columns]

    head = row("Model", (column.title for column in table.columns), "th")
    rows = "".join(row(names[0], figures(line), "td") for names, line in table.written())
    foot = f"<tfoot>{row('Total', figures(table.total), 'th')}</tfoot>" if len(table.rows) > 1 else ""
    notes = "<br>".join(map(escape, table.doubts))
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody>{foot}</table>" + (
        f'<p style="opacity: .75; margin: .5em 0 0">{notes}</p>' if notes else ""
    )


def html_report(lines: Lines, by: Sequence[str] = (), title: str = "Usage") -> str:
    """Return a whole HTML page: figures, doubts, charts, tables.

    Args:
        lines: The sums, such as `UsageReport.lines`.
        by: Keys as `UsageReport.group_by` takes them, nested in a single table; without any, there is a table
            for each key that has more than one value.
        title: Its heading.

    Raises:
        ValueError: A key is none.
    """
    tables = [make_table(lines, by, max_rows=_MAX_PAGE_ROWS)] if by else _tables(lines)
    total = total_of(lines.values())
    made = f"{datetime.fromtimestamp(clock.wall(), UTC):%Y-%m-%d %H:%M} UTC"
    body = [f"<header><h1>{escape(title)}</h1><p>{escape(_period(lines))}</p></header>"]
    if lines:
        body += [_cards(lines, total), _doubts(total), _charts(make_timeline(lines)), *map(_section, tables)]
    body.append(
        f"<footer>Made on {made} by lc-service. Costs are list prices, or prices of your own; an invoice may "
        "differ. Days and times are UTC.</footer>"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n</body>\n</html>\n"
    )


@cache
def _style() -> str:
    return files(__package__).joinpath("style.css").read_text(encoding="utf-8")


def _tables(lines: Lines) -> list[Table]:
    tables = [make_table(lines, [key], max_rows=_MAX_PAGE_ROWS) for key in _HEADINGS]
    return [table for table in tables if len(table.rows) > 1 or table.by == ("model",)]


def _period(lines: Lines) -> str:
    if not lines:
        return "No calls."
    first, last = (pick(key.at for key in lines) for pick in (min, max))
    if first.date() == last.date():
        return (
            f"{first:%Y-%m-%d}, {first:%H:%M} to {last:%H:%M} UTC"
            if first != last
            else f"{first:%Y-%m-%d %H:%M} UTC"
        )
    return f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"


def _cards(lines: Lines, total: UsageLine) -> str:
    usage = total.usage
    cached = sum(line.calls for key, line in lines.items() if key.status == CACHED)
    failed = sum(line.attempts for key, line in lines.items() if key.status == AttemptStatus.FAILED)
    is_part = total.unpriced and total.cost_usd
    cards = [
        ("Cost, at least" if is_part else "Cost", wording.cost(total).removeprefix("≥ "), ""),
        (
            "Tokens, at least" if total.unknown else "Tokens",
            f"{usage.total_tokens:,}",
            f"{usage.input_tokens:,} in, {usage.output_tokens:,} out",
        ),
        ("Calls", f"{total.calls:,}", f"{cached:,} answered by the cache" if cached else ""),
        ("Attempts", f"{total.attempts:,}", f"{failed:,} failed" if failed else ""),
    ]
    return '<dl class="cards">{}</dl>'.format(
        "".join(
            f"<div><dt>{name}</dt><dd>{escape(figure)}</dd>{f'<dd>{escape(more)}</dd>' if more else ''}</div>"
            for name, figure, more in cards
        )
    )


def _doubts(total: UsageLine) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in wording.doubts(total))
    return f'<ul class="doubts">{items}</ul>' if items else ""


def _charts(timeline: Timeline) -> str:
    drawn = []
    for title, values, write, mark in (
        (timeline.cost_title, timeline.cost_usd, wording.usd, wording.usd_mark),
        (timeline.tokens_title, timeline.tokens, "{:,}".format, wording.compact),
    ):
        if any(map(any, values)):
            drawn.append(f"<h2>{title}</h2>{stacked_bars(timeline, values, title, write, mark)}")
    if not drawn:
        return ""
    legend = "".join(
        f'<li><i class="c{place}"></i>{escape(model)}</li>' for place, model in enumerate(timeline.models)
    )
    return f'<section>{"".join(drawn)}<ul class="legend">{legend}</ul></section>'


def _cell(title: str, text: str) -> str:
    kind = ' class="cost"' if title == "Cost" else ' class="zero"' if text == "0" else ""
    return f'<td{kind} data-label="{escape(title)}">{escape(text)}</td>'


def _section(table: Table) -> str:
    columns = table.columns
    heading = _HEADINGS.get(table.by[0], "") if len(table.by) == 1 else ""
    heading = heading or "By " + ", ".join(key_in_words(key) for key in table.by)

    def row(names: Sequence[str], line: UsageLine) -> str:
        return (
            "<tr>"
            + "".join(f'<th class="name" scope="row">{escape(name)}</th>' for name in names)
            + "".join(_cell(column.title, column.text(line)) for column in columns)
            + "</tr>"
        )

    head = "".join(f'<th class="name">{escape(key_in_words(key))}</th>' for key in table.by)
    head += "".join(f"<th>{escape(column.title)}</th>" for column in columns)
    foot = row(["Total", *("" for _ in table.by[1:])], table.total) if len(table.rows) > 1 else ""
    note = ""
    if "tag" in table.by and total_of(row.line for row in table.rows).attempts > table.total.attempts:
        note = '<p class="none">What has several tags is in the row of each.</p>'
    return (
        f'<section><h2>{escape(heading)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead><tbody>'
        + "".join(row(names, line) for names, line in table.written())
        + f"</tbody>{foot and f'<tfoot>{foot}</tfoot>'}</table></div>{note}</section>"
    )
