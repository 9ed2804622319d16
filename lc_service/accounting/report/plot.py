"""Usage as a matplotlib figure. Needs matplotlib, and is imported by who asks for a plot.

Invariant: pyplot is not touched, so no figure stays open and no setting changes. Shows and saves nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from lc_service.accounting.report import wording
from lc_service.accounting.report.table import Lines
from lc_service.accounting.report.timeline import Timeline, make_timeline

try:
    from matplotlib.axes import Axes
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator
except ImportError as error:
    raise ImportError("plot() needs matplotlib: pip install matplotlib, or lc-service[notebook].") from error

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#a463f2", "#97a1ad")
_MIN_SLOTS = 8  # a single bar is not as wide as the plot
_LEGEND_LETTERS = 100  # as many stand beside each other
_MAX_NAME_LETTERS = 60


class UsageFigure(Figure):
    """A figure that notebooks show although pyplot knows nothing of it."""

    def _repr_png_(self) -> bytes:
        image = io.BytesIO()
        self.savefig(image, format="png", bbox_inches="tight")
        return image.getvalue()


def make_figure(lines: Lines) -> UsageFigure:
    """Draw cost above tokens, over time, stacked by model. Belongs to the caller; no window opens."""
    timeline = make_timeline(lines)
    figure = UsageFigure(figsize=(9, 5.5), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _draw(above, timeline, timeline.cost_usd, timeline.cost_title, wording.usd_mark)
    _draw(below, timeline, timeline.tokens, timeline.tokens_title, wording.compact)
    if timeline.starts:
        _fit_dates(below, timeline)
        bars, names = above.get_legend_handles_labels()
        columns = max(1, min(3, _LEGEND_LETTERS // max(map(len, names))))
        figure.legend(bars, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    else:
        below.set_xticks([])
    return figure


def _draw(
    axes: Axes,
    timeline: Timeline,
    values: Sequence[Sequence[Decimal | int]],
    title: str,
    text: Callable[[Decimal], str],
) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(Decimal(repr(float(value))))))
    if not any(map(any, values)):
        said = "None." if timeline.starts else "No calls."
        axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", va="center", alpha=0.6)
        axes.set_yticks([])
    width = timeline.width / timedelta(days=1)
    starts = [_days(start) + width / 2 for start in timeline.starts]
    bottom = [0.0] * len(starts)
    for place, (model, heights) in enumerate(zip(timeline.models, values, strict=True)):
        bars = [float(height) for height in heights]
        # a name that begins with an underscore would be kept out of the legend, and $ begins a formula
        label = _literal(model)
        axes.bar(starts, bars, width * 0.8, bottom, color=COLOURS[place], label=label)
        bottom = [low + high for low, high in zip(bottom, bars, strict=True)]
    # by itself the axis ends at the highest bar where a bar of nothing stands on it
    axes.set_ylim(0, max(bottom, default=0.0) * 1.08 or 1.0)


def _days(at: datetime) -> float:
    """Return a place on a date axis; matplotlib counts days."""
    return float(date2num(at))  # type: ignore[no-untyped-call]  # as all of matplotlib.dates


def _literal(name: str) -> str:
    if len(name) > _MAX_NAME_LETTERS:
        name = name[: _MAX_NAME_LETTERS - 1] + "…"
    shown = "".join(letter if letter.isprintable() else "�" for letter in name).replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


def _fit_dates(axes: Axes, timeline: Timeline) -> None:
    width = timeline.width / timedelta(days=1)
    first, last = (_days(timeline.starts[place]) for place in (0, -1))
    spare = max(0.0, width * (_MIN_SLOTS - len(timeline.starts))) / 2
    axes.set_xlim(first - spare, last + width + spare)
    if len(timeline.starts) <= _MIN_SLOTS:
        axes.set_xticks(
            [_days(start) + width / 2 for start in timeline.starts],
            [timeline.label(start) for start in timeline.starts],
        )
    else:
        locator = AutoDateLocator(maxticks=8)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
