"""`lc-service chains` and `lc-service chain` as a shell sees them."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer

import chains
from lc_service import AttemptRecord, TokenUsage, UsageReport
from lc_service.accounting.record import Certainty
from lc_service.cli import main, outcome
from lc_service.cli.task import tasks
from lc_service.simulator import Simulator

TIDES = "High water is at six in the morning. Low water is at noon. The causeway is dry for three hours."
LAMP = "The lamp of the lighthouse is lit at dusk by the keeper. He puts it out when the sun is up."
LIGHT = {
    "type": "object",
    "properties": {"keeper": {"type": "string", "description": "Who lights it."}, "lit": {"type": "string"}},
    "required": ["keeper"],
}
ARGUMENTS: dict[str, list[str]] = {
    "ask": ["--question", "When is high water?"],
    "summarize": ["--set", "max_sentences=1"],
    "translate": ["-i", "target_language=German", "-i", 'glossary={"lamp": "Leuchte"}'],
    "rewrite": ["-i", "tone=formal"],
    "extract": ["--schema", "light.json"],
    "classify": ["--label", "tides=about water", "--label", "light"],
    "answer_with_sources": ["-i", "question=When is the lamp lit?", "--set", "max_passages=1"],
    "critique_and_revise": ["-i", "task=Describe a tide.", "--set", "max_rounds=1"],
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Simulator]:
    """A server in the real API's place, and an empty directory with two texts and a module."""
    for name in [name for name in os.environ if name.startswith("LC_SERVICE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "tides.txt").write_text(TIDES, encoding="utf-8")
    (tmp_path / "lamp.txt").write_text(LAMP, encoding="utf-8-sig")
    (tmp_path / "harbour.py").write_text(
        "from pydantic import BaseModel\nclass Light(BaseModel):\n    keeper: str\ndef build(): ...\n"
    )
    (tmp_path / "light.json").write_text(json.dumps(LIGHT), encoding="utf-8")
    with Simulator(api_key="sk-right") as simulator:
        monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
        monkeypatch.setenv("LC_SERVICE_INITIAL_DELAY", "0.001")
        monkeypatch.setattr("sys.stdin", Piped(b""))
        yield simulator


class Piped:
    """Standard input that is no terminal."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)

    def isatty(self) -> bool:
        return False


def error_line(err: str) -> str:
    """The one line of an error."""
    (line,) = [line for line in err.splitlines() if line.startswith("lc-service: ")]
    return line.removeprefix("lc-service: ")


def spent(err: str) -> tuple[int, int, int]:
    """Tokens in and out, and requests, as told."""
    found = re.search(
        r"^([\d,]+) tokens in, ([\d,]+) out · \$[\d.]+ · ([\d,]+) requests? · [\d.]+ s$", err, re.MULTILINE
    )
    assert found, err
    first, second, third = (int(figure.replace(",", "")) for figure in found.groups())
    return first, second, third


def billed(server: Simulator) -> tuple[int, int, int]:
    """The same, as the server has it."""
    total = server.bill.total
    return total.input_tokens, total.output_tokens, len(server.requests)


def test_every_chain_is_listed_with_its_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chains", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {f"build_{name}_chain" for name in listed} == {
        name for name in chains.__all__ if name.endswith("_chain")
    }
    assert {name for name, about in listed.items() if "only_in_python" in about} == {"chat", "route"}
    assert set(ARGUMENTS) == {name for name, about in listed.items() if "only_in_python" not in about}
    for about in listed.values():
        assert about["summary"].endswith(".")
        assert int(about["prompt_version"]) >= 1
        assert about["gives"]
        assert all(given["description"] for given in about["inputs"].values())
    assert listed["translate"]["inputs"]["target_language"]["required"] is True
    assert listed["translate"]["inputs"]["glossary"]["required"] is False


def test_the_list_fits_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["chains"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "[source_language]" in out


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_chain_runs_over_a_file_and_tells_what_is_billed(
    name: str, server: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chain", name, "lamp.txt", *ARGUMENTS[name]]) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert "simulator" not in err
    assert spent(err) == billed(server)
    sent = b"".join(request.body for request in server.requests)
    assert b"The lamp of the lighthouse" in sent
    assert b"\\ufeff" not in sent


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_chain_gives_json(name: str, server: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chain", name, "lamp.txt", "--json", *ARGUMENTS[name]]) == 0
    told = json.loads(capsys.readouterr().out)
    (answer,) = told["answers"]
    assert answer["source"] == "lamp.txt"
    assert answer["answer"]
    usage = told["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["requests"]) == billed(server)


def test_several_files_keep_their_answers(server: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chain", "ask", "lamp.txt", "tides.txt", "-i", "question=When is it?"]) == 0
    out, err = capsys.readouterr()
    lamp, tides = re.fullmatch(r"==> lamp.txt <==\n(.+)\n==> tides.txt <==\n(.+)\n", out).groups()  # type: ignore[union-attr]
    assert "lamp" in lamp or "sun" in lamp
    assert "water" in tides or "causeway" in tides
    assert spent(err) == billed(server)


def test_a_file_that_fails_loses_no_other(server: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    Path("long.txt").write_text("tide " * 200_000, encoding="utf-8")
    code = main(
        ["chain", "ask", "lamp.txt", "long.txt", "tides.txt", "-i", "question=When?", "--model", "gpt-4"]
    )
    out, err = capsys.readouterr()
    assert code == 1
    assert re.findall("==> (.+) <==", out) == ["lamp.txt", "tides.txt"]
    assert "lc-service: long.txt: the prompt is too long for the model" in err
    assert err.splitlines()[-1] == "lc-service: 1 of 3 texts have no answer"
    assert spent(err) == billed(server)


@pytest.mark.parametrize("schema", ["harbour:Light", "light.json"])
def test_objects_may_be_several(schema: str, server: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chain", "extract", "lamp.txt", "--schema", schema, "--several"]) == 0
    assert all({"keeper"} <= set(light) <= {"keeper", "lit"} for light in json.loads(capsys.readouterr().out))


def test_labels_may_be_several(server: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chain", "classify", "lamp.txt", "--label", "a", "--label", "b", "--several"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)


def test_a_text_is_piped_in(
    server: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Piped(TIDES.encode()))
    assert main(["chain", "summarize"]) == 0
    monkeypatch.setattr("sys.stdin", Piped(LAMP.encode()))
    assert main(["chain", "ask", "-", "--input", "question=Who lights it?"]) == 0
    out = capsys.readouterr().out
    assert "water" in out
    assert b"keeper" in server.requests[-1].body


def test_what_is_optional_is_not_waited_for(server: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chain", "ask", "--input", "question=What is a tide?"]) == 0
    assert "What is a tide?" in capsys.readouterr().out


def test_without_a_key_the_simulator_answers(
    server: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert main(["chain", "summarize", "tides.txt"]) == 0
    assert "built-in simulator" in capsys.readouterr().err
    assert server.requests == []


WRONG: list[tuple[list[str], str]] = [
    (["sumarize", "lamp.txt"], "there is no chain 'sumarize'; did you mean summarize?"),
    (["zzz", "lamp.txt"], "there is no chain 'zzz'; lc-service chains lists them"),
    (["chat"], "chat cannot be run from here: it needs a conversation"),
    (["route", "lamp.txt"], "route cannot be run from here"),
    (["translate", "lamp.txt"], "lamp.txt: target_language: give it with --input target_language="),
    (["ask"], "question: give it with --input question="),
    (["ask", "-i", "question= "], "question: is empty"),
    (["summarize", "-i", "style=short"], "summarize takes text, title; not 'style'"),
    (["summarize", "lamp.txt", "-i", "title"], "--input takes NAME=VALUE; 'title' has no ="),
    (["summarize", "lamp.txt", "-i", "text=x"], "a file is the text: give either, not both"),
    (["summarize", "nowhere.txt"], "nowhere.txt cannot be read: No such file"),
    (["summarize", "."], ". cannot be read: Is a directory"),
    (["summarize", "picture.png"], "picture.png is no text in UTF-8"),
    (["summarize", "lamp.txt", "blank.txt"], "blank.txt: text: is empty"),
    (["summarize"], "-: text: is empty"),
    (["answer_with_sources", "blank.txt", "-i", "question=x"], "there is nothing to read in the documents"),
    (["summarize", "lamp.txt", "--set", "words=9"], "summarize has max_sentences, language"),
    (["summarize", "lamp.txt", "--set", "max_sentences=0"], "max_sentences must be at least 1, not 0"),
    (["ask", "-i", "question=x", "--set", "words=9"], "ask has no options; not 'words'"),
    (["answer_with_sources", "lamp.txt", "-i", "question=x", "--set", "max_passages=no"], "max_passages: "),
    (["translate", "lamp.txt", "-i", "target_language=de", "-i", "glossary=x"], "lamp.txt: glossary: "),
    (["rewrite", "lamp.txt"], "nothing is asked for: give a tone, an audience or a length"),
    (["classify", "lamp.txt", "--label", "one"], "classify needs labels to choose from"),
    (["extract", "lamp.txt"], "extract needs to know what: --schema FILE.json"),
    (["extract", "lamp.txt", "--schema", "none.json"], "--schema: none.json cannot be read: No such file"),
    (
        ["extract", "lamp.txt", "--schema", "lamp.txt"],
        "--schema: lamp.txt is no JSON: Expecting value",
    ),
    (["extract", "lamp.txt", "--schema", "list.json"], "--schema: list.json: it has to be of an object"),
    (
        ["extract", "lamp.txt", "--schema", "all.json"],
        "--schema: all.json: schema.a has 'allOf', which",
    ),
    (["extract", "lamp.txt", "--schema", "harbour:build"], "--schema: The module harbour has no class build"),
    (["extract", "lamp.txt", "--schema", "harbour"], "--schema: harbour cannot be read: No such file"),
    (["extract", "lamp.txt", "--schema", "pathlib:Path"], "schema must be a Pydantic model"),
    (["summarize", "lamp.txt", "--schema", "harbour:Light"], "summarize has no use for --schema"),
    (["summarize", "lamp.txt", "--question", "x"], "summarize takes text, title; not 'question'"),
    (["ask", "-i", "question=x", "--label", "a"], "ask has no use for --label"),
    (["summarize", "lamp.txt", "--several"], "summarize has no use for --several"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[" ".join(wrong) for wrong, _ in WRONG])
def test_what_is_wrong_is_one_line_and_costs_nothing(
    arguments: list[str], words: str, server: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("picture.png").write_bytes(b"\x89PNG\xff")
    Path("blank.txt").write_text(" \n")
    Path("list.json").write_text('{"type": "array", "items": {"type": "string"}}')
    Path("all.json").write_text('{"properties": {"a": {"allOf": []}}}')
    assert main(["chain", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert error_line(err).startswith(words)
    assert server.requests == []


def test_what_gives_no_text_says_so() -> None:
    for name in ARGUMENTS:
        of_text = inspect.signature(getattr(chains, f"build_{name}_chain")).return_annotation.endswith(
            ", str]"
        )
        assert (tasks()[name].gives == "text") == of_text, name


def test_one_text_is_streamed(server: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chain", "summarize", "lamp.txt"]) == 0
    assert json.loads(server.requests[0].body)["stream"] is True
    assert capsys.readouterr().out.count("\n") == 1


def test_a_retry_is_survived_and_counted(server: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    with Simulator(faults=["server_error", "ok"]) as failing:
        assert main(["chain", "summarize", "lamp.txt", "--base-url", failing.base_url]) == 0
        out, err = capsys.readouterr()
        assert "lamp" in out
        assert spent(err)[2] == 2
        assert spent(err) == billed(failing)


def test_ctrl_c_during_the_only_answer(
    server: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    echo = typer.echo

    def interrupted(message: object = "", **options: Any) -> None:
        echo(message, **options)
        if options.get("nl") is False and message:
            raise KeyboardInterrupt

    monkeypatch.setattr("typer.echo", interrupted)
    assert main(["chain", "summarize", "lamp.txt"]) == 130
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    assert error_line(err).startswith("interrupted; ")


def test_a_refused_key_is_told_without_it(
    server: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-one")
    assert main(["chain", "summarize", "lamp.txt"]) == 2
    assert main(["chain", "summarize", "lamp.txt", "tides.txt"]) == 2
    out, err = capsys.readouterr()
    assert "the API key was refused" in err
    assert not re.search("sk-wrong|lighthouse", out + err)


def test_a_cost_that_is_known_in_part_is_called_so() -> None:
    usage, tokens = UsageReport(), TokenUsage(input_tokens=1_000, output_tokens=100)
    priced = AttemptRecord(run_id=uuid4(), model="gpt-4.1-mini", usage=tokens)
    usage.add(priced)
    assert outcome.spent(usage, 2.0) == "1,000 tokens in, 100 out · $0.0006 · 1 request · 2.0 s"
    usage.add(replace(priced, run_id=uuid4(), certainty=Certainty.UNKNOWN, usage=TokenUsage()))
    assert "at least $0.0006 · 2 requests" in outcome.spent(usage, 2.0)
    nobodys = UsageReport()
    nobodys.add(replace(priced, model="nobody-knows"))
    with warnings.catch_warnings(record=True):
        assert "cost unknown" in outcome.spent(nobodys, 2.0)


def test_what_was_paid_for_a_failure_is_told(server: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    Path("code.txt").write_text(
        "Start `tide --now`. " * 3 + "Then wait for the lamp, and for low water. " * 9
    )
    assert main(["chain", "translate", "code.txt", "-i", "target_language=German", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "tide --now" not in error_line(err)
    assert spent(err) == billed(server)
    assert len(server.requests) == 2


def test_ctrl_c_shows_what_is_answered(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"Tide number {number} is at noon.")
    with Simulator(faults=[None, "stall", "stall"]) as simulator:
        kept = {name: value for name, value in os.environ.items() if not re.match("OPENAI_|LC_", name)}
        process = subprocess.Popen(  # noqa: S603
            [
                sys.executable, "-m", "lc_service", "chain", "summarize", "--base-url", simulator.base_url,
                "--concurrency", "1", "0.txt", "1.txt", "2.txt",
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", cwd=tmp_path,
            env=kept | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        )  # fmt: skip
        _until(lambda: len(simulator.requests) == 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert error_line(err).startswith("interrupted: 1 of 3 texts answered")
    assert len(re.findall("==> .+ <==", out)) == 1


def _until(is_so: Any) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)
