"""Bars over time: few, of round spans, without gaps, and together the whole."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.accounting.report.timeline import MAX_BARS, MAX_MODELS, make_timeline, round_up
from lc_service.accounting.usage_line import LineKey, UsageLine, total_of

MakeKey = Callable[..., LineKey]
MakeLine = Callable[..., UsageLine]
Lines = dict[LineKey, UsageLine]


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
def test_bars_are_few_and_stand_for_round_spans(
    key: MakeKey, line: MakeLine, at: datetime, span: timedelta, per: str
) -> None:
    timeline = make_timeline({key(): line(), key(at=at + span): line()})
    assert timeline.per == per
    assert 1 <= len(timeline.starts) <= MAX_BARS


def test_times_that_were_kept_to_the_day_make_bars_of_days(
    key: MakeKey, line: MakeLine, at: datetime
) -> None:
    midnight = at.replace(hour=0, minute=0)
    lines = {key(at=midnight): line(), key(at=midnight + timedelta(days=1)): line()}
    assert make_timeline(lines).per == "per day"


def test_what_is_not_all_is_called_known(lines: Lines, partial_lines: Lines) -> None:
    timeline = make_timeline(lines)
    assert (timeline.cost_title, timeline.tokens_title) == ("Cost per hour", "Tokens per hour")
    timeline = make_timeline(partial_lines)
    assert (timeline.cost_title, timeline.tokens_title) == (
        "Known cost per minute", "Known tokens per minute",
    )  # fmt: skip


times = st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1)).map(  # noqa: DTZ001  hypothesis wants them naive
    lambda at: at.replace(second=0, microsecond=0, tzinfo=UTC)
)
models = st.sampled_from([f"m{number}" for number in range(9)])


@given(
    st.lists(
        st.tuples(models, times, st.integers(0, 99), st.sampled_from(["0", "0.1", "7"])),
        unique_by=lambda row: row[:2],
    )
)
def test_all_bars_together_are_all_of_the_usage(
    key: MakeKey, line: MakeLine, rows: list[tuple[str, datetime, int, str]]
) -> None:
    lines = {key(model, at): line(tokens, usd) for model, at, tokens, usd in rows}
    timeline, total = make_timeline(lines), total_of(lines.values())
    assert timeline.total == total
    assert len(timeline.models) == min(MAX_MODELS, len({model for model, *_ in rows}))
    assert sum(map(sum, timeline.tokens)) == total.usage.total_tokens
    assert sum((sum(row, Decimal()) for row in timeline.cost_usd), Decimal()) == total.cost_usd
    steps = {later - earlier for earlier, later in zip(timeline.starts, timeline.starts[1:], strict=False)}
    assert steps <= {timeline.width}


@given(st.decimals("1e-9", "1e12", allow_nan=False))
def test_an_axis_has_room_but_not_too_much(most: Decimal) -> None:
    assert most <= round_up(most) <= 2 * most
    assert round_up(-most) == 1
