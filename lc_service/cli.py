"""The command line: `lc-service demo | chat | simulate`.

Every error is one line on stderr, with an exit code that says of what kind it is. A command imports what it
needs when it runs, so that `--help` is quick; the work itself is done elsewhere.
"""

# ruff: noqa: PLC0415  importing what a command needs takes longer than printing the help

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from rich import box
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from lc_service import clock

if TYPE_CHECKING:
    from lc_service.demo import DemoResult
    from lc_service.retry.policy import RetryEvent
    from lc_service.simulator import Bill, Simulator

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = {
    OK: "all is well",
    FAILED: "it ran and something is wrong: an item lost, an answer wrong or missing, counted not as billed",
    USAGE: "wrong usage or configuration: an option, a key, a model, a chain, a port in use",
    INTERRUPTED: "stopped by you: Ctrl-C, or no to the question that --live asks",
}
_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."

app = typer.Typer(
    name="lc-service",
    help="Reliable, accounted-for access to OpenAI models. All of it also runs without a key, against a "
    "simulator on this machine.",
    epilog=_EPILOG,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


class CommandError(Exception):
    """Raise to end a command with one line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class _Session:
    """What options of any command say about the whole invocation."""

    is_debug: bool = False


def _set_debug(context: typer.Context, is_debug: bool) -> bool:
    if isinstance(context.obj, _Session):
        context.obj.is_debug |= is_debug
    return is_debug


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"lc-service {importlib.metadata.version('lc-service')}")
        raise typer.Exit


class Headers(StrEnum):
    """What the simulator's `x-ratelimit-*` headers say."""

    TRUE = "true"
    MINUTE = "minute"
    NONE = "none"


def _option(*names: str, metavar: str = "N", **settings: Any) -> Any:
    return typer.Option(*names, metavar=metavar, **settings)


Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        envvar="LC_SERVICE_DEBUG",
        callback=_set_debug,
        is_eager=True,
        help="Show the traceback of an error; it may quote prompts.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log every retry on stderr.")]
Model = Annotated[
    str | None, _option(metavar="NAME", help="Chat model; else LC_SERVICE_MODEL, or a current small one.")
]
RequestsPerMinute = Annotated[float, _option(min=0, help="The simulator's request limit; 0 is unlimited.")]
TokensPerMinute = Annotated[float, _option(min=0, help="The simulator's token limit; 0 is unlimited.")]
Faults = Annotated[float, _option(metavar="RATE", min=0, max=1, help="Share of requests that meet a fault.")]
Seed = Annotated[int, _option(help="Another seed gives other faults.")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Debug = False,
) -> None:
    del version, debug  # their callbacks have seen to them
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


@app.command(epilog=_EPILOG)
def demo(
    *,
    documents: Annotated[int | None, _option(min=1, help="How many of the documents; else all.")] = None,
    chain: Annotated[
        str, _option(metavar="MODULE:FUNCTION", help="A function that makes a chain from a chat model.")
    ] = "chains.summarize:build_summarize_chain",
    faults: Faults = 0.2,
    requests_per_minute: RequestsPerMinute = 540,
    tokens_per_minute: TokensPerMinute = 200_000,
    concurrency: Annotated[int, _option(min=1, help="Items in progress at a time.")] = 16,
    seed: Seed = 7,
    model: Model = None,
    live: Annotated[
        bool, typer.Option("--live", help="Use the real API and your key. This costs money.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --live spends it.")] = False,
    show: Annotated[int, _option(min=0, help="How many answers to print.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Run a chain over real documents, against limits and faults, and check every token.

    The documents ship with the package: short texts in ten languages. The server is a simulator on this
    machine that limits, fails and bills as OpenAI does: no key, no network, no cost. Each answer is held
    against a rehearsal without faults, each token against the server's bill. A difference or a lost item
    ends in exit code 1.

    A chain of your own: --chain my_module:build_chain. Its input is a dictionary with title and text, and the
    same input has to get the same answer.
    """
    del debug
    out, err = Console(), Console(stderr=True)
    _set_up_logging(err, verbose)
    with err.status("Loading…"), _direct_loopback(), _usage_errors():
        from lc_service import demo as room

        settings = room.DemoSettings(
            faults=faults,
            requests_per_minute=requests_per_minute or None,
            tokens_per_minute=tokens_per_minute or None,
            seed=seed,
            concurrency=concurrency,
            model=model,
        )
        live_target = _live_target(model) if live else ""
        job = room.DemoJob(room.load_factory(chain), room.choose_documents(documents), settings)
        estimate = job.rehearse()
    if live and not yes:
        _confirm_cost(
            f"{len(job.documents)} documents, about {estimate.input_tokens:,} tokens in and "
            f"{estimate.output_tokens:,} or more out, go to {live_target} and are billed to your account."
        )
    if not as_json:
        room.show_plan(out, job, chain, is_live=live)
    with _direct_loopback(), room.progress_bar(err, job):
        result = job.run_live() if live else job.run_simulated()
    if as_json:
        typer.echo(json.dumps(result.as_dict(), ensure_ascii=False, indent=2))
    else:
        room.show_result(out, result, show)
    return _verdict(result)


def _live_target(model: str | None) -> str:
    """Return which model at which host a live run would use, after checking that it can be used at all."""
    from lc_service.service import OpenAIService, ServiceSettings

    OpenAIService(model=model)
    settings = ServiceSettings.load(model=model)
    return f"{settings.model} at {urlsplit(settings.base_url or 'https://api.openai.com').hostname}"


def _confirm_cost(what: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError("--live costs money: pass --yes to agree to it where nobody can be asked")
    if not typer.confirm(f"{what} Go on?", err=True):
        raise CommandError("nothing was sent", INTERRUPTED)


def _verdict(result: DemoResult) -> int:
    from lc_service.demo import INTERRUPTED as BY_CTRL_C

    if result.is_right:
        return OK
    reached = f"{result.answered} of {result.items} items answered"
    if result.stopped_by == BY_CTRL_C:
        raise CommandError(f"interrupted: {reached}; calls in flight may have been billed", INTERRUPTED)
    if result.stopped_by:
        exit_code = FAILED if result.answered else USAGE
        raise CommandError(f"stopped: {result.stopped_by}; {reached}", exit_code)
    problems = [
        f"{result.lost} of {result.items} items lost" if result.lost else "",
        f"{result.wrong} wrong answers" if result.wrong else "",
        "" if result.is_balanced else "counted is not what was billed",
    ]
    raise CommandError("; ".join(filter(None, problems)), FAILED)


@app.command(epilog=_EPILOG)
def chat(
    prompt: Annotated[str | None, typer.Argument(help="One question; else stdin, or a conversation.")] = None,
    *,
    model: Model = None,
    system: Annotated[str | None, _option(metavar="TEXT", help="Instructions that come first.")] = None,
    temperature: Annotated[float | None, _option(min=0, max=2, help="Sampling temperature.")] = None,
    base_url: Annotated[
        str | None, _option(metavar="URL", help="The API's URL; else OPENAI_BASE_URL, or OpenAI's own.")
    ] = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Chat with a model: answers stream in, and each tells its tokens and time.

    With a PROMPT, or one piped in, it answers that and ends: the answer goes to stdout, the rest to stderr.
    Else it keeps up a conversation until /quit, an empty line or Ctrl-D; Ctrl-C cancels an answer.

    The key is OPENAI_API_KEY. Without one, and without a URL, the built-in simulator answers.
    """
    del debug
    err = Console(stderr=True, highlight=False)
    _set_up_logging(err, verbose)
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        raise CommandError("the prompt is empty")
    with contextlib.ExitStack() as stack:
        with err.status("Loading…"), _usage_errors():
            stack.enter_context(_direct_loopback())
            conversation = _Conversation(err, system)
            conversation.connect(stack, base_url, model=model, temperature=temperature)
        if prompt is None:
            return _converse(conversation, err)
        try:
            conversation.ask(prompt)
        except KeyboardInterrupt:
            raise CommandError("interrupted; the answer so far may have been billed", INTERRUPTED) from None
        except Exception as error:
            raise _call_error(error) from error
    return OK


class _Conversation:
    """Questions and answers with one model; the answers go to stdout, everything else to `err`."""

    def __init__(self, err: Console, system: str | None) -> None:
        self._err = err
        self._history: list[tuple[str, str]] = [("system", system)] if system else []
        self._status = err.status("Waiting…")
        self._retries = 0

    def connect(self, stack: contextlib.ExitStack, base_url: str | None, **options: Any) -> None:
        """Make the service; without a key and a URL, start a simulator for as long as `stack` is open."""
        from lc_service.service import OpenAIService, ServiceSettings

        settings = ServiceSettings.load(base_url=base_url)
        policy = replace(settings.retry_policy(), on_retry=self._show_retry)
        key = settings.api_key.get_secret_value() if settings.api_key else ""
        url = settings.base_url
        if not key and url is None:
            from lc_service.simulator import Simulator

            simulator = Simulator(latency_seconds=0.3, chunk_delay_seconds=0.02, max_lifetime_seconds=86_400)
            url = stack.enter_context(simulator).base_url
            self._err.print("No OPENAI_API_KEY: answers come from the built-in simulator.", style="yellow")
        # a server of one's own may need no key, but the SDK needs a word
        self._service = OpenAIService(key or "none", base_url=url, retry=policy, **options)

    def _show_retry(self, event: RetryEvent) -> None:
        self._retries += 1
        self._status.update(f"Trying again in {event.wait_seconds:.1f} s ({event.verdict.kind})…")

    def ask(self, prompt: str) -> None:
        """Print the answer as it comes, then what it took; only a whole answer enters the history."""
        from lc_service import track_usage

        question = ("user", prompt)
        started, self._retries = clock.now(), 0
        self._status.update("Waiting…")
        with track_usage() as usage:
            answer = self._stream([*self._history, question])
        self._history += [question, ("assistant", answer)]
        spent, so_far = usage.total, self._service.usage.total
        facts = [f"{spent.input_tokens:,} tokens in, {spent.output_tokens:,} out"]
        facts += [f"{so_far.total_tokens:,} in all", f"{clock.now() - started:.1f} s"]
        if self._retries:
            facts.append("1 retry" if self._retries == 1 else f"{self._retries} retries")
        self._err.print(" · ".join(facts), style="dim")

    def _stream(self, messages: list[tuple[str, str]]) -> str:
        answer: list[str] = []
        try:
            self._status.start()
            for piece in self._service.stream_chat(messages):
                self._status.stop()
                typer.echo(piece, nl=False)
                answer.append(piece)
        finally:
            self._status.stop()
            if answer:
                typer.echo()
        return "".join(answer)


def _converse(conversation: _Conversation, err: Console) -> int:
    """Keep up a conversation until its user ends it; no failed or cancelled answer does."""
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # gives input() a history and line editing
    err.print("/quit, an empty line or Ctrl-D ends; Ctrl-C cancels an answer.", style="dim")
    while True:
        try:
            prompt = input("> ").strip()
        except EOFError:
            typer.echo()
            return OK
        if prompt in ("", "/quit"):
            return OK
        try:
            conversation.ask(prompt)
        except KeyboardInterrupt:
            err.print("Cancelled; what came of the answer may have been billed.", style="yellow")
        except Exception as error:  # noqa: BLE001  the conversation goes on
            err.print(f"{_call_error(error)}", style="red", markup=False)


def _call_error(error: Exception) -> CommandError:
    from lc_service.demo import describe, is_hopeless

    return CommandError(describe(error), USAGE if is_hopeless(error) else FAILED)


@app.command(epilog=_EPILOG)
def simulate(
    *,
    port: Annotated[
        int, _option(min=0, max=65_535, help="TCP port on 127.0.0.1; 0 takes a free one.")
    ] = 8089,
    requests_per_minute: RequestsPerMinute = 0,
    tokens_per_minute: TokensPerMinute = 0,
    burst_seconds: Annotated[
        float,
        _option(metavar="SECONDS", min=0.001, help="Span over which the limits hold; 60 allows bursts."),
    ] = 1.0,
    headers: Annotated[
        Headers,
        _option(
            metavar="true|minute|none", help="x-ratelimit-*: as enforced, as for a whole minute, or none."
        ),
    ] = Headers.TRUE,
    faults: Faults = 0.0,
    fault_kinds: Annotated[
        str, _option(metavar="KIND,...", help="What the faults are; an unknown one lists them all.")
    ] = "rate_limit,server_error,unavailable,reset",
    seed: Seed = 7,
    latency_seconds: Annotated[
        float, _option(metavar="SECONDS", min=0, help="Time before the first byte of an answer.")
    ] = 0.0,
    api_key: Annotated[
        str | None, _option(metavar="KEY", help="Refuse every other key with 401; else any word will do.")
    ] = None,
    stop_after_seconds: Annotated[
        float | None, _option(metavar="SECONDS", min=0.001, help="Stop by itself; else on Ctrl-C.")
    ] = None,
    debug: Debug = False,
) -> int:
    """Serve OpenAI's protocol on this machine, with limits, faults and a bill.

    For trying any OpenAI client without a key: chat completions, responses and embeddings, plain and
    streamed. It listens on 127.0.0.1 only. Ctrl-C is its normal end: it prints the bill and exits with 0.
    """
    del debug
    from lc_service.simulator import FaultPlan, ServerLimits, run_simulator

    with _usage_errors():
        limits = ServerLimits(
            requests_per_minute=requests_per_minute or None,
            tokens_per_minute=tokens_per_minute or None,
            burst_seconds=burst_seconds,
            headers=headers.value,
        )
        kinds = [kind.strip() for kind in fault_kinds.split(",")]
        plan = FaultPlan(seed=seed, rate=faults, kinds=kinds)
    try:
        bill = run_simulator(
            port=port,
            limits=limits,
            faults=plan if faults else None,
            api_key=api_key,
            latency_seconds=latency_seconds,
            stop_after_seconds=stop_after_seconds,
            on_start=_print_simulator,
        )
    except OSError as error:
        raise CommandError(f"port {port} cannot be had: {error.strerror}") from error
    _print_bill(bill)
    return OK


def _print_simulator(simulator: Simulator) -> None:
    url = simulator.base_url
    typer.echo(f"The simulator listens on {url} (Ctrl-C ends it and prints the bill). In another terminal:\n")
    typer.echo(f"  export OPENAI_BASE_URL={url}\n  export OPENAI_API_KEY=any-word\n  lc-service chat Hello\n")
    sys.stdout.flush()


def _print_bill(bill: Bill) -> None:
    table = Table(title="Bill", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("Model")
    table.add_column("Operation")
    for name in ("Requests", "Input", "Output", "Total"):
        table.add_column(name, justify="right")
    for (model, operation), line in sorted(bill.lines.items()):
        usage = line.usage
        numbers = (line.requests, usage.input_tokens, usage.output_tokens, usage.total_tokens)
        table.add_row(model, operation, *(f"{number:,}" for number in numbers))
    Console().print(table if bill.lines else "Nothing was billed.")


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    """Turn what a wrong setting raises, whose words are ours and quote no secret, into exit code 2."""
    try:
        yield
    except ValueError as error:
        raise CommandError(str(error)) from error


@contextlib.contextmanager
def _direct_loopback() -> Iterator[None]:
    """Keep a proxy of the environment out of the way to the simulator."""
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    known = before["no_proxy"] or before["NO_PROXY"]
    os.environ.update(dict.fromkeys(before, f"{known},127.0.0.1" if known else "127.0.0.1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _set_up_logging(console: Console, is_verbose: bool) -> None:
    """Send the log to `console`, where it does not break a progress bar, or nowhere."""
    handler = RichHandler(console=console, show_path=False) if is_verbose else logging.NullHandler()
    logging.basicConfig(handlers=[handler], format="%(message)s", datefmt="%X")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: Those after the program's name; the process's own where None.
    """
    session = _Session()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # not a text file
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may lack letters
    try:
        code = app(arguments, prog_name="lc-service", standalone_mode=False, obj=session)
    except CommandError as error:
        return _fail(str(error), error.exit_code, session)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED, session)
    except Exception as error:  # noqa: BLE001  the last resort: one line, as for every other error
        # what typer itself refuses, whichever of its releases: a usage error words itself
        if (words := getattr(error, "format_message", None)) is not None:
            return _fail(words(), USAGE, session)
        return _fail(f"unexpected {type(error).__name__}; --debug shows where", FAILED, session)
    if code == INTERRUPTED:
        return _fail("interrupted", INTERRUPTED, session)
    return code if isinstance(code, int) else OK


def _fail(message: str, exit_code: int, session: _Session) -> int:
    if session.is_debug and sys.exc_info()[0] is not None:
        traceback.print_exc()
    typer.echo(f"lc-service: {' '.join(message.split())}", err=True)
    return exit_code
