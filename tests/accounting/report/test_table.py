"""Tables: which rows there are, in which order, that nothing is left out unsaid, and how text is laid out."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.accounting.report import make_table
from lc_service.accounting.report.table import text_of
from lc_service.accounting.usage_line import LineKey, UsageLine, total_of

MakeKey = Callable[..., LineKey]
MakeLine = Callable[..., UsageLine]
Lines = dict[LineKey, UsageLine]


def test_rows_go_from_the_dearest_down_and_days_in_their_order(lines: Lines) -> None:
    assert [row.names for row in make_table(lines).rows] == [("dear",), ("cheap",)]
    assert [row.names for row in make_table(lines, ["day"]).rows] == [("2026-11-01",), ("2026-11-02",)]


def test_several_keys_nest(lines: Lines) -> None:
    table = make_table(lines, ["tag", "model"])
    assert [row.names for row in table.rows] == [("t", "dear"), ("t", "cheap"), ("u", "dear"), ("", "cheap")]
    assert table.total == total_of(lines.values())  # a call with two tags is one call


@given(
    st.lists(
        st.tuples(*(st.sampled_from("abc") for _ in range(3)), st.integers(0, 99), st.integers(0, 1)),
        unique_by=lambda row: row[:3],
    ),
    st.permutations(["model", "operation", "status", "day"]),
    st.integers(1, 5),
)
def test_rows_and_what_is_left_out_are_the_whole(
    key: MakeKey, line: MakeLine, rows: list[tuple[str, str, str, int, int]], by: list[str], max_rows: int
) -> None:
    lines = {
        key(model, operation=operation, status=status): line(
            count, str(count), estimated=doubt, unpriced=doubt
        )
        for model, operation, status, count, doubt in rows
    }
    table = make_table(lines, by, max_rows=max_rows)
    assert total_of(written for _, written in table.written()) == table.total == total_of(lines.values())
    assert len(table.rows) + table.left_out == len(lines)
    assert len(table.rows) <= max_rows


def test_what_is_left_out_is_added_up(key: MakeKey, line: MakeLine) -> None:
    table = make_table({key(f"m{number}"): line(usd=str(number)) for number in range(10)}, max_rows=3)
    assert [row.names[0] for row in table.rows] == ["m9", "m8", "m7"]
    assert (table.left_out, table.rest and table.rest.cost_usd) == (7, 21)
    assert "7 more" in text_of(table)


def test_an_unknown_key_is_a_value_error(lines: Lines) -> None:
    with pytest.raises(ValueError, match="metadata:KEY; not by 'colour'"):
        make_table(lines, ["colour"])


def test_text_is_aligned_and_has_the_columns_it_needs(lines: Lines, partial_lines: Lines) -> None:
    assert text_of(make_table(lines)).splitlines() == [
        "Model  Calls  Attempts  Input  Output     Cost",
        "──────────────────────────────────────────────",
        "dear       1         1     10       1    $2.00",
        "cheap      2         2  1,000       2  $0.0120",
        "──────────────────────────────────────────────",
        "Total      3         3  1,010       3    $2.01",
    ]
    text = text_of(make_table(partial_lines))
    assert re.search(r"Estimated +Unknown", text)
    assert re.search(r"^guessed +1 +2 +1 +0 +10 +1 +\$1\.00$", text, re.MULTILINE)
    assert "≥ $3.00" in text
    assert text.endswith("at least $3.00.")


def test_what_has_no_name_gets_one(lines: Lines) -> None:
    text = text_of(make_table(lines, ["tag", "metadata:user"]))
    assert text.startswith("Tag       user ")
    assert re.search(r"^\(no tag\)  \(no user\) ", text, re.MULTILINE)


def test_a_name_cannot_draw_on_the_terminal(key: MakeKey, line: MakeLine) -> None:
    text = text_of(make_table({key("a\x1b[2J\nb\u202e"): line()}))
    assert "a�[2J�b�" in text
    assert len(text.splitlines()) == 5
