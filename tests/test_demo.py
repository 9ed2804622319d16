"""The demo: what it proves, and that it says so when something is wrong."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from langchain_core.runnables import Runnable, RunnableLambda
from rich.console import Console

from lc_service import UsageLedger
from lc_service.accounting.record import AttemptRecord, Certainty
from lc_service.accounting.usage import TokenUsage
from lc_service.accounting.usage_report import UsageReport
from lc_service.cli import main
from lc_service.demo import (
    INTERRUPTED,
    ChainTargetError,
    DemoJob,
    DemoResult,
    DemoSettings,
    ItemResult,
    choose_documents,
    describe,
    is_hopeless,
    load_factory,
    show_result,
)
from lc_service.demo.job import _FAULTS, chain_input
from lc_service.demo.result import by_line
from lc_service.demo.target import ChainFactory
from lc_service.simulator import Fault, Simulator

SUMMARIZE = "chains.summarize:build_summarize_chain"
FAST = DemoSettings(latency_seconds=0.0, requests_per_minute=None, tokens_per_minute=None)
LINE = ("gpt-5.4-mini", "chat")


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """A simulator in the real API's place."""
    with Simulator(api_key="sk-right") as simulator:
        monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
        yield simulator


def run(settings: DemoSettings = FAST, count: int | None = 6, target: str = SUMMARIZE) -> DemoResult:
    job = DemoJob(load_factory(target), choose_documents(count), settings)
    job.rehearse()
    return job.run_simulated()


def result(**changes: object) -> DemoResult:
    whole = DemoResult(
        items=1,
        finished=(ItemResult(id="a", language="en", answer="yes", attempts=2),),
        attempts=2,
        counted={LINE: TokenUsage(input_tokens=3, output_tokens=2)},
        billed={LINE: TokenUsage(input_tokens=3, output_tokens=2)},
        server_requests=2,
        retries={"rate_limit": 1},
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def shown(outcome: DemoResult, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_result(console, outcome, 5)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# Where every request is rejected or fails, whatever the rate, it goes slowly: fewer documents show it too.
@pytest.mark.parametrize(("faults", "count"), [(0.2, None), (1.0, 16)])
def test_all_documents_come_through_every_fault(faults: float, count: int | None) -> None:
    outcome = run(replace(FAST, faults=faults), count=count)
    assert outcome.is_right
    assert outcome.answered == outcome.items == len(choose_documents(count))
    assert outcome.attempts == outcome.server_requests
    assert outcome.attempts - outcome.items == sum(outcome.retries.values()) > outcome.items * faults / 2
    kinds = {"rate_limit", "server_error", "connection", "malformed", "timeout", "conflict", "truncated"}
    assert faults < 1 or set(outcome.retries) == kinds


@pytest.mark.parametrize(
    "fault", _FAULTS, ids=lambda fault: fault.kind if isinstance(fault, Fault) else fault
)
def test_each_kind_of_fault_alone_is_survived_and_counted(
    fault: str | Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lc_service.demo.job._FAULTS", (fault,))
    outcome = run(replace(FAST, faults=1.0), count=1)
    assert outcome.is_right
    assert outcome.retries or fault == Fault("slow", delay_seconds=0.5)


def test_rate_limits_are_kept() -> None:
    outcome = run(replace(FAST, faults=0.0, requests_per_minute=1200), count=40)
    assert outcome.is_right
    assert sum(outcome.retries.values()) <= 4  # 40 at once against a burst of 20


@pytest.mark.parametrize(
    "target",
    ["chains:build_ask_chain", "chains.translate:build_translate_chain"],
)
def test_every_shipped_chain_runs(target: str) -> None:
    assert run(target=target).is_right


def test_the_same_seed_meets_the_same_faults() -> None:
    settings = replace(FAST, faults=0.5)
    assert run(settings).retries == run(settings).retries


def test_an_answer_of_another_item_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    job = DemoJob(load_factory(SUMMARIZE), choose_documents(3), FAST)
    job.rehearse()
    swapped = {"en-lighthouse": "en-tides", "en-tides": "en-lighthouse"}
    texts = {document.id: document for document in choose_documents(3)}
    monkeypatch.setattr(
        "lc_service.demo.job.chain_input",
        lambda document: chain_input(texts[swapped.get(document.id, document.id)]),
    )
    outcome = job.run_simulated()
    assert (outcome.wrong, outcome.lost, outcome.is_balanced, outcome.is_right) == (2, 0, True, False)
    assert "the answer of another item" in shown(outcome)


def _breaking(model: object) -> Runnable[object, object]:
    def fail(value: dict[str, str]) -> dict[str, str]:
        if value["title"].startswith("How bees"):
            raise ValueError("sk-secret and the prompt")
        return value

    return RunnableLambda(fail) | load_factory(SUMMARIZE)(model)


def test_a_failing_item_is_lost_and_no_other() -> None:
    job = DemoJob(_breaking, choose_documents(3), FAST)
    job.rehearse()
    outcome = job.run_simulated()
    assert (outcome.answered, outcome.lost, outcome.is_right) == (2, 1, False)
    assert "ValueError" in shown(outcome)
    assert "secret" not in shown(outcome) + str(outcome.as_dict())


def test_a_call_that_the_counter_missed_shows() -> None:
    """A model without the service's counter is billed and not counted."""

    def uncounted(model: object) -> Runnable[object, object]:
        copy = model.model_copy(update={"callbacks": None})  # type: ignore[attr-defined]
        return load_factory(SUMMARIZE)(copy)

    job = DemoJob(uncounted, choose_documents(2), FAST)
    outcome = job.run_simulated()
    assert outcome.answered == 2
    assert not outcome.is_balanced
    assert not outcome.is_right


def test_live_counts_without_a_bill(live: Simulator) -> None:
    job = DemoJob(load_factory(SUMMARIZE), choose_documents(4), FAST)
    estimate = job.rehearse()
    outcome = job.run_live()
    assert outcome.is_right
    assert outcome.billed is None
    assert estimate.total_tokens == live.bill.total.total_tokens
    assert "see your OpenAI dashboard" in shown(outcome)


def test_a_ledger_keeps_what_the_server_billed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--documents", "3", "--json", "--ledger", "usage.db"]) == 0
    told = json.loads(capsys.readouterr().out)
    with UsageLedger("usage.db") as ledger:
        attempts = list(ledger.records())
    assert len(attempts) == told["requests"]["client"]
    kept = sum((attempt.usage for attempt in attempts), TokenUsage())
    assert kept.total_tokens == sum(line["input_tokens"] + line["output_tokens"] for line in told["billed"])


def test_a_ledger_that_cannot_be_made_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--documents", "3", "--ledger", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip() == f"lc-service: The ledger {tmp_path} is a folder. Name a file in it."


def test_a_refused_key_stops_the_run(live: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key-of-mine")
    job = DemoJob(load_factory(SUMMARIZE), choose_documents(30), replace(FAST, concurrency=2))
    outcome = job.run_live()
    assert outcome.stopped_by is not None
    assert "key was refused" in outcome.stopped_by
    assert "mine" not in str(outcome.as_dict())
    assert len(live.requests) <= 3
    assert outcome.pending + outcome.lost == 30


def test_more_documents_than_there_are() -> None:
    with pytest.raises(ValueError, match="has 79 documents"):
        choose_documents(80)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("chains", "write module:function"),
        (":build", "write module:function"),
        ("no_such_module:build", "No module named 'no_such_module'"),
        ("chains.summarize:no_such", "has no function no_such"),
        ("chains.summarize:SUMMARIZE_PROMPT.messages", "has no function"),
        ("broken_module:build", r"fails on import \(ZeroDivisionError\)"),
    ],
)
def test_a_target_that_is_none(
    target: str, words: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0")  # type: ignore[operator]
    monkeypatch.chdir(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ChainTargetError, match=words):
        load_factory(target)


@pytest.mark.parametrize("target", ["builtins:str", "builtins:len"])
def test_a_function_that_makes_no_chain(target: str) -> None:
    factory: ChainFactory = load_factory(target)
    with pytest.raises(ChainTargetError, match="makes no chain"):
        factory(object())


class TestResult:
    def test_right(self) -> None:
        assert result().is_right
        assert "Every item is answered" in shown(result())

    @pytest.mark.parametrize(
        "billed",
        [
            {LINE: TokenUsage(input_tokens=3, output_tokens=3)},
            {LINE: TokenUsage(input_tokens=3, output_tokens=2, reasoning_tokens=1)},
            {
                LINE: TokenUsage(input_tokens=3, output_tokens=2),
                ("other", "chat"): TokenUsage(input_tokens=1),
            },
            {("gpt-5.4-mini", "embeddings"): TokenUsage(input_tokens=3, output_tokens=2)},
            {},
        ],
    )
    def test_any_difference_from_the_bill_is_wrong(self, billed: dict[tuple[str, str], TokenUsage]) -> None:
        outcome = result(billed=billed)
        assert not outcome.is_balanced
        assert not outcome.is_right
        assert "✗" in shown(outcome)
        assert "Every item" not in shown(outcome)

    def test_an_item_that_vanished_is_lost(self) -> None:
        outcome = result(items=2)
        assert (outcome.lost, outcome.pending, outcome.is_right) == (1, 0, False)

    def test_an_interruption_loses_nothing_and_is_not_right(self) -> None:
        outcome = result(items=5, stopped_by=INTERRUPTED)
        assert (outcome.lost, outcome.pending, outcome.is_right) == (0, 4, False)
        assert "stopped by Ctrl-C" in shown(outcome)

    def test_without_a_bill_there_is_nothing_to_differ_from(self) -> None:
        assert result(billed=None, server_requests=None).is_right

    def test_fewer_answers_than_languages_are_each_of_another_one(self) -> None:
        languages = ("de", "en", "fr", "ja", "zh", "ar", "hi")
        finished = tuple(
            ItemResult(id=f"{language}{number}", language=language, answer=f"said in {language}", attempts=1)
            for language in languages
            for number in range(3)
        )
        text = shown(result(items=len(finished), finished=finished))
        assert len(re.findall("said in", text)) == len(set(re.findall(r"said in (\w\w)", text))) == 5

    def test_answers_are_no_markup_and_none_is_cut(self) -> None:
        answer = "[bold]\\n" + "和食の味の土台は" * 12 + "الأسطرلاب آلة فلكية"
        item = ItemResult(id="ja-x", language="ja", answer=answer, attempts=1)
        text = shown(result(finished=(item,)), width=60)
        assert "[bold]\\n" in text
        assert text.count("和") == 12
        assert "…" not in text


def test_words_for_errors_quote_nothing() -> None:
    with Simulator(api_key="sk-right") as simulator:
        from lc_service import OpenAIService

        service = OpenAIService("sk-wrong-secret", base_url=simulator.base_url)
        with pytest.raises(Exception) as caught:
            service.chat_completion("my secret prompt")
    assert is_hopeless(caught.value)
    assert describe(caught.value).startswith("the API key was refused (")
    assert "HTTP 401" in describe(caught.value)
    assert "secret" not in describe(caught.value)


def test_calls_of_unknown_usage_make_no_line():
    report = UsageReport()
    report.add(AttemptRecord(run_id=uuid4(), model="m", usage=TokenUsage(input_tokens=1)))
    report.add(AttemptRecord(run_id=uuid4(), model="unknown", certainty=Certainty.UNKNOWN))
    assert by_line(report) == {("m", "chat"): TokenUsage(input_tokens=1)}
