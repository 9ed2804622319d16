"""`lc-service simulate`: serve the simulator until Ctrl-C, then print its bill."""

# ruff: noqa: PLC0415  importing what a command needs takes longer than printing the help

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from lc_service.cli.options import (
    OK,
    CommandError,
    Debug,
    Faults,
    RequestsPerMinute,
    Seed,
    TokensPerMinute,
    option,
    usage_errors,
)

if TYPE_CHECKING:
    from lc_service.simulator import Bill, Simulator


class Headers(StrEnum):
    """What the simulator's `x-ratelimit-*` headers say."""

    TRUE = "true"
    MINUTE = "minute"
    NONE = "none"


def simulate(
    *,
    port: Annotated[int, option(min=0, max=65_535, help="TCP port on 127.0.0.1; 0 takes a free one.")] = 8089,
    requests_per_minute: RequestsPerMinute = 0,
    tokens_per_minute: TokensPerMinute = 0,
    burst_seconds: Annotated[
        float,
        option(metavar="SECONDS", min=0.001, help="Span over which the limits hold; 60 allows bursts."),
    ] = 1.0,
    headers: Annotated[
        Headers,
        option(
            metavar="true|minute|none", help="x-ratelimit-*: as enforced, as for a whole minute, or none."
        ),
    ] = Headers.TRUE,
    no_retry_after: Annotated[
        bool, typer.Option("--no-retry-after", help="Rejections do not say when to come again.")
    ] = False,
    faults: Faults = 0.0,
    fault_kinds: Annotated[
        str, option(metavar="KIND,...", help="What the faults are; an unknown one lists them all.")
    ] = "rate_limit,server_error,unavailable,reset",
    seed: Seed = 7,
    latency_seconds: Annotated[
        float, option(metavar="SECONDS", min=0, help="Time before the first byte of an answer.")
    ] = 0.0,
    api_key: Annotated[
        str | None, option(metavar="KEY", help="Refuse every other key with 401; else any word will do.")
    ] = None,
    stop_after_seconds: Annotated[
        float | None, option(metavar="SECONDS", min=0.001, help="Stop by itself; else on Ctrl-C.")
    ] = None,
    debug: Debug = False,
) -> int:
    """Serve OpenAI's protocol on this machine, with limits, faults and a bill.

    For trying any OpenAI client without a key: chat completions, responses and embeddings, plain and
    streamed. It listens on 127.0.0.1 only. Ctrl-C is its normal end: it prints the bill and exits with 0.
    """
    del debug
    from lc_service.simulator import FaultPlan, ServerLimits, run_simulator

    with usage_errors():
        limits = ServerLimits(
            requests_per_minute=requests_per_minute or None,
            tokens_per_minute=tokens_per_minute or None,
            burst_seconds=burst_seconds,
            headers=headers.value,
            sends_retry_after=not no_retry_after,
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
