"""`lc-service chat`: one answer, or a conversation.

Answers go to stdout and everything else to stderr. No failed or cancelled answer ends a conversation.
"""

# ruff: noqa: PLC0415  importing what a command needs takes longer than printing the help

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lc_service import clock
from lc_service.cli.options import (
    FAILED,
    INTERRUPTED,
    OK,
    USAGE,
    CommandError,
    Debug,
    Model,
    Verbose,
    direct_loopback,
    option,
    set_up_logging,
    usage_errors,
)

if TYPE_CHECKING:
    from lc_service.retry.event import RetryEvent


def chat(
    prompt: Annotated[str | None, typer.Argument(help="One question; else stdin, or a conversation.")] = None,
    *,
    model: Model = None,
    system: Annotated[str | None, option(metavar="TEXT", help="Instructions that come first.")] = None,
    temperature: Annotated[float | None, option(min=0, max=2, help="Sampling temperature.")] = None,
    base_url: Annotated[
        str | None, option(metavar="URL", help="The API's URL; else OPENAI_BASE_URL, or OpenAI's own.")
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
    set_up_logging(err, verbose)
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        raise CommandError("the prompt is empty")
    with contextlib.ExitStack() as stack:
        with err.status("Loading…"), usage_errors():
            stack.enter_context(direct_loopback())
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
        """Find who answers, for as long as `stack` is open."""
        from lc_service.cli.connection import connect

        self._service = connect(stack, self._err, base_url, on_retry=self._show_retry, **options)

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
