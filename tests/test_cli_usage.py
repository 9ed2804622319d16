"""`lc-service usage`: what a ledger says, for people, spreadsheets, programs and browsers."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from lc_service import AttemptRecord, TokenUsage, UsageLedger
from lc_service.accounting.record import AttemptStatus, Certainty
from lc_service.cli import main

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)  # where the fake clock stands


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_clock: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LC_SERVICE_LEDGER", raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    fake_clock.wall_time = NOW.timestamp()


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    path = tmp_path / "usage.db"
    with UsageLedger(path) as opened:
        opened.record_many(
            [
                _attempt("gpt-4.1", NOW, 1_000, tags=("red", "blue"), metadata={"team": "search"}),
                _attempt("gpt-4.1-mini", NOW - timedelta(days=1), 2_000, tags=("red",)),
                _attempt("gpt-4.1-mini", NOW - timedelta(days=9), 4_000, certainty=Certainty.ESTIMATED),
                _attempt("gpt-4.1-mini", NOW, 0, status=AttemptStatus.FAILED, certainty=Certainty.UNKNOWN),
                _attempt("[bold]evil\x1b[31m<b>", NOW - timedelta(days=40), 10),
            ]
        )
    return str(path)


def _attempt(model: str, at: datetime, tokens: int, **facts: Any) -> AttemptRecord:
    usage = TokenUsage(input_tokens=tokens, output_tokens=tokens // 10)
    return AttemptRecord(run_id=uuid4(), model=model, usage=usage, started_at=at, **facts)


Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_and_read(*arguments: str) -> str:
        assert main(["usage", *arguments]) == 0
        return capsys.readouterr().out

    return run_and_read


def test_the_table_has_every_model_and_the_total(ledger: str, run: Run) -> None:
    text = run(ledger)
    rows = dict(re.findall(r"^  (gpt\S+|Total) +(.*\S) *$", text, re.MULTILINE))
    # calls, attempts, estimated, unknown, input, output
    assert rows["gpt-4.1"].split()[:6] == ["1", "1", "0", "0", "1,000", "100"]
    assert rows["gpt-4.1-mini"].split()[:6] == ["3", "3", "1", "1", "6,000", "600"]
    assert rows["Total"].split()[:6] == ["5", "5", "1", "1", "7,010", "701"]
    assert "≥" in rows["Total"], "what is unknown makes the sum a lower bound"
    assert "\x1b[31m" not in text
    assert "[bold]evil" in text, "a model's name is no markup"


def test_names_are_never_broken_into_pieces(ledger: str, run: Run) -> None:
    text = run(ledger, "--by", "model,status,day")
    assert re.search(r"gpt-4\.1-mini +failed +2027-01-15", text)


def test_rows_nest(ledger: str, run: Run) -> None:
    out = json.loads(run(ledger, "--by", "tag,model", "--json"))
    assert out["by"] == ["tag", "model"]
    found = {(row["tag"], row["model"]): row["input_tokens"] for row in out["rows"]}
    assert found["red", "gpt-4.1"] == found["blue", "gpt-4.1"] == 1_000
    assert found["red", "gpt-4.1-mini"] == 2_000
    assert out["total"]["input_tokens"] == 7_010, "an attempt with two tags is one attempt"


@pytest.mark.parametrize(
    ("since", "tokens"),
    [
        ("today", 1_000),
        ("yesterday", 3_000),
        ("2d", 3_000),
        ("30h", 3_000),
        ("10m", 1_000),
        ("2027-01-06", 7_000),
        ("2027-01-15T08:00", 1_000),
        ("2027-01-15T09:00+01:00", 1_000),
        ("2027-01-15T08:01", 0),
    ],
)
def test_since(since: str, tokens: int, ledger: str, run: Run) -> None:
    assert json.loads(run(ledger, "--json", "--since", since))["total"]["input_tokens"] == tokens


def test_until_is_exclusive(ledger: str, run: Run) -> None:
    out = json.loads(run(ledger, "--json", "--since", "2027-01-14", "--until", "2027-01-15T08:00"))
    assert out["total"]["input_tokens"] == 2_000


def test_csv_loses_nothing(ledger: str, run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(run(ledger, "--csv", "--by", "model"))))
    big = next(row for row in rows if row["model"] == "gpt-4.1")
    assert (big["calls"], big["input_tokens"], big["total_tokens"]) == ("1", "1000", "1100")
    assert Decimal(big["cost_usd"]) == Decimal("0.0028")
    small = next(row for row in rows if row["model"] == "gpt-4.1-mini")
    assert small["cost_usd"] == "", "a cost that is not known is empty, not 0"
    assert Decimal(small["known_cost_usd"]) > 0


def test_html_is_one_page(ledger: str, run: Run, tmp_path: Path) -> None:
    assert run(ledger, "--html", "report.html") == ""
    page = (tmp_path / "report.html").read_text()
    assert page == run(ledger, "--html", "-").removesuffix("\n")
    assert "gpt-4.1-mini" in page
    assert "<b>" not in page.split("evil", 1)[1][:20]
    assert not re.search(r"(src|href)=|@import|url\(", page)


def test_the_ledger_of_the_settings(ledger: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_SERVICE_LEDGER", ledger)
    assert "gpt-4.1-mini" in run()


def test_an_empty_time_says_so(ledger: str, run: Run) -> None:
    assert "no attempts" in run(ledger, "--since", "2027-02-01")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a ledger"),
        (["none.db"], "there is no ledger none.db"),
        (["usage.db", "--by", "colour"], "not by 'colour'"),
        (["usage.db", "--since", "never"], "--since takes"),
        (["usage.db", "--since", "999999999999d"], "--since takes"),
        (["usage.db", "--csv", "--json"], "one of"),
        (["usage.db", "--html", "no/such/folder.html"], "cannot be written"),
        (["plain.txt"], "not a SQLite database"),
    ],
    ids=str,
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, ledger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plain.txt").write_text("This is no database, and must stay as it is." * 40)
    assert main(["usage", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert words in err
    assert not (tmp_path / "none.db").exists(), "to look at a ledger makes none"
