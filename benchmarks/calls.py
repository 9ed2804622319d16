"""What a call costs the client: CPU time of ours beside bare ChatOpenAI and the bare SDK, imports, memory.

The simulator has a process of its own; the variants take turns, a short one each, so that what slows the
machine slows all alike. CPU time is of this process, all threads. Figures with a bound say PASS or MISS.

Run: python benchmarks/calls.py [--turns 15] [--calls 200] [--only async,sync,imports,memory] [--full]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import openai
from flow.scenario import Scenario
from flow.server import Server
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_openai import ChatOpenAI

from lc_service import Budget, ReliableChatOpenAI, TokenCounter, UsageLedger

MODEL, KEY, MAX_TOKENS = "gpt-4.1-mini", "sk-none", 16
IN_FLIGHT = 64
TEXT = "Name one use of copper, and say in a sentence why it is good for it. " * 4
SDK, STOCK, FIELD = "OpenAI SDK", "ChatOpenAI", "ChatOpenAI.with_retry + usage callback"
OURS, WHOLE = "ReliableChatOpenAI", "ReliableChatOpenAI, everything on"
EVERYTHING = "retry, limiter, TokenCounter, Budget, SQLite ledger"
BOUNDS = {
    "async": {STOCK: 0.75, SDK: 1.0},
    "sync": {STOCK: 1.05},
}
IMPORT_MILLISECONDS = 50
GROWTH_BYTES_A_CALL = 20  # less than any object that would be kept; the allocator's noise is about 5


@dataclass(frozen=True)
class Variant:
    """One way to make a call: `call` in a thread, `acall` in a loop."""

    call: Callable[[], object]
    acall: Callable[[], Awaitable[object]]


def of_model(model, config=None) -> Variant:
    return Variant(lambda: model.invoke(TEXT, config), lambda: model.ainvoke(TEXT, config))


def variants(base_url: str, ledger: UsageLedger) -> dict[str, Variant]:
    sdk = {"base_url": base_url, "api_key": KEY}
    model = {**sdk, "model": MODEL, "max_tokens": MAX_TOKENS}
    said = {
        "model": MODEL,
        "max_completion_tokens": MAX_TOKENS,
        "messages": [{"role": "user", "content": TEXT}],
    }
    client, async_client = openai.OpenAI(**sdk), openai.AsyncOpenAI(**sdk)
    stock = ChatOpenAI(**model)
    field = stock.with_retry(stop_after_attempt=3)
    budget = Budget(usd=1e6, strict=False)
    whole = ReliableChatOpenAI(**model, budget=budget, ledger=ledger)
    return {
        SDK: Variant(
            lambda: client.chat.completions.create(**said),
            lambda: async_client.chat.completions.create(**said),
        ),
        STOCK: of_model(stock),
        FIELD: of_model(field, {"callbacks": [UsageMetadataCallbackHandler()]}),
        OURS: of_model(ReliableChatOpenAI(**model)),
        WHOLE: of_model(whole, {"callbacks": [TokenCounter()]}),
    }


def sync_turn(variant: Variant, calls: int) -> float:
    started = time.process_time()
    for _ in range(calls):
        variant.call()
    return (time.process_time() - started) / calls


async def async_turn(variant: Variant, calls: int) -> float:
    numbers = iter(range(calls))

    async def worker() -> None:
        for _ in numbers:
            await variant.acall()

    started = time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return (time.process_time() - started) / calls


def measure(kind: str, turn, made: dict[str, Variant], turns: int, calls: int) -> bool:
    times: dict[str, list[float]] = {name: [] for name in made}
    for variant in made.values():
        turn(variant, calls)  # warm up
    for _ in range(turns):
        for name, variant in made.items():
            gc.collect()
            times[name].append(turn(variant, calls) * 1e6)
    middle = {name: statistics.median(values) for name, values in times.items()}
    # ratios of figures that were taken side by side, then their median
    ratio = {
        (name, base): statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))
        for name in made
        for base in (STOCK, SDK)
    }
    how = f"ainvoke, {IN_FLIGHT} in flight" if kind == "async" else "invoke, one by one"
    print(f"\n{how}: CPU a call, medians of {turns} turns of {calls} calls")
    print(f"{'':42}{'µs':>8}{'x ChatOpenAI':>14}{'x SDK':>8}")
    for name in made:
        print(f"{name:42}{middle[name]:8.0f}{ratio[name, STOCK]:14.2f}{ratio[name, SDK]:8.2f}")
    verdicts = [
        told(ratio[WHOLE, base] <= bound, f"everything on ({EVERYTHING}) / {base}", ratio[WHOLE, base], bound)
        for base, bound in BOUNDS[kind].items()
    ]
    return all(verdicts)


def told(is_met: bool, what: str, value: float, bound: float, form: str = ".2f") -> bool:
    print(f"{'PASS' if is_met else 'MISS'}: {what} = {value:{form}}, at most {bound:{form}}")
    return is_met


def measure_imports(rounds: int = 9) -> bool:
    """Compare interpreters that import LangChain's package alone, and ours after it."""
    alone = "import langchain_openai"
    ours, model = f"{alone}, lc_service", f"{alone}; from lc_service import ReliableChatOpenAI"
    times: dict[str, list[float]] = {alone: [], ours: [], model: []}
    for number in range(rounds + 1):
        for code, values in times.items():
            before = children_seconds()
            subprocess.run([sys.executable, "-c", code], check=True)
            if number:  # the first ones fill the caches
                values.append((children_seconds() - before) * 1e3)
    added = {
        code: statistics.median(a - b for a, b in zip(times[code], times[alone], strict=True))
        for code in (ours, model)
    }
    middle = statistics.median(times[alone])
    print(f"\n{alone}: {middle:.0f} ms of CPU; ReliableChatOpenAI adds {added[model]:.0f}")
    bound = IMPORT_MILLISECONDS
    return told(added[ours] <= bound, "import lc_service adds (ms)", added[ours], bound, ".0f")


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resident_bytes() -> int:
    gc.collect()
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def measure_memory(turn, variant: Variant, calls: int) -> bool:
    """Let the allocator settle with a fifth of the calls, then look at what the rest leave behind."""
    turn(variant, calls // 5)
    before = resident_bytes()
    turn(variant, calls)
    grown = (resident_bytes() - before) / calls
    print(f"\nresident memory over {calls:,} calls, {IN_FLIGHT} in flight, everything on")
    return told(grown <= GROWTH_BYTES_A_CALL, "bytes kept a call", grown, GROWTH_BYTES_A_CALL, ".1f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--calls", type=int, default=200, help="calls of a turn")
    parser.add_argument("--only", default="async,sync,imports,memory")
    parser.add_argument("--full", action="store_true", help="100,000 calls for memory instead of 20,000")
    options = parser.parse_args()
    kinds = options.only.split(",")
    verdicts = []
    nothing_to_wait_for = Scenario(name="calls", title="calls", items=0, latency_seconds=0.0)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(nothing_to_wait_for, 3_600.0) as server,
        UsageLedger(Path(folder) / "usage.db") as ledger,
        asyncio.Runner() as runner,
    ):
        made = variants(server.base_url, ledger)

        def together(variant: Variant, calls: int) -> float:
            return runner.run(async_turn(variant, calls))

        if "async" in kinds:
            verdicts.append(measure("async", together, made, options.turns, options.calls))
        if "sync" in kinds:
            verdicts.append(measure("sync", sync_turn, made, options.turns, options.calls))
        if "memory" in kinds:
            verdicts.append(measure_memory(together, made[WHOLE], 100_000 if options.full else 20_000))
    if "imports" in kinds:
        verdicts.append(measure_imports())
    sys.exit(0 if all(verdicts) else 1)


if __name__ == "__main__":
    main()
