"""What accounting adds to a call: counting, pricing, ledger, in microseconds of CPU time a call, all threads.

The answers come from memory, so nothing but the client's own work is timed. The variants take turns within
each round, so a noisy machine slows all of them; the figures are medians over the rounds.
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

from lc_service import ReliableChatOpenAI, TokenCounter, UsageLedger, track_usage

CALLS = 300
ROUNDS = 15
IN_FLIGHT = 64
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


def sync_seconds(model, config) -> float:
    started = time.process_time()
    for _ in range(CALLS):
        model.invoke(TEXT, config)
    return time.process_time() - started


async def _drive(model, config) -> None:
    async def worker() -> None:
        for _ in range(max(1, CALLS // IN_FLIGHT)):
            await model.ainvoke(TEXT, config)

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


def async_seconds(model, config) -> float:
    started = time.process_time()
    asyncio.run(_drive(model, config))
    return (time.process_time() - started) * CALLS / (max(1, CALLS // IN_FLIGHT) * IN_FLIGHT)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        committed = UsageLedger(Path(folder) / "process.db")
        buffered = UsageLedger(Path(folder) / "buffered.db", durability="buffered")
        counter = TokenCounter()
        stock, ours = make(ChatOpenAI, stream_usage=True), make(ReliableChatOpenAI)
        variants = {
            "ChatOpenAI": (stock, {}),
            "ChatOpenAI + UsageMetadataCallbackHandler": (
                stock,
                {"callbacks": [UsageMetadataCallbackHandler()]},
            ),
            "ReliableChatOpenAI": (ours, {}),
            "  + TokenCounter, priced": (ours, {"callbacks": [counter]}),
            "  + ledger, committed": (make(ReliableChatOpenAI, ledger=committed), {}),
            "  + ledger, buffered": (make(ReliableChatOpenAI, ledger=buffered), {}),
        }
        for kind, seconds in (
            ("invoke, one by one", sync_seconds),
            (f"ainvoke, {IN_FLIGHT} in flight", async_seconds),
        ):
            times: dict[str, list[float]] = {name: [] for name in variants}
            for number in range(ROUNDS + 1):
                for name, (model, config) in variants.items():
                    spent = seconds(model, config)
                    if name.endswith("priced"):
                        started = time.process_time()
                        assert counter.usage.cost_usd
                        spent += time.process_time() - started
                    if number:  # the first round warms up
                        times[name].append(spent / CALLS * 1e6)
            print(f"\n{kind}: µs a call, medians of {ROUNDS} rounds of {CALLS}")
            for name, values in times.items():
                paired = [a - b for a, b in zip(values, times["ReliableChatOpenAI"], strict=True)]
                added = f"{statistics.median(paired):+8.1f}" if name.startswith("  +") else ""
                print(f"{name:45} {statistics.median(values):8.1f} {added}")
        with track_usage() as usage:
            ours.invoke(TEXT)
        print(
            "\n", usage, usage.cost_usd, f"{sum(line.attempts for line in committed.lines().values())} rows"
        )
        committed.close()
        buffered.close()


if __name__ == "__main__":
    main()
