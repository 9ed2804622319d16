"""Usage as a pandas data frame: a row for each line. Needs pandas, and is imported by who asks for one.

Money stays `Decimal`, and what is unknown stays missing. Nothing is rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lc_service.accounting.report.table import Lines
from lc_service.accounting.usage import USAGE_FIELDS

if TYPE_CHECKING:
    import pandas as pd

_COUNTS = ("calls", "attempts", "estimated", "unknown", "unpriced")


def make_frame(lines: Lines) -> pd.DataFrame:
    """Make the frame; an empty one has the same columns of the same types.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas as pd  # noqa: PLC0415  an extra, and slow to import
    except ImportError as error:
        raise ImportError("to_pandas() needs pandas: pip install pandas, or lc-service[notebook].") from error

    columns = {
        "at": pd.Series([key.at for key in lines], dtype="datetime64[us, UTC]"),
        **{
            name: pd.Series([getattr(key, name) for key in lines], dtype="str")
            for name in ("model", "operation", "status")
        },
        "tags": pd.Series([key.tags for key in lines], dtype="object"),
        "metadata": pd.Series([dict(key.metadata) for key in lines], dtype="object"),
    }
    values = lines.values()
    for name in _COUNTS:
        columns[name] = pd.Series([getattr(line, name) for line in values], dtype="int64")
    for name in USAGE_FIELDS:
        columns[name] = pd.Series([getattr(line.usage, name) for line in values], dtype="int64")
    columns["cost_usd"] = pd.Series(
        [None if line.unpriced else line.cost_usd for line in values], dtype="object"
    )
    columns["known_cost_usd"] = pd.Series([line.cost_usd for line in values], dtype="object")
    return pd.DataFrame(columns)
