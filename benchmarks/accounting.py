"""What accounting adds to a call: counting, pricing, ledger, in microseconds of CPU time a call, all threads.

The answers come from memory, so nothing but the client's own work is timed. The second figure
is the median over the rounds of the difference to the line that it adds to.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import httpx2
import orjson
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_openai import ChatOpenAI

from lc_service import ReliableChatOpenAI, TokenCounter, UsageLedger

ROUNDS = 100  # each a few calls of every variant in turn, so that what slows the machine slows all alike
IN_FLIGHT = 64
SYNC_CALLS = 10
TEXT = "Name one use of copper, and say in a sentence why it is good for it. " * 4


def answer(_: httpx2.Request) -> httpx2.Response:
    body = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-5.4-mini",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Wire."}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 80, "completion_tokens": 3, "total_tokens": 83},
    }
    return httpx2.Response(200, content=orjson.dumps(body), headers={"content-type": "application/json"})


def make(cls, **options):
    transport = httpx2.MockTransport(answer)
    return cls(
        model="gpt-5.4-mini",
        api_key="sk-none",
        http_client=httpx2.Client(transport=transport),
        http_async_client=httpx2.AsyncClient(transport=transport),
        **options,
    )


def sync_seconds(model, config, _) -> float:
    started = time.process_time()
    for _ in range(SYNC_CALLS):
        model.invoke(TEXT, config)
    return (time.process_time() - started) / SYNC_CALLS


def async_seconds(model, config, runner) -> float:
    async def together() -> None:
        await asyncio.gather(*(model.ainvoke(TEXT, config) for _ in range(IN_FLIGHT)))

    started = time.process_time()
    runner.run(together())
    return (time.process_time() - started) / IN_FLIGHT


def measure(kind, seconds, variants, counter, runner) -> None:
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(ROUNDS + 5):
        for name, (model, config) in variants.items():
            spent = seconds(model, config, runner)
            if number >= 5:  # the first ones warm up
                times[name].append(spent * 1e6)
    started, calls = time.process_time(), counter.usage.calls
    assert counter.usage.cost_usd
    pricing = (time.process_time() - started) / calls * 1e6
    print(f"\n{kind}: µs of CPU a call, medians of {ROUNDS} rounds; what is left to price: {pricing:.1f}")
    for name, values in times.items():
        base = times["ReliableChatOpenAI" if name.startswith("  +") else "ChatOpenAI"]
        added = statistics.median(a - b for a, b in zip(values, base, strict=True))
        print(f"{name:45} {statistics.median(values):8.1f} {added:+8.1f}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        committed = UsageLedger(Path(folder) / "process.db")
        buffered = UsageLedger(Path(folder) / "buffered.db", durability="buffered")
        counter = TokenCounter()
        stock, ours = make(ChatOpenAI, stream_usage=True), make(ReliableChatOpenAI)
        langchains = {"callbacks": [UsageMetadataCallbackHandler()]}
        variants = {
            "ChatOpenAI": (stock, {}),
            "ChatOpenAI + UsageMetadataCallbackHandler": (stock, langchains),
            "ReliableChatOpenAI": (ours, {}),
            "  + TokenCounter, priced": (ours, {"callbacks": [counter]}),
            "  + ledger, committed": (make(ReliableChatOpenAI, ledger=committed), {}),
            "  + ledger, buffered": (make(ReliableChatOpenAI, ledger=buffered), {}),
        }
        measure("invoke, one by one", sync_seconds, variants, counter, runner)
        measure(f"ainvoke, {IN_FLIGHT} in flight", async_seconds, variants, counter, runner)
        committed.close()
        buffered.close()


if __name__ == "__main__":
    main()
