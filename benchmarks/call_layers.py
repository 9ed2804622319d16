"""Where the time of a call goes: the same call made of more and more layers, which take turns.

What a layer costs is the median of its differences from the one before, measured side by side. The simulator
has a process of its own; CPU time is of this process, all threads.

Run: python benchmarks/call_layers.py [--turns 40] [--calls 64] [--only async,sync]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calls import KEY, MAX_TOKENS, MODEL, TEXT, Variant, async_turn, of_model, sync_turn
from flow.scenario import Scenario
from flow.server import Server
from langchain_openai import ChatOpenAI

from lc_service import Budget, ReliableChatOpenAI, TokenCounter, UsageLedger
from lc_service.models.configured_chat import ConfiguredChat
from lc_service.models.http import default_async_client, default_client


class BareChatOpenAI(ConfiguredChat, ChatOpenAI):
    """ReliableChatOpenAI without what it adds to a call."""


ASKED = {
    "model": MODEL,
    "max_completion_tokens": MAX_TOKENS,
    "messages": [{"role": "user", "content": TEXT}],
}


def layers(base_url: str, ledger: UsageLedger) -> dict[str, Variant]:
    """Return the layers from the wire up, each with all that is below it."""
    said: dict[str, Any] = {"base_url": base_url, "api_key": KEY, "model": MODEL, "max_tokens": MAX_TOKENS}
    bare = BareChatOpenAI(**said)
    off = {"rate_limits": None, "circuit_breaker": None}
    counted = {"callbacks": [TokenCounter()]}
    budget = Budget(usd=1e6, strict=False)
    return {
        "HTTP: httpx2 over aiohttp (async), httpcore (sync)": wire(base_url),
        "The SDK's request and answer, as JSON": completions(bare),
        "LangChain: invoke, callbacks, messages": of_model(bare),
        "Retry, prompt estimate, record": of_model(ReliableChatOpenAI(**said, **off)),
        "Circuit breaker": of_model(ReliableChatOpenAI(**said, rate_limits=None)),
        "Rate limiter": of_model(ReliableChatOpenAI(**said)),
        "TokenCounter": of_model(ReliableChatOpenAI(**said), counted),
        "Budget": of_model(ReliableChatOpenAI(**said, budget=budget), counted),
        "SQLite ledger": of_model(ReliableChatOpenAI(**said, budget=budget, ledger=ledger), counted),
    }


def wire(base_url: str) -> Variant:
    client, async_client = default_client(), default_async_client()
    what = {"url": f"{base_url}/chat/completions", "headers": {"Authorization": f"Bearer {KEY}"}}

    async def acall() -> object:
        return (await async_client.post(**what, json=ASKED)).json()

    return Variant(lambda: client.post(**what, json=ASKED).json(), acall)


def completions(model: BareChatOpenAI) -> Variant:
    async def acall() -> object:
        return (await model.async_client.with_raw_response.create(**ASKED)).parse()

    return Variant(lambda: model.client.with_raw_response.create(**ASKED).parse(), acall)


def measure(
    title: str, turn: Callable[[Variant, int], float], made: dict[str, Variant], turns: int, calls: int
) -> None:
    times: dict[str, list[float]] = {name: [] for name in made}
    for variant in made.values():
        turn(variant, calls)  # warm up
    for _ in range(turns):
        for name, variant in made.items():
            gc.collect()
            times[name].append(turn(variant, calls) * 1e6)
    print(f"\n{title}: µs of CPU a call, medians of {turns} turns of {calls} calls")
    print(f"{'':52}{'adds':>6}{'in all':>8}")
    below = [0.0] * turns
    for name, values in times.items():
        adds = statistics.median(a - b for a, b in zip(values, below, strict=True))
        print(f"{name:52}{adds:6.0f}{statistics.median(values):8.0f}")
        below = values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--calls", type=int, default=64, help="calls of a turn")
    parser.add_argument("--only", default="async,sync")
    options = parser.parse_args()
    nothing_to_wait_for = Scenario(name="calls", title="calls", items=0, latency_seconds=0.0)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(nothing_to_wait_for, 3_600.0) as server,
        UsageLedger(Path(folder) / "usage.db") as ledger,
        asyncio.Runner() as runner,
    ):
        made = layers(server.base_url, ledger)

        def together(variant: Variant, calls: int) -> float:
            return runner.run(async_turn(variant, calls))

        if "async" in options.only:
            title = "ainvoke, 64 in flight"
            measure(title, together, made, options.turns, options.calls)
        if "sync" in options.only.replace("async", ""):
            measure("invoke, one by one", sync_turn, made, options.turns, options.calls)


if __name__ == "__main__":
    main()
