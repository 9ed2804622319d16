"""Charts as SVG: well-formed, in scale, with every name escaped."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from xml.etree import ElementTree as ET

import pytest

from lc_service.accounting.report.chart import stacked_bars
from lc_service.accounting.report.timeline import make_timeline
from lc_service.accounting.usage_line import LineKey, UsageLine

MakeKey = Callable[..., LineKey]
MakeLine = Callable[..., UsageLine]


def drawn(lines: dict[LineKey, UsageLine]) -> tuple[list[ET.Element], list[ET.Element]]:
    """Return the scale's texts and all that the chart is made of."""
    timeline = make_timeline(lines)
    chart = ET.fromstring(stacked_bars(timeline, timeline.tokens, "Tokens", str, str))  # noqa: S314  ours
    scale, bars = chart.findall("svg")
    assert (scale.attrib["aria-hidden"], bars.attrib["aria-label"]) == ("true", "Tokens")
    return list(scale), list(bars)


def test_bars_are_in_scale_and_stand_on_each_other(
    key: MakeKey, line: MakeLine, at: datetime, hostile_name: str
) -> None:
    _, parts = drawn(
        {key(hostile_name): line(30, "9"), key("b"): line(9), key("c", at + timedelta(minutes=2)): line(0)}
    )
    bars = [part for part in parts if part.tag == "rect"]
    assert [bar.findtext("title") for bar in bars] == [
        f"10:30 · {hostile_name}: 31", "10:30 · b: 10", "10:32 · c: 1",
    ]  # fmt: skip
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert heights == pytest.approx([31 * heights[2], 10 * heights[2], heights[2]], abs=0.2)
    tops = [float(bar.attrib["y"]) for bar in bars]
    assert tops[1] + heights[1] == pytest.approx(tops[0])
    assert bars[0].attrib["x"] == bars[1].attrib["x"] != bars[2].attrib["x"]


def test_the_scale_is_wide_enough_for_its_amounts(key: MakeKey, line: MakeLine) -> None:
    texts, _ = drawn({key(): line(29)})
    assert [text.text for text in texts] == ["3E+1", "15", "0"]
    assert all(float(text.attrib["x"]) > 0 for text in texts)


@pytest.mark.parametrize(("bars", "labels"), [(1, 1), (2, 2), (3, 2), (9, 3), (40, 3)])
def test_no_more_dates_are_written_than_fit_a_phone(
    key: MakeKey, line: MakeLine, at: datetime, bars: int, labels: int
) -> None:
    _, parts = drawn({key(at=at + timedelta(minutes=number)): line() for number in range(bars)})
    assert sum(part.tag == "rect" for part in parts) == bars
    assert sum(part.tag == "text" for part in parts) == labels
    for part in parts:
        if part.tag == "rect":
            assert 0 <= float(part.attrib["x"].removesuffix("%")) <= 100
