"""Plots: the bars are the report's numbers, any report can be drawn, and pyplot never hears of it."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from lc_service.accounting.report.plot import make_figure
from lc_service.accounting.usage import TokenUsage
from lc_service.accounting.usage_line import LineKey, UsageLine

MakeKey = Callable[..., LineKey]
MakeLine = Callable[..., UsageLine]
Lines = dict[LineKey, UsageLine]


@pytest.fixture
def one_bar(key: MakeKey, line: MakeLine) -> Lines:
    return {key(): line()}


@pytest.fixture
def nothing_used(key: MakeKey, line: MakeLine) -> Lines:
    return {key(): line(0, "0", usage=TokenUsage())}


@pytest.fixture
def many_models(key: MakeKey, line: MakeLine, at: datetime) -> Lines:
    return {key(f"{'m' * 30}{number}", at + timedelta(hours=number)): line() for number in range(30)}


@pytest.fixture(
    params=["", "lines", "partial_lines", "hostile_lines", "one_bar", "nothing_used", "many_models"]
)
def any_lines(request: pytest.FixtureRequest) -> Lines:
    return request.getfixturevalue(request.param) if request.param else {}


def test_a_plot_can_be_drawn_and_pyplot_knows_nothing_of_it(any_lines: Lines) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    settings = dict(mpl.rcParams)
    figure = make_figure(any_lines)
    assert figure._repr_png_().startswith(b"\x89PNG")
    figure.savefig(io.BytesIO(), format="svg")
    assert len(figure.axes) == 2
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings


def test_a_plot_goes_when_nobody_holds_it(lines: Lines) -> None:
    figure = make_figure(lines)
    figure._repr_png_()
    gone = weakref.ref(figure)
    del figure
    gc.collect()
    assert gone() is None


def test_a_plot_stacks_cost_and_tokens_by_model(lines: Lines) -> None:
    above, below = make_figure(lines).axes
    assert above.get_title(loc="left") == "Cost per hour"
    assert sum(bar.get_height() for bar in above.patches) == pytest.approx(2.012)
    assert sum(bar.get_height() for bar in below.patches) == 1_013
    assert above.get_legend_handles_labels()[1] == ["dear", "cheap"]
    assert above.get_ylim() == pytest.approx((0, 2.012 * 1.08))


def test_a_single_moment_is_one_bar_that_is_no_wall(key: MakeKey, line: MakeLine) -> None:
    above, below = make_figure({key(): line()}).axes
    (bar,) = above.patches
    left, right = above.get_xlim()
    assert bar.get_width() < (right - left) / 8
    assert left < bar.get_x() < right - bar.get_width()
    assert [label.get_text() for label in below.get_xticklabels()] == ["10:30"]


def test_a_plot_says_what_is_not_known(partial_lines: Lines, key: MakeKey, line: MakeLine) -> None:
    assert [axes.get_title(loc="left") for axes in make_figure(partial_lines).axes] == [
        "Known cost per minute", "Known tokens per minute",
    ]  # fmt: skip
    above, _ = make_figure({key(): line(usd="0", unpriced=1)}).axes
    assert [text.get_text() for text in above.texts] == ["None."]
    assert [text.get_text() for axes in make_figure({}).axes for text in axes.texts] == ["No calls."] * 2


def test_long_names_are_cut_and_stand_below_each_other(key: MakeKey, line: MakeLine) -> None:
    figure = make_figure({key(letter * 200): line() for letter in "abcd"})
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [letter * 59 + "…" for letter in "abcd"]
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
