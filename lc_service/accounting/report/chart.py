"""Stacked bars as inline SVG that fits any width without shrinking its text.

Places across are percentages, heights are pixels, colours are CSS variables of the page. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from html import escape

from lc_service.accounting.report.timeline import Timeline, round_up

_TOP, _HEIGHT, _BOTTOM = 8, 150, 22
_LETTER, _GAP = 7.5, 8
_MIN_SLOTS = 8  # a single bar is not as wide as the page


Values = Sequence[Sequence[Decimal | int]]
Write = Callable[[Decimal], str]


def stacked_bars(timeline: Timeline, values: Values, title: str, write: Write, mark: Write) -> str:
    """Draw one chart.

    Args:
        timeline: What its bars stand for; not empty.
        values: For each model of the timeline, the height of each bar.
        title: What the heights are, for those who cannot see it.
        write: Writes a height exactly.
        mark: Writes a height of the scale.
    """
    top = round_up(max(sum(map(Decimal, column), Decimal()) for column in zip(*values, strict=True)))
    slots = max(len(timeline.starts), _MIN_SLOTS)
    drawn = [f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>' for y, _ in _marks(top)]
    for number, start in enumerate(timeline.starts):
        left = 100 * (number + (slots - len(timeline.starts)) / 2) / slots
        across = f'x="{left + 10 / slots:.3f}%" width="{80 / slots:.3f}%"'
        parts = [
            (model, Decimal(heights[number])) for model, heights in zip(timeline.models, values, strict=True)
        ]
        drawn.append(_bar(parts, top, across, timeline.label(start), write))
    height = _TOP + _HEIGHT + _BOTTOM
    return (
        f'<div class="chart">{_scale(top, mark, height)}'
        f'<svg role="img" aria-label="{escape(title)}" width="100%" height="{height}">'
        f"{''.join(drawn)}{_dates(timeline, slots)}</svg></div>"
    )


def _marks(top: Decimal) -> list[tuple[int, Decimal]]:
    return [(_TOP, top), (_TOP + _HEIGHT // 2, top / 2), (_TOP + _HEIGHT, Decimal())]


def _scale(top: Decimal, write: Write, height: int) -> str:
    """Draw the scale by itself: within the chart, its width in pixels would not go with percentages."""
    marks = [(y, write(value)) for y, value in _marks(top)]
    width = round(_LETTER * max(len(text) for _, text in marks)) + _GAP
    texts = (
        f'<text x="{width - _GAP}" y="{y + 4}" text-anchor="end">{escape(text)}</text>' for y, text in marks
    )
    return f'<svg aria-hidden="true" width="{width}" height="{height}">{"".join(texts)}</svg>'


def _bar(parts: Sequence[tuple[str, Decimal]], top: Decimal, across: str, when: str, write: Write) -> str:
    drawn, y = [], float(_TOP + _HEIGHT)
    for place, (model, value) in enumerate(parts):
        if value:
            height = float(value / top) * _HEIGHT
            y -= height
            drawn.append(
                f'<rect class="c{place}" {across} y="{y:.2f}" height="{height:.2f}">'
                f"<title>{escape(f'{when} · {model}: {write(value)}')}</title></rect>"
            )
    return "".join(drawn)


def _dates(timeline: Timeline, slots: int) -> str:
    """Write when the first, the middle and the last bar begin: three labels fit on a phone."""
    count = len(timeline.starts)
    shown = {0: "start", count - 1: "end"} if count > 2 else dict.fromkeys(range(count), "middle")
    if count >= 9:
        shown[count // 2] = "middle"
    y = _TOP + _HEIGHT + 16
    labels = []
    for number, anchor in sorted(shown.items()):
        offset = {"start": 0.1, "middle": 0.5, "end": 0.9}[anchor]
        x = 100 * (number + offset + (slots - count) / 2) / slots
        label = timeline.label(timeline.starts[number])
        labels.append(f'<text x="{x:.3f}%" y="{y}" text-anchor="{anchor}">{escape(label)}</text>')
    return "".join(labels)
