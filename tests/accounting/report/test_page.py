"""HTML: the numbers are the report's, names stay text, nothing is loaded, what is not known is said."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from lc_service.accounting.report.page import html_fragment, html_report
from lc_service.accounting.report.table import make_table
from lc_service.accounting.usage import TokenUsage
from lc_service.accounting.usage_line import LineKey, UsageLine
from lc_service.accounting.usage_report import UsageReport

MakeKey = Callable[..., LineKey]
MakeLine = Callable[..., UsageLine]
Lines = dict[LineKey, UsageLine]


class Page(HTMLParser):
    """What a browser would make of a page: tags that close, attributes, text, rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.mark.parametrize(
    "by", [["model"], ["tag", "model"], ["day"], ["metadata:user", "status", "operation"]]
)
@pytest.mark.parametrize("which", ["lines", "partial_lines", "hostile_lines"])
def test_every_number_is_that_of_the_table(by: list[str], which: str, request: pytest.FixtureRequest) -> None:
    lines: Lines = request.getfixturevalue(which)
    table = make_table(lines, by)
    figures = [[column.text(line) for column in table.columns] for _, line in table.written()]
    if len(figures) > 1:
        figures.append([column.text(table.total) for column in table.columns])
    assert [row[len(by) :] for row in Page(html_report(lines, by)).rows[1:]] == figures
    if by == ["model"]:
        assert [row[1:] for row in Page(html_fragment(lines)).rows[1:]] == figures


@pytest.mark.parametrize("by", [[], ["model", "tag", "metadata"], ["tag"]])
def test_names_are_text_wherever_they_stand(
    by: Sequence[str], hostile_lines: Lines, hostile_name: str
) -> None:
    keys = [f"metadata:{hostile_name}" if key == "metadata" else key for key in by]
    for text in (html_report(hostile_lines, keys, title=hostile_name), html_fragment(hostile_lines)):
        page = Page(text)
        assert not {"script", "b"} & set(page.tags)
        assert hostile_name in page.text
        assert "<script" not in text
        assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_a_page_needs_nothing_but_itself(lines: Lines) -> None:
    text = html_report(lines)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset"}
    assert not re.search(r"url\(|@import|https?://", text)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert ("name", "viewport") in page.attributes
    assert page.tags.count("svg") == 4


def test_its_style_is_a_file_of_the_package(lines: Lines) -> None:
    style = files("lc_service.accounting.report").joinpath("style.css").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in style
    assert f"<style>\n{style}</style>" in html_report(lines)


def test_a_page_says_plainly_what_is_not_known(partial_lines: Lines, lines: Lines) -> None:
    text = Page(html_report(partial_lines)).text
    assert "Cost, at least$3.00" in text
    assert "Tokens, at least33" in text
    assert "Known cost per minute" in text
    assert "the cost is at least $3.00" in text
    assert "1 of 5 attempts may have been billed" in text
    assert "The usage of 1 of 5 attempts is estimated" in text
    assert "≥ $3.00" in text
    assert not re.search("at least|Known|≥", Page(html_report(lines)).text)


def test_a_cost_of_which_nothing_is_known_has_no_bars(key: MakeKey, line: MakeLine) -> None:
    page = Page(html_report({key(): line(usd="0", unpriced=1)}))
    assert "Costunknown" in page.text
    assert re.findall("Known cost|Tokens per minute", page.text) == ["Tokens per minute"]


def test_calls_that_all_failed_for_nothing_have_a_table_and_no_bars(key: MakeKey, line: MakeLine) -> None:
    lines = {key(status="failed"): line(usd="0", usage=TokenUsage())}
    page = Page(html_report(lines))
    assert "svg" not in page.tags
    assert "1 failed" in page.text
    assert page.rows[1][0] == "m"


def test_a_page_has_a_table_for_each_key_that_tells_anything_apart(lines: Lines) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", html_report(lines)) == [
        "Cost per hour", "Tokens per hour", "Models", "Days", "Outcomes", "Tags",
    ]  # fmt: skip
    assert re.findall(r"<h2>(By .*?)</h2>", html_report(lines, ["model", "metadata:user"])) == [
        "By Model, user"
    ]


def test_a_page_tells_of_the_cache_and_of_failures(lines: Lines) -> None:
    report = UsageReport(lines)
    report.add_cached(model="cheap")
    text = Page(html_report(report.lines)).text
    assert "1 answered by the cache" in text
    assert "1 failed" in text
    assert "What has several tags is in the row of each." in text


def test_an_empty_page_and_an_empty_cell_say_so() -> None:
    page = Page(html_report({}))
    assert "No calls." in page.text
    assert not {"table", "svg"} & set(page.tags)
    assert Page(html_fragment({})).text == "No calls."


def test_a_cell_is_small_and_has_no_colours_of_its_own(key: MakeKey, line: MakeLine) -> None:
    text = html_fragment({key(f"m{number}"): line() for number in range(200)})
    assert "180 more" in text
    assert not re.search("color|background|<style", text)
    assert len(text) < 20_000


def test_a_large_page_stays_readable(key: MakeKey, line: MakeLine) -> None:
    text = html_report({key(f"m{number}"): line() for number in range(5_000)})
    assert "4,000 more" in text
    assert len(text) < 1_000_000
