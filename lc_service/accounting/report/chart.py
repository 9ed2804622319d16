"""Stacked bars as inline SVG that fits any width without shrinking its text.

Places across are percentages, heights are pixels, colours are CSS variables of the page. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from html import escape

from lc_service.accounting.report.timeline import Timeline, round_up

_TOP, _HEIGHT, _BOTTOM = 18, 150, 22
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
    drawn = []
    for number, start in enumerate(timeline.starts):
        left = 100 * (number + (slots - len(timeline.starts)) / 2) / slots
        across = f'x="{left + 10 / slots:.3f}%" width="{80 / slots:.3f}%"'
        parts = [
            (model, Decimal(heights[number])) for model, heights in zip(timeline.models, values, strict=True)
        ]
        drawn.append(_bar(parts, top, across, timeline.label(start), write))
    drawn += [_scale(top, mark), _dates(timeline, slots)]  # after the bars: text stands above them
    height = _TOP + _HEIGHT + _BOTTOM
    return (
        f'<svg class="chart" role="img" aria-label="{escape(title)}" width="100%" height="{height}">'
        f"{''.join(drawn)}</svg>"
    )


def _scale(top: Decimal, write: Write) -> str:
    lines = []
    for share in (Decimal(1), Decimal("0.5"), Decimal(0)):
        y = _TOP + _HEIGHT * (1 - float(share))
        lines.append(f'<line class="grid" x1="0" x2="100%" y1="{y:g}" y2="{y:g}"/>')
        if share:
            lines.append(f'<text x="0" y="{y - 4:g}">{escape(write(top * share))}</text>')
    return "".join(lines)


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
