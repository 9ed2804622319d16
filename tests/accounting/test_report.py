"""Usage as people read it: text, HTML, plots and data frames that say what is not known, and escape names."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.accounting.report import make_table, wording
from lc_service.accounting.report.chart import stacked_bars
from lc_service.accounting.report.table import text_of
from lc_service.accounting.report.timeline import MAX_BARS, MAX_MODELS, make_timeline, round_up
from lc_service.accounting.usage import USAGE_FIELDS, TokenUsage
from lc_service.accounting.usage_line import LineKey, UsageLine
from lc_service.accounting.usage_report import UsageReport

AT = datetime(2026, 11, 1, 10, 30, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'&[bold]$x_\u202e"


def key(model: str = "m", at: datetime = AT, **fields: Any) -> LineKey:
    return LineKey(model, **({"operation": "chat", "status": "ok"} | fields), at=at)


def line(tokens: int = 10, usd: str = "0.5", **fields: Any) -> UsageLine:
    usage = TokenUsage(input_tokens=tokens, output_tokens=1)
    return UsageLine(**({"calls": 1, "attempts": 1, "usage": usage, "cost_usd": Decimal(usd)} | fields))


LINES = {
    key("dear", tags=("t", "u")): line(10, "2"),
    key("cheap", tags=("t",), metadata=(("user", "ann"),)): line(1_000, "0.012"),
    key("cheap", AT + timedelta(days=1), status="failed"): line(0, "0"),
}
PARTIAL = {
    key("dear"): line(usd="2"),
    key("odd"): line(usd="0", unpriced=1),
    key("lost"): UsageLine(calls=1, attempts=1, unknown=1, unpriced=1),
    key("guessed"): line(usd="1", attempts=2, estimated=1),
}


# --- words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0"), ("1234.567", "$1,234.57"), ("1", "$1.00"), ("0.5", "$0.5000"), ("0.0123456", "$0.0123"),
        ("0.00098765", "$0.00099"), ("0.00000015", "$0.00000015"),
    ],
)  # fmt: skip
def test_money_shows_the_digits_that_matter(amount: str, text: str) -> None:
    assert wording.usd(Decimal(amount)) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (950, "950"), (1200, "1.2k"), (34_000_000, "34M")])
def test_large_numbers_are_short(number: int, text: str) -> None:
    assert wording.compact(Decimal(number)) == text


def test_a_scale_has_round_amounts() -> None:
    assert [wording.usd_mark(Decimal(amount)) for amount in ("0.00250", "2E+3", "0.30000000000000004")] == [
        "$0.0025", "$2,000", "$0.3"
    ]  # fmt: skip


def test_a_cost_that_is_not_all_known_never_reads_as_if_it_were() -> None:
    assert wording.cost(line(usd="2")) == "$2.00"
    assert wording.cost(line(usd="2", unpriced=1)) == "≥ $2.00"
    assert wording.cost(line(usd="0", unpriced=1)) == "unknown"
    assert wording.cost_in_words(line(usd="2", unpriced=1)) == "at least $2.00"


def test_doubts_are_told_each_by_its_name() -> None:
    assert wording.doubts(line()) == []
    estimated, unknown, unpriced = make_table(PARTIAL).doubts
    assert estimated.startswith("The usage of 1 of 5 attempts is estimated")
    assert unknown.startswith("1 of 5 attempts may have been billed")
    assert unpriced == "1 of 5 attempts used tokens without a known price: the cost is at least $3.00."
    assert wording.doubts(line(estimated=1))[0].startswith("The usage of the only attempt is")


# --- tables -----------------------------------------------------------------------------------------------


def test_rows_go_from_the_dearest_down_and_days_in_their_order() -> None:
    assert [row.names for row in make_table(LINES).rows] == [("dear",), ("cheap",)]
    assert [row.names for row in make_table(LINES, ["day"]).rows] == [("2026-11-01",), ("2026-11-02",)]


def test_several_keys_nest() -> None:
    table = make_table(LINES, ["tag", "model"])
    assert [row.names for row in table.rows] == [("t", "dear"), ("t", "cheap"), ("u", "dear"), ("", "cheap")]
    assert table.total.cost_usd == Decimal("2.012")  # a call with two tags is one call


def test_what_is_left_out_is_added_up() -> None:
    lines = {key(f"m{number}"): line(usd=str(number)) for number in range(10)}
    table = make_table(lines, max_rows=3)
    assert [row.names[0] for row in table.rows] == ["m9", "m8", "m7"]
    assert (table.left_out, table.rest and table.rest.cost_usd) == (7, 21)
    assert "7 more" in text_of(table)


def test_an_unknown_key_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="metadata:KEY; not by 'colour'"):
        make_table(LINES, ["colour"])


def test_text_is_aligned_and_has_the_columns_it_needs() -> None:
    assert str(UsageReport(LINES)).splitlines() == [
        "Model  Calls  Attempts  Input  Output     Cost",
        "──────────────────────────────────────────────",
        "dear       1         1     10       1    $2.00",
        "cheap      2         2  1,000       2  $0.0120",
        "──────────────────────────────────────────────",
        "Total      3         3  1,010       3    $2.01",
    ]
    text = str(UsageReport(PARTIAL))
    assert re.search(r"Estimated +Unknown", text)
    assert "≥ $3.00" in text
    assert text.endswith("at least $3.00.")


def test_text_of_an_empty_report_is_its_total() -> None:
    assert str(UsageReport()).splitlines()[-1].split() == ["Total", "0", "0", "0", "0", "$0"]


def test_a_name_cannot_draw_on_the_terminal() -> None:
    text = str(UsageReport({key("a\x1b[2J\nb"): line()}))
    assert "a�[2J�b" in text
    assert len(text.splitlines()) == 5


def test_a_terminal_shows_the_table_and_a_log_one_line() -> None:
    from IPython.lib.pretty import pretty

    report = UsageReport(LINES)
    assert pretty(report) == str(report)
    assert "\n" not in repr(report)


# --- time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "per"),
    [
        (timedelta(0), "per minute"), (timedelta(minutes=40), "per minute"),
        (timedelta(hours=2), "per 5 minutes"), (timedelta(hours=40), "per hour"),
        (timedelta(days=6), "per 6 hours"), (timedelta(days=40), "per day"),
        (timedelta(days=300), "per week"), (timedelta(days=3_000), "per 13 weeks"),
        (timedelta(days=300_000), "per 936 weeks"),
    ],
)  # fmt: skip
def test_bars_are_few_and_stand_for_round_spans(span: timedelta, per: str) -> None:
    timeline = make_timeline({key(): line(), key(at=AT + span): line()})
    assert timeline.per == per
    assert 1 <= len(timeline.starts) <= MAX_BARS


def test_times_that_were_kept_to_the_day_make_bars_of_days() -> None:
    midnight = AT.replace(hour=0, minute=0)
    assert (
        make_timeline({key(at=midnight): line(), key(at=midnight + timedelta(days=1)): line()}).per
        == "per day"
    )


times = st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1)).map(  # noqa: DTZ001  hypothesis wants them naive
    lambda at: at.replace(second=0, microsecond=0, tzinfo=UTC)
)


@given(
    st.dictionaries(
        st.builds(key, st.sampled_from([f"m{number}" for number in range(9)]), times),
        st.builds(line, st.integers(0, 99), st.sampled_from(["0", "0.1", "7"])),
    )
)
def test_all_bars_together_are_all_of_the_usage(lines: dict[LineKey, UsageLine]) -> None:
    timeline = make_timeline(lines)
    assert len(timeline.models) <= MAX_MODELS
    assert sum(map(sum, timeline.tokens)) == sum(part.usage.total_tokens for part in lines.values())
    assert sum((sum(row, Decimal()) for row in timeline.cost_usd), Decimal()) == sum(
        (part.cost_usd for part in lines.values()), Decimal()
    )
    steps = {later - earlier for earlier, later in zip(timeline.starts, timeline.starts[1:], strict=False)}
    assert steps <= {timeline.width}


@given(st.decimals("1e-9", "1e12", allow_nan=False))
def test_an_axis_has_room_but_not_too_much(most: Decimal) -> None:
    assert most <= round_up(most) <= 2 * most


def test_a_chart_is_well_formed_and_its_bars_are_in_scale() -> None:
    lines = {key(HOSTILE): line(30), key("b", AT + timedelta(minutes=2)): line(9)}
    timeline = make_timeline(lines)
    svg = ET.fromstring(stacked_bars(timeline, timeline.tokens, "Tokens", str, str))  # noqa: S314  ours
    bars = svg.findall("rect")
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert heights[0] / heights[1] == pytest.approx(31 / 10, abs=0.01)
    assert bars[0].findtext("title") == f"10:30 · {HOSTILE}: 31"


# --- HTML -------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would make of a page: tags that close, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br", "line"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile() -> UsageReport:
    return UsageReport(
        {
            key(HOSTILE, tags=(HOSTILE, "<b>"), metadata=((HOSTILE, HOSTILE),), operation="<i>"): line(),
            key("_b", AT + timedelta(days=1)): line(),
        }
    )


@pytest.mark.parametrize("by", [(), ["model", "tag", f"metadata:{HOSTILE}"], "tag"])
def test_names_are_text_wherever_they_stand(by: str | Sequence[str]) -> None:
    for text in (hostile().to_html(by=by, title=HOSTILE), hostile()._repr_html_()):
        page = Page(text)
        assert not {"script", "b"} & set(page.tags)
        assert HOSTILE in page.text
        assert "<script" not in text
        assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_a_page_needs_nothing_but_itself() -> None:
    text = UsageReport(LINES).to_html()
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset"}
    assert not re.search(r"url\(|@import|https?://", text)
    assert ("name", "viewport") in page.attributes
    assert "prefers-color-scheme: dark" in text
    assert "svg" in page.tags


def test_a_page_says_plainly_what_is_not_known() -> None:
    text = Page(UsageReport(PARTIAL).to_html()).text
    assert "Cost, at least$3.00" in text
    assert "the cost is at least $3.00" in text
    assert "1 of 5 attempts may have been billed" in text
    assert "≥ $3.00" in text
    assert "at least" not in Page(UsageReport(LINES).to_html()).text


def test_a_page_has_a_table_for_each_key_that_tells_anything_apart() -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", UsageReport(LINES).to_html())
    assert headings == ["Cost per hour", "Tokens per hour", "Models", "Days", "Outcomes", "Tags"]
    assert re.findall(r"<h2>(By .*?)</h2>", UsageReport(LINES).to_html(["model", "metadata:user"])) == [
        "By Model, user"
    ]


def test_a_page_tells_of_the_cache_and_of_failures() -> None:
    report = UsageReport(LINES)
    report.add_cached(model="cheap", at=AT)
    text = Page(report.to_html()).text
    assert "1 answered by the cache" in text
    assert "1 failed" in text
    assert "What has several tags is in the row of each." in text


def test_an_empty_page_and_an_empty_cell_say_so() -> None:
    assert "No calls." in Page(UsageReport().to_html()).text
    assert Page(UsageReport()._repr_html_()).text == "No calls."


def test_a_cell_is_small_and_has_no_colours_of_its_own() -> None:
    report = UsageReport({key(f"m{number}"): line() for number in range(200)})
    text = report._repr_html_()
    assert "180 more" in text
    assert not re.search("color|background|<style", text)
    assert len(text) < 20_000


def test_a_large_page_stays_readable_and_quick() -> None:
    report = UsageReport({key(f"m{number}"): line() for number in range(5_000)})
    text = report.to_html()
    assert "4,000 more" in text
    assert len(text) < 1_000_000


# --- plots and frames -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        {}, LINES, {key(): line()}, {key(): line(0, "0", usage=TokenUsage())}, hostile().lines,
        {key(f"m{n}", AT + timedelta(hours=n)): line() for n in range(30)},
    ],
    ids=["empty", "some", "one bar", "nothing used", "hostile", "many"],
)  # fmt: skip
def test_a_plot_can_be_drawn_and_pyplot_knows_nothing_of_it(lines: Any) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    settings = dict(mpl.rcParams)
    figure = UsageReport(lines).plot()
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    figure.savefig(io.BytesIO(), format="svg")
    assert len(figure.axes) == 2
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings


def test_a_plot_stacks_cost_and_tokens_by_model() -> None:
    above, below = UsageReport(LINES).plot().axes
    assert above.get_title(loc="left") == "Cost per hour"
    assert sum(bar.get_height() for bar in above.patches) == pytest.approx(2.012)
    assert sum(bar.get_height() for bar in below.patches) == 1_013
    assert above.get_legend_handles_labels()[1] == ["dear", "cheap"]
    assert above.get_ylim() == pytest.approx((0, 2.012 * 1.08))


def test_a_frame_has_a_row_for_each_line() -> None:
    frame = UsageReport(PARTIAL | LINES).to_pandas()
    assert list(frame.columns) == [
        "at", "model", "operation", "status", "tags", "metadata",
        "calls", "attempts", "estimated", "unknown", "unpriced", *USAGE_FIELDS, "cost_usd", "known_cost_usd",
    ]  # fmt: skip
    assert len(frame) == len(PARTIAL | LINES)
    assert str(frame["at"].dt.tz) == "UTC"
    assert frame["known_cost_usd"].sum() == Decimal("5.012")
    by_model = frame.set_index("model")
    assert by_model.loc["odd", "cost_usd"] is None
    assert frame.groupby("model")["input_tokens"].sum()["cheap"] == 1_000
    assert {"user": "ann"} in frame["metadata"].tolist()


def test_an_empty_frame_has_the_same_columns_of_the_same_types() -> None:
    assert dict(UsageReport().to_pandas().dtypes) == dict(UsageReport(LINES).to_pandas().dtypes)


@pytest.mark.parametrize(("view", "module"), [("plot", "matplotlib"), ("to_pandas", "pandas")])
def test_without_the_library_the_error_says_what_to_install(
    view: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "lc_service.accounting.report.plot", raising=False)
    with pytest.raises(ImportError, match=rf"pip install {module}, or lc-service\[notebook\]"):
        getattr(UsageReport(LINES), view)()


def test_reports_are_imported_without_what_they_are_drawn_with() -> None:
    code = (
        "import sys, lc_service.accounting.usage_report\n"
        "print({'matplotlib', 'pandas', 'IPython', 'sqlalchemy', 'genai_prices'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  ours
    assert done.stdout.strip() == "set()"
