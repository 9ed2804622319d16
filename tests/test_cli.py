"""The command line as a shell sees it: output, errors in one line, exit codes, signals.

`python tests/test_cli.py > docs/cli.md` writes the reference that a test here holds against the help.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import typer.main

from lc_service.cli import EXIT_CODES, app, main
from lc_service.simulator import Simulator

DOCS = Path(__file__).parent.parent / "docs" / "cli.md"
COMMAND = (sys.executable, "-m", "lc_service")
COMMANDS = ("demo", "chat", "chains", "chain", "usage", "simulate")


def environment(**variables: str) -> dict[str, str]:
    """What a subprocess sees: nothing of a developer's own keys, and no `.env` but the test's."""
    kept = {name: value for name, value in os.environ.items() if not re.match("OPENAI_|LC_|LANG", name)}
    package_root = str(Path(__file__).parent.parent)
    return kept | {"PYTHONPATH": package_root, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"} | variables


def run(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [*COMMAND, *arguments],
        input=stdin, capture_output=True, text=True, encoding="utf-8", timeout=50, check=False,
        env=environment(**variables),
    )  # fmt: skip


def assert_one_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("lc-service: ")
    return lines[0]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty directory, without a developer's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in os.environ:
        if name.startswith("LC_SERVICE_"):
            monkeypatch.delenv(name)


class Started:
    """A command that is running; its output is read line by line."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(  # noqa: S603
            [*COMMAND, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, encoding="utf-8", env=environment(),
        )  # fmt: skip

    def read_until(self, pattern: str, stream: str = "stdout") -> re.Match[str]:
        seen = ""
        for line in getattr(self.process, stream):
            seen += line
            if found := re.search(pattern, seen):
                return found
        raise AssertionError(f"no {pattern!r} in {seen!r}")

    def interrupt(self) -> tuple[int, str, str, float]:
        """Send Ctrl-C; return the exit code, the output, and how long it took to end."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err, time.monotonic() - started


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(api_key="sk-right") as simulator:
        yield simulator


@pytest.fixture
def env(server: Simulator, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    """The server in the real API's place."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
    return server


def test_demo_ends_well() -> None:
    done = run("demo", "--documents", "8", "--show", "2")
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "8 documents in 1 language through",
        "Answers",
        "HTTP requests",
        "Counted against billed",
        "✓",
    ):
        assert words in done.stdout
    counted, billed = re.findall(r"(?:counted|billed) +([\d,]+ +[\d,]+ +[\d,]+)", done.stdout)
    assert counted == billed


def test_demo_as_json_through_a_proxy_that_is_none(tmp_path: Path) -> None:
    proxy = "http://127.0.0.1:9"
    done = run("demo", "--documents", "3", "--json", HTTP_PROXY=proxy, http_proxy=proxy)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["is_right"] is True
    assert told["answered"] == told["items"] == len(told["answers"]) == 3
    assert told["counted"] == told["billed"] != []
    assert told["requests"]["client"] == told["requests"]["server"]


def test_demo_of_a_chain_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chain_that_works.py").write_text(
        "from langchain_core.prompts import ChatPromptTemplate\n"
        "def build(model): return ChatPromptTemplate.from_template('Shorten: {title}. {text}') | model\n"
    )
    assert main(["demo", "--documents", "2", "--chain", "chain_that_works:build", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answered"] == 2


def test_demo_exits_with_1_where_an_item_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chain_that_fails.py").write_text(
        "from langchain_core.runnables import RunnableLambda\n"
        "def fail(value): raise ValueError('sk-secret')\n"
        "def build(model): return RunnableLambda(fail)\n"
    )
    assert main(["demo", "--documents", "2", "--chain", "chain_that_fails:build"]) == 1
    out, err = capsys.readouterr()
    assert assert_one_line(err) == "lc-service: 2 of 2 items lost"
    assert "sk-secret" not in out


def test_demo_exits_with_1_where_counted_is_not_billed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lc_service.accounting.usage import TokenUsage
    from lc_service.demo import job

    by_line = job.by_line
    monkeypatch.setattr(
        job,
        "by_line",
        lambda usage: {line: tokens + TokenUsage(output_tokens=1) for line, tokens in by_line(usage).items()},
    )
    assert main(["demo", "--documents", "1", "--faults", "0"]) == 1
    out, err = capsys.readouterr()
    assert "✗" in out
    assert assert_one_line(err) == "lc-service: counted is not what was billed"


def test_demo_stops_at_ctrl_c_with_what_it_has() -> None:
    started = Started("demo", "--verbose")
    started.read_until("Retry 1 of", "stderr")
    code, out, err, seconds = started.interrupt()
    assert code == 130
    assert re.match(r"lc-service: interrupted: \d+ of 79 items answered", err.splitlines()[-1])
    assert "Traceback" not in err
    assert "stopped by Ctrl-C" in out
    assert seconds < 15


class TestLive:
    def test_without_a_key(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["demo", "--live", "--yes"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "OPENAI_API_KEY" in assert_one_line(err)

    def test_without_anybody_to_ask(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-any")
        assert main(["demo", "--live"]) == 2
        assert "--yes" in assert_one_line(capsys.readouterr().err)

    @pytest.mark.parametrize(("agrees", "code", "requests"), [(True, 0, 3), (False, 130, 0)])
    def test_it_asks(
        self, *, agrees: bool, code: int, requests: int, env: Simulator,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        asked: list[str] = []
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("typer.confirm", lambda text, **_: asked.append(text) or agrees)
        assert main(["demo", "--live", "--documents", "3"]) == code
        assert re.fullmatch(
            r"3 documents, about [\d,]+ tokens in and [\d,]+ or more out, go to gpt-\S+ at 127.0.0.1 "
            r"and are billed to your account. Go on\?",
            asked[0],
        )
        assert len(env.requests) == requests
        out, err = capsys.readouterr()
        assert ("see your OpenAI dashboard" in out) == agrees
        assert ("nothing was sent" in err) != agrees

    def test_a_refused_key(
        self, env: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-one")
        assert main(["demo", "--live", "-y", "--json"]) == 2
        out, err = capsys.readouterr()
        assert "key was refused" in assert_one_line(err)
        assert "sk-wrong" not in out + err
        assert len(env.requests) <= 16


class TestChat:
    def test_without_a_key_the_simulator_answers_and_says_so(self) -> None:
        done = run("chat", "hi")
        assert done.returncode == 0
        assert done.stdout == "You said: “hi” This is a simulated answer, the same every time.\n"
        assert "No OPENAI_API_KEY: answers come from the built-in simulator." in done.stderr
        assert re.search(r"\d+ tokens in, \d+ out · \d+ in all · \d+\.\d s", done.stderr)

    def test_a_piped_prompt(self, server: Simulator) -> None:
        done = run(
            "chat", "--base-url", server.base_url, "--system", "Be brief.", "--temperature", "0",
            stdin="What is a tide?", OPENAI_API_KEY="sk-right",
        )  # fmt: skip
        assert done.returncode == 0
        assert "What is a tide?" in done.stdout
        body = json.loads(server.requests[0].body)
        assert [message["content"] for message in body["messages"]] == ["Be brief.", "What is a tide?"]
        assert body["stream"] is True

    @pytest.mark.parametrize("prompt", ["", " \n"])
    def test_nothing_to_ask(self, prompt: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["chat", prompt]) == 2
        assert assert_one_line(capsys.readouterr().err) == "lc-service: the prompt is empty"

    def test_a_wrong_key(
        self, env: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-one")
        assert main(["chat", "my secret prompt"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert assert_one_line(err).startswith("lc-service: the API key was refused (")
        assert not re.search("sk-wrong|secret", err)

    def test_a_url_without_a_key_is_enough(self, capsys: pytest.CaptureFixture[str]) -> None:
        with Simulator() as simulator:
            assert main(["chat", "hi", "--base-url", simulator.base_url]) == 0
            assert len(simulator.requests) == 1
        assert "simulator" not in capsys.readouterr().err

    def test_a_server_that_is_not_there(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("LC_SERVICE_MAX_RETRIES", "1")
        monkeypatch.setenv("LC_SERVICE_INITIAL_DELAY", "0.01")
        assert main(["chat", "hi", "--base-url", "http://127.0.0.1:9/v1"]) == 1
        assert "cannot be reached" in assert_one_line(capsys.readouterr().err)

    def test_ctrl_c_during_the_only_answer(
        self, env: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted(*_: object) -> Iterator[str]:
            yield "The begin"
            raise KeyboardInterrupt

        monkeypatch.setattr("lc_service.service.OpenAIService.stream_chat", interrupted)
        assert main(["chat", "hi"]) == 130
        out, err = capsys.readouterr()
        assert out == "The begin\n"
        assert "interrupted" in assert_one_line(err)

    @pytest.mark.parametrize("is_option", [True, False])
    def test_debug_shows_the_traceback(
        self, is_option: bool, env: Simulator,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
        monkeypatch.setenv("LC_SERVICE_DEBUG", "0" if is_option else "1")
        assert main(["chat", "hi", *(["--debug"] if is_option else [])]) == 2
        err = capsys.readouterr().err
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("lc-service: ")


class TestConversation:
    """The interactive loop, with a terminal's place taken by a list of lines."""

    @pytest.fixture
    def talk(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
        monkeypatch.setenv("LC_SERVICE_INITIAL_DELAY", "0.001")
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)

        def talk(url: str, *lines: str | type[BaseException]) -> tuple[int, str, str]:
            waiting = iter((*lines, EOFError))

            def answer(_: str) -> str:
                line = next(waiting)
                if isinstance(line, str):
                    return line
                raise line

            monkeypatch.setattr("builtins.input", answer)
            code = main(["chat", "--base-url", url])
            return code, *capsys.readouterr()

        return talk

    def test_it_keeps_the_history_and_adds_up(self, talk: Any, server: Simulator) -> None:
        code, out, err = talk(server.base_url, "One?", "Two?")
        assert code == 0
        assert out.index("One?") < out.index("Two?")
        last = json.loads(server.requests[-1].body)["messages"]
        assert [message["role"] for message in last] == ["user", "assistant", "user"]
        assert f"{server.bill.total.total_tokens:,} in all" in err

    @pytest.mark.parametrize("end", ["", "  ", "/quit"])
    def test_it_ends(self, talk: Any, server: Simulator, end: str) -> None:
        assert talk(server.base_url, end, "never asked")[0] == 0
        assert server.requests == []

    def test_ctrl_c_at_the_prompt_ends_it(self, talk: Any, server: Simulator) -> None:
        code, _, err = talk(server.base_url, KeyboardInterrupt)
        assert code == 130
        assert "Traceback" not in err

    def test_an_error_does_not_end_it(self, talk: Any) -> None:
        with Simulator(faults=["bad_request", "ok"]) as simulator:
            code, out, err = talk(simulator.base_url, "One?", "Two?")
            bodies = [json.loads(request.body)["messages"] for request in simulator.requests]
        assert code == 0
        assert "HTTP 400" in err
        assert "Two?" in out
        assert len(bodies[1]) == 1  # a question without an answer is not repeated

    def test_a_broken_answer_is_not_taken_for_whole(self, talk: Any) -> None:
        with Simulator(faults=["cut"]) as simulator:
            code, _, err = talk(simulator.base_url, "One?")
        assert code == 0
        assert "the answer broke off" in err

    def test_retries_are_told(self, talk: Any) -> None:
        with Simulator(faults=["server_error", "rate_limit", "ok"]) as simulator:
            _, out, err = talk(simulator.base_url, "One?")
        assert "One?" in out
        assert "2 retries" in err

    def test_ctrl_c_cancels_an_answer_only(
        self, talk: Any, server: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lc_service.service import OpenAIService

        stream_chat, calls = OpenAIService.stream_chat, []

        def interrupted(self: OpenAIService, messages: Any) -> Iterator[str]:
            calls.append(messages)
            for piece in stream_chat(self, messages):
                yield piece
                if len(calls) == 1:
                    raise KeyboardInterrupt

        monkeypatch.setattr(OpenAIService, "stream_chat", interrupted)
        code, out, err = talk(server.base_url, "One?", "Two?")
        assert code == 0
        assert "Cancelled" in err
        assert "Two?" in out
        assert len(calls[1]) == 1


class TestSimulate:
    def test_it_serves_and_stops_by_itself_with_the_bill(self) -> None:
        started = Started("simulate", "--port", "0", "--stop-after-seconds", "3")
        url = started.read_until(r"export OPENAI_BASE_URL=(\S+)")[1]
        client = openai.OpenAI(base_url=url, api_key="any", max_retries=0)
        answer = client.chat.completions.create(
            model="gpt-4.1-mini", messages=[{"role": "user", "content": "Hello"}]
        )
        client.close()
        out, err = started.process.communicate(timeout=20)
        assert (started.process.returncode, err) == (0, "")
        assert answer.usage is not None
        assert re.search(rf"gpt-4.1-mini +chat +1 .* {answer.usage.total_tokens} ", out)

    def test_ctrl_c_is_its_normal_end(self) -> None:
        started = Started("simulate", "--port", "0")
        started.read_until("lc-service chat")
        code, out, err, seconds = started.interrupt()
        assert (code, err) == (0, "")
        assert "Nothing was billed." in out
        assert seconds < 15

    def test_limits_faults_and_key_reach_the_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from lc_service import simulator
        from lc_service.simulator import Bill, FaultPlan, ServerLimits

        given: dict[str, Any] = {}
        monkeypatch.setattr(simulator, "run_simulator", lambda **options: given.update(options) or Bill())
        options = (
            "--port 99 --requests-per-minute 60 --tokens-per-minute 900 --burst-seconds 2 --headers minute "
            "--no-retry-after --faults 0.5 --fault-kinds reset,slow --seed 3 --latency-seconds 0.1 "
            "--api-key sk-x --stop-after-seconds 9"
        )
        assert main(["simulate", *options.split()]) == 0
        assert given.pop("on_start") is not None
        assert given == {
            "port": 99,
            "limits": ServerLimits(
                requests_per_minute=60,
                tokens_per_minute=900,
                burst_seconds=2,
                headers="minute",
                sends_retry_after=False,
            ),
            "faults": FaultPlan(seed=3, rate=0.5, kinds=["reset", "slow"]),
            "api_key": "sk-x",
            "latency_seconds": 0.1,
            "stop_after_seconds": 9,
        }

    def test_a_port_in_use(self, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            assert main(["simulate", "--port", str(port)]) == 2
        assert f"port {port} cannot be had" in assert_one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "No such command"),
        (["demo", "--nope"], "No such option"),
        (["demo", "--faults", "3"], "--faults"),
        (["demo", "--concurrency", "0"], "--concurrency"),
        (["demo", "--documents", "80"], "has 79 documents"),
        (["demo", "--chain", "no_such_module:build"], "No module named 'no_such_module'"),
        (["demo", "--chain", "chains:nope"], "has no function nope"),
        (["demo", "--chain", "builtins:str"], "makes no chain"),
        (["demo", "--model", ""], "model"),
        (["simulate", "--port", "70000"], "--port"),
        (["simulate", "--headers", "some"], "--headers"),
        (["simulate", "--fault-kinds", "nope"], "unknown fault 'nope'"),
        (["chat", "hi", "--temperature", "9"], "--temperature"),
        (["usage", "sqlite:///nowhere.db"], "there is no ledger at this URL"),
        (["usage", "mysql://u:sk-secret@127.0.0.1/x"], "not mysql://"),
        (["usage", "x.db", "--by", ""], "metadata:KEY; not by ''"),
        (["usage", "x.db", "--until", "9999999999d"], "--until takes 2026-11-01, "),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert words in assert_one_line(capsys.readouterr().err)


def test_to_look_at_what_is_no_ledger_makes_none_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty file, and a database of another program."""
    (tmp_path / "empty.db").touch()
    with contextlib.closing(sqlite3.connect("other.db")) as other:
        other.execute("create table notes (text)")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in before:
        assert main(["usage", name]) == 2
        assert assert_one_line(capsys.readouterr().err) == f"lc-service: there is no ledger {name}"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_wrong_setting_is_named_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LC_SERVICE_TEMPERATURE", "sk-secret")
    assert main(["chat", "hi"]) == 2
    line = assert_one_line(capsys.readouterr().err)
    assert "LC_SERVICE_TEMPERATURE" in line
    assert "secret" not in line


def test_the_unexpected_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError("sk-secret")

    monkeypatch.setattr("lc_service.simulator.run_simulator", fail)
    assert main(["simulate"]) == 1
    assert assert_one_line(capsys.readouterr().err) == (
        "lc-service: unexpected ZeroDivisionError; --debug shows where"
    )


@pytest.mark.parametrize("before", [None, "intranet.test"])
def test_a_proxy_of_the_environment_is_as_it_was_after_a_command(
    before: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        if before is not None:
            monkeypatch.setenv(name, before)
    assert main(["demo", "--documents", "1", "--json"]) == 0
    assert {os.environ.get(name) for name in ("no_proxy", "NO_PROXY")} == {before}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"lc-service \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize("words", ["", "--help", *(f"{command} --help" for command in COMMANDS)])
def test_help_documents_the_exit_codes(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 0
    out = " ".join(capsys.readouterr().out.split())
    for code in EXIT_CODES:
        assert re.search(rf"\b{code} [a-z]", out)


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
from lc_service.cli import main
main(["--help"])
sys.exit(str({name.split(".")[0] for name in sys.modules} & {"langchain_core", "openai", "starlette"}))
"""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        capture_output=True, text=True, encoding="utf-8", timeout=20, check=False, env=environment(),
    )  # fmt: skip
    assert done.stderr == "set()\n"


def test_a_closed_pipe_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(  # noqa: S603
        [*COMMAND, "simulate", "--port", "0", "--stop-after-seconds", "5"],
        stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.PIPE, text=True, timeout=30, check=False,
        env=environment(),
    )  # fmt: skip
    os.close(write)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


SETTINGS = """\
`python -m lc_service` is the same program. Settings come from options, then from the environment
(`OPENAI_API_KEY`, `OPENAI_BASE_URL`, `LC_SERVICE_MODEL`, …), then from a `.env` file."""


FILES = {
    "tides.txt": "High water is at six in the morning. Low water is at noon. The causeway is dry till three.",
    "lamp.txt": "The lamp of the lighthouse is lit at dusk by the keeper. He puts it out when the sun is up.",
    "light.json": '{"type": "object", "properties": {"keeper": {"type": "string"}}, "required": ["keeper"]}',
}
EXAMPLES = {
    "chains": ["chains"],
    "chain": [
        "chain summarize tides.txt lamp.txt --set max_sentences=1",
        "chain ask lamp.txt --question 'Who lights the lamp?' --json",
        "chain classify tides.txt --label 'tide=water and its hours' --label light",
        "chain extract lamp.txt --schema light.json",
        "chain translate tides.txt",
    ],
}


def _printed(name: str) -> str:
    """Run a command's examples against the simulator, and write what a terminal shows."""
    shown = []
    with tempfile.TemporaryDirectory() as directory:
        for file, text in FILES.items():
            Path(directory, file).write_text(text, encoding="utf-8")
            if any(file in words for words in EXAMPLES[name]):
                shown.append(f"$ cat {file}\n{text}\n")
        for words in EXAMPLES[name]:
            done = subprocess.run(  # noqa: S603
                [*COMMAND, *shlex.split(words)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=50,
                check=False, text=True, encoding="utf-8", cwd=directory, env=environment(),
            )  # fmt: skip
            out = "\n".join(line.rstrip() for line in done.stdout.splitlines() if line.strip())
            out = re.sub(r"\d+\.\d s$", "0.4 s", out, flags=re.MULTILINE)
            shown.append(f"$ lc-service {words}\n{out}\n")
    return "```console\n" + "\n".join(shown) + "```"


def reference() -> str:
    """Write the reference from what the commands say of themselves, and print."""
    root: Any = typer.main.get_command(app)
    parts = [
        "# Command line",
        "<!-- python tests/test_cli.py > docs/cli.md -->",
        root.help,
        SETTINGS,
        _options(root),
    ]
    for name in root.commands:
        command = root.commands[name]
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        argument = "".join(f" {p.metavar if p.required else f'[{p.name.upper()}]'}" for p in arguments)
        parts += [f"## lc-service {name}", f"    lc-service {name} [OPTIONS]{argument}"]
        parts += [_joined(command.help), _options(command)]
        parts += ["For instance:", _printed(name)] if name in EXAMPLES else []
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    parts += ["## Exit codes", f"| Code | Meaning |\n|---|---|\n{codes}"]
    parts += ["An error is one line on stderr; `--debug` adds its traceback, which may quote prompts."]
    return "\n\n".join(parts) + "\n"


def _joined(text: str) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _options(command: Any) -> str:
    rows = ["| Option | Default | |", "|---|---|---|"]
    for param in command.params:
        if param.name == "help":
            continue
        is_argument = param.param_type_name == "argument"
        names = param.name.upper() if is_argument else ", ".join(param.opts)
        takes_value = not is_argument and not isinstance(param.default, bool)
        metavar = f" {param.metavar}".replace("|", "\\|") if takes_value else ""
        has_default = param.default is not None and not isinstance(param.default, bool)
        default = f"`{getattr(param.default, 'value', param.default)}`" if has_default else ""
        rows.append(f"| `{names}{metavar}` | {default} | {param.help} |")
    return "\n".join(rows)


def _without_prices(text: str) -> str:
    return re.sub(r'(?<=\$|")\d+\.\d+', "0", text)  # those of today's price list


def test_the_reference_is_in_step_with_the_commands() -> None:
    told = _without_prices(DOCS.read_text(encoding="utf-8"))
    assert told == _without_prices(reference()), "run: python tests/test_cli.py > docs/cli.md"


if __name__ == "__main__":
    sys.stdout.write(reference())
