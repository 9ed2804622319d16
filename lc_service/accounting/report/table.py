"""Usage as a table: what its rows and columns are, and the table as text.

Invariant: the total is that of the lines, not of the rows, which overlap where they are tags. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lc_service.accounting.report import wording
from lc_service.accounting.usage_line import LineKey, UsageLine, split, total_of

Lines = Mapping[LineKey, UsageLine]


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a row.

    Attributes:
        title: What stands above it.
        text: Writes the figure.
        is_shown: Whether a table with this total needs the column.
    """

    title: str
    text: Callable[[UsageLine], str]
    is_shown: Callable[[UsageLine], bool] = lambda _: True


COLUMNS = (
    Column("Calls", lambda line: f"{line.calls:,}"),
    Column("Attempts", lambda line: f"{line.attempts:,}"),
    Column("Estimated", lambda line: f"{line.estimated:,}", lambda total: bool(total.estimated)),
    Column("Unknown", lambda line: f"{line.unknown:,}", lambda total: bool(total.unknown)),
    Column("Input", lambda line: f"{line.usage.input_tokens:,}"),
    Column(
        "Cached",
        lambda line: f"{line.usage.cached_input_tokens:,}",
        lambda total: bool(total.usage.cached_input_tokens),
    ),
    Column("Output", lambda line: f"{line.usage.output_tokens:,}"),
    Column(
        "Reasoning",
        lambda line: f"{line.usage.reasoning_tokens:,}",
        lambda total: bool(total.usage.reasoning_tokens),
    ),
    Column("Cost", wording.cost),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what it is about, a name for each key of the table, and its sums."""

    names: tuple[str, ...]
    line: UsageLine


@dataclass(frozen=True, slots=True)
class Table:
    """Usage by one or more keys.

    Attributes:
        by: The keys, as `UsageReport.group_by` takes them.
        rows: Days in their order, everything else from the dearest down.
        rest: The sum of the rows that were left out, or None.
        left_out: How many they were.
        total: The sum of everything.
    """

    by: tuple[str, ...]
    rows: tuple[Row, ...]
    total: UsageLine
    rest: UsageLine | None = None
    left_out: int = 0

    @property
    def columns(self) -> list[Column]:
        """The columns that have anything to say."""
        return [column for column in COLUMNS if column.is_shown(self.total)]

    @property
    def doubts(self) -> list[str]:
        """Why the total may not be the whole truth, in sentences."""
        return wording.doubts(self.total)

    def written(self) -> Iterator[tuple[tuple[str, ...], UsageLine]]:
        """Yield the rows with their names as people read them, what was left out, but not the total."""
        for row in self.rows:
            yield tuple(map(name_in_words, self.by, row.names)), row.line
        if self.rest is not None:
            yield (f"{self.left_out:,} more", *("" for _ in self.by[1:])), self.rest


def make_table(lines: Lines, by: Sequence[str] = ("model",), *, max_rows: int | None = None) -> Table:
    """Make a table of lines.

    Args:
        lines: The sums, such as `UsageReport.lines`.
        by: Keys as `UsageReport.group_by` takes them. Several nest: a row for each combination that occurs.
        max_rows: Add up the rows beyond so many as one.

    Raises:
        ValueError: A key is none.
    """
    rows = tuple(_rows(lines, tuple(by), ()))
    total = total_of(lines.values())
    if max_rows is None or len(rows) <= max_rows:
        return Table(tuple(by), rows, total)
    rest = total_of(row.line for row in rows[max_rows:])
    return Table(tuple(by), rows[:max_rows], total, rest, len(rows) - max_rows)


def _rows(lines: Lines, by: tuple[str, ...], names: tuple[str, ...]) -> Iterator[Row]:
    if not by:
        yield Row(names, total_of(lines.values()))
        return
    groups = split(lines, by[0])
    sums = {name: total_of(group.values()) for name, group in groups.items()}
    for name in sorted(sums, key=lambda name: (() if by[0] == "day" else _rank(sums[name]), name)):
        yield from _rows(groups[name], by[1:], (*names, name))


def _rank(line: UsageLine) -> tuple[object, ...]:
    return -line.cost_usd, -line.usage.total_tokens, -line.attempts, -line.calls


def key_in_words(key: str) -> str:
    """Return the title of a key's column: `"Model"`; a metadata key's own name."""
    return key.removeprefix("metadata:") if key.startswith("metadata:") else key.capitalize()


def name_in_words(key: str, name: str) -> str:
    """Return a group's name as people read it: the group of what has no tag has no name."""
    return name or f"(no {key.removeprefix('metadata:')})"


def text_of(table: Table) -> str:
    """Write a table as aligned text, with its total and its doubts; several lines, no newline at the end."""
    columns = table.columns
    cells = [[*map(key_in_words, table.by), *(column.title for column in columns)]]
    for names, line in (*table.written(), (("Total", *("" for _ in table.by[1:])), table.total)):
        cells.append([*map(_one_line, names), *(column.text(line) for column in columns)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    names_count = len(table.by)
    written = [
        "  ".join(
            cell.ljust(width) if place < names_count else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    rule = "─" * max(map(len, written))
    return "\n".join([written[0], rule, *written[1:-1], rule, written[-1], *table.doubts])


def _one_line(name: str) -> str:
    return "".join(letter if letter.isprintable() else "�" for letter in name)
