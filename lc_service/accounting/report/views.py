"""What a `UsageReport` shows of itself: as text, in a notebook, as a page, a plot, a data frame.

Each view is made of the report's lines at that moment. It imports what it needs when it is asked for.
"""

# ruff: noqa: PLC0415  views are rare, and reports are everywhere

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lc_service.accounting.report.table import Lines, make_table, text_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class ReportViews(ABC):
    """The views of whatever has lines."""

    __slots__ = ()

    @property
    @abstractmethod
    def lines(self) -> Lines:
        """The sums behind it all."""

    def to_html(self, by: str | Sequence[str] = (), title: str = "Usage") -> str:
        """Return a report as one HTML page: charts and tables, for screens and phones, light and dark.

        It loads nothing and runs no script. Names of models, tags and metadata are escaped.

        Args:
            by: One or more keys as `group_by` takes them; several nest. By default there is a table for each
                key that tells anything apart.
            title: Its heading.

        Raises:
            ValueError: A key is none.
        """
        from lc_service.accounting.report.page import html_report

        return html_report(self.lines, [by] if isinstance(by, str) else by, title)

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with a row for each line.

        Columns: `at` (UTC, the minute's beginning), `model`, `operation`, `status`, `tags` (tuples),
        `metadata` (dictionaries), `calls`, `attempts`, `estimated`, `unknown`, `unpriced`, each kind of token
        of `TokenUsage`, `cost_usd` (`Decimal`; missing where some of it is unknown) and `known_cost_usd`.

        Raises:
            ImportError: pandas is not installed.
        """
        from lc_service.accounting.report.frame import make_frame

        return make_frame(self.lines)

    def plot(self) -> Figure:
        """Return a matplotlib figure: cost and tokens over time, stacked by model. Notebooks show it.

        It belongs to the caller alone; pyplot does not know it.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from lc_service.accounting.report.plot import make_figure

        return make_figure(self.lines)

    def __str__(self) -> str:
        """Return a table by model, as text."""
        return text_of(make_table(self.lines))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        del cycle  # it holds no reports
        printer.text(str(self))

    def _repr_html_(self) -> str:
        from lc_service.accounting.report.page import html_fragment

        return html_fragment(self.lines)
