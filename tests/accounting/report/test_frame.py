"""Data frames: a row for each line, exact money, and the same types with and without rows."""

from __future__ import annotations

from decimal import Decimal

from lc_service.accounting.report.frame import make_frame
from lc_service.accounting.usage import USAGE_FIELDS
from lc_service.accounting.usage_line import LineKey, UsageLine, total_of

Lines = dict[LineKey, UsageLine]


def test_a_frame_has_a_row_for_each_line(lines: Lines) -> None:
    frame = make_frame(lines)
    assert list(frame.columns) == [
        "at", "model", "operation", "status", "tags", "metadata",
        "calls", "attempts", "estimated", "unknown", "unpriced", *USAGE_FIELDS, "cost_usd", "known_cost_usd",
    ]  # fmt: skip
    assert str(frame["at"].dt.tz) == "UTC"
    for row, (key, line) in zip(frame.to_dict("records"), lines.items(), strict=True):
        assert (row["at"], row["model"], row["operation"], row["status"]) == (
            key.at, key.model, key.operation, key.status,
        )  # fmt: skip
        assert (row["tags"], row["metadata"]) == (key.tags, dict(key.metadata))
        assert (row["cost_usd"], row["input_tokens"]) == (line.cost_usd, line.usage.input_tokens)


def test_its_sums_are_those_of_the_report(lines: Lines, partial_lines: Lines) -> None:
    both = {**partial_lines, **{key._replace(model="x" + key.model): line for key, line in lines.items()}}
    frame, total = make_frame(both), total_of(both.values())
    for name in ("calls", "attempts", "estimated", "unknown", "unpriced"):
        assert frame[name].sum() == getattr(total, name)
    for name in USAGE_FIELDS:
        assert frame[name].sum() == getattr(total.usage, name)
    assert frame["known_cost_usd"].sum() == total.cost_usd == Decimal("5.012")


def test_a_cost_that_is_not_all_known_is_missing(partial_lines: Lines) -> None:
    by_model = make_frame(partial_lines).set_index("model")
    assert by_model["cost_usd"].to_dict() == {
        "dear": Decimal(2), "odd": None, "lost": None, "guessed": Decimal(1),
    }  # fmt: skip
    assert by_model["unpriced"].to_dict() == {"dear": 0, "odd": 1, "lost": 1, "guessed": 0}


def test_an_empty_frame_has_the_same_columns_of_the_same_types(lines: Lines) -> None:
    assert dict(make_frame({}).dtypes) == dict(make_frame(lines).dtypes)
