"""Usage over time: which bars a chart has, and what each is made of.

Invariant: the bars of all models together are all of the usage, and no bar is left out between the first and
the last. Knows nothing of how they are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from lc_service.accounting.report.table import Lines, make_table
from lc_service.accounting.usage_line import LineKey, UsageLine, total_of

MAX_BARS = 48
MAX_MODELS = 6
_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
_WIDTHS = (
    *(_MINUTE * minutes for minutes in (1, 5, 15)),
    *(_HOUR * hours for hours in (1, 3, 6, 12)),
    *(_DAY * days for days in (1, 7, 28, 91, 364)),
)
_UNITS = ((_DAY * 7, "week"), (_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute"))
_EPOCH = datetime(1970, 1, 5, tzinfo=UTC)  # a Monday: bars of seven days are weeks


@dataclass(frozen=True, slots=True)
class Timeline:
    """Tokens and cost in equal spans of time, by model.

    Attributes:
        width: How long a span is.
        starts: When each begins, in UTC, without gaps.
        models: The names in the order of their weight. Beyond six, the lightest are together.
        tokens: For each model, the tokens in each span, input and output together.
        cost_usd: For each model, what is known of the cost in each span.
        total: The sum of everything.
    """

    width: timedelta
    starts: tuple[datetime, ...]
    models: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    cost_usd: tuple[tuple[Decimal, ...], ...]
    total: UsageLine

    @property
    def cost_title(self) -> str:
        """What the bars of cost are: `"Known cost per hour"` where they are not all of it."""
        return f"{'Known cost' if self.total.unpriced else 'Cost'} {self.per}"

    @property
    def tokens_title(self) -> str:
        """What the bars of tokens are."""
        return f"{'Known tokens' if self.total.unknown else 'Tokens'} {self.per}"

    @property
    def per(self) -> str:
        """Write how long a span is: `"per hour"`, `"per 15 minutes"`."""
        unit, name = next(each for each in _UNITS if not self.width % each[0])
        count = self.width // unit
        return f"per {name}" if count == 1 else f"per {count} {name}s"

    def label(self, at: datetime) -> str:
        """Write the beginning of a span as exactly as its length asks for."""
        if self.width >= _DAY:
            return f"{at:%Y-%m-%d}"
        return f"{at:%m-%d %H:%M}" if self.starts[-1] - self.starts[0] >= _DAY else f"{at:%H:%M}"


def make_timeline(lines: Lines) -> Timeline:
    """Make the timeline of lines; it is empty where they are."""
    if not lines:
        return Timeline(_MINUTE, (), (), (), (), UsageLine())
    width = _width(key.at for key in lines)
    first, last = (_floor(pick(key.at for key in lines), width) for pick in (min, max))
    starts = tuple(first + width * number for number in range((last - first) // width + 1))
    ranked = [row.names[0] for row in make_table(lines, ["model"]).rows]
    if len(ranked) <= MAX_MODELS:
        kept, models = ranked, ranked
    else:
        kept = ranked[: MAX_MODELS - 1]
        models = [*kept, f"{len(ranked) - len(kept)} more models"]
    tokens = [[0] * len(starts) for _ in models]
    cost_usd = [[Decimal()] * len(starts) for _ in models]
    place_of = {model: place for place, model in enumerate(kept)}

    def place(key: LineKey) -> tuple[int, int]:
        return place_of.get(key.model, len(models) - 1), (key.at - first) // width

    for key, line in lines.items():
        row, column = place(key)
        tokens[row][column] += line.usage.total_tokens
        cost_usd[row][column] += line.cost_usd
    return Timeline(
        width,
        starts,
        tuple(models),
        tuple(map(tuple, tokens)),
        tuple(map(tuple, cost_usd)),
        total_of(lines.values()),
    )


def _width(times: Iterable[datetime]) -> timedelta:
    """Return the shortest span that makes few enough bars, and none finer than the times were kept to."""
    known = sorted(set(times))
    finest = _MINUTE
    if len(known) > 1 and all(at.minute == 0 for at in known):
        finest = _DAY if all(at.hour == 0 for at in known) else _HOUR
    for width in _WIDTHS:
        if width >= finest and (_floor(known[-1], width) - _floor(known[0], width)) // width < MAX_BARS:
            return width
    return _WIDTHS[-1] * ((known[-1] - known[0]) // (_WIDTHS[-1] * MAX_BARS) + 1)


def _floor(at: datetime, width: timedelta) -> datetime:
    return at - (at - _EPOCH) % width


def round_up(most: Decimal) -> Decimal:
    """Return the end of an axis that has room for `most`: a round number, and 1 for nothing."""
    if most <= 0:
        return Decimal(1)
    unit = Decimal(1).scaleb(most.adjusted())
    return next(unit * step for step in _AXIS_STEPS if unit * step >= most)


_AXIS_STEPS = tuple(map(Decimal, ("1", "1.5", "2", "2.5", "3", "4", "5", "6", "8", "10")))
