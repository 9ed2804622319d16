"""Lines to make views of: plain ones, ones that leave something open, ones with names that mean harm."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from lc_service.accounting.usage import TokenUsage
from lc_service.accounting.usage_line import LineKey, UsageLine

AT = datetime(2026, 11, 1, 10, 30, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'&[bold]$x_\u202e"


def make_key(model: str = "m", at: datetime = AT, **fields: Any) -> LineKey:
    return LineKey(model, **({"operation": "chat", "status": "ok"} | fields), at=at)


def make_line(tokens: int = 10, usd: str = "0.5", **fields: Any) -> UsageLine:
    usage = TokenUsage(input_tokens=tokens, output_tokens=1)
    return UsageLine(**({"calls": 1, "attempts": 1, "usage": usage, "cost_usd": Decimal(usd)} | fields))


@pytest.fixture(scope="session")
def key() -> Callable[..., LineKey]:
    """Make a key of 2026-11-01 10:30 UTC."""
    return make_key


@pytest.fixture(scope="session")
def line() -> Callable[..., UsageLine]:
    """Make a line of one attempt."""
    return make_line


@pytest.fixture(scope="session")
def at() -> datetime:
    return AT


@pytest.fixture(scope="session")
def hostile_name() -> str:
    return HOSTILE


@pytest.fixture
def lines() -> dict[LineKey, UsageLine]:
    """Two models, two days, two tags, and all is known."""
    return {
        make_key("dear", tags=("t", "u")): make_line(10, "2"),
        make_key("cheap", tags=("t",), metadata=(("user", "ann"),)): make_line(1_000, "0.012"),
        make_key("cheap", AT + timedelta(days=1), status="failed"): make_line(0, "0"),
    }


@pytest.fixture
def partial_lines() -> dict[LineKey, UsageLine]:
    """One attempt without a price, one that nobody counted, one that is estimated."""
    return {
        make_key("dear"): make_line(usd="2"),
        make_key("odd"): make_line(usd="0", unpriced=1),
        make_key("lost"): UsageLine(calls=1, attempts=1, unknown=1, unpriced=1),
        make_key("guessed"): make_line(usd="1", attempts=2, estimated=1),
    }


@pytest.fixture
def hostile_lines() -> dict[LineKey, UsageLine]:
    """Every name that a caller or a server can choose is chosen to break out of where it stands."""
    return {
        make_key(
            HOSTILE, tags=(HOSTILE, "<b>"), metadata=((HOSTILE, HOSTILE),), operation="<i>"
        ): make_line(),
        make_key("_b", AT + timedelta(days=1)): make_line(),
    }
