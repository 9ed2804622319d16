"""Measure how many plain chat requests a second one core of the simulator serves, limits on.

The simulator runs in a process of its own on one core; this process drives it from another over 32
keep-alive connections with a raw asyncio client, which costs far less than the server. Bounded:
five runs of a fixed number of requests, each no longer than a fixed time.

Run: python benchmarks/simulator_throughput.py [--requests 6000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection

from lc_service.simulator import ServerLimits, Simulator

CONNECTIONS = 32
RUNS = 5
RUN_SECONDS = 20.0
TARGET_REQUESTS_PER_SECOND = 2_000

TEXT = (
    "The library opened in 1887 and has been renovated twice. Its reading room seats two hundred. "
    "Visitors come for the maps, which the library has collected since its first year. The oldest "
    "map shows the harbour before the great fire. Entrance is free on Sundays. "
) * 2


def pin(core: int) -> None:
    """Keep this process on one of its cores, where the system allows it."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def serve(pipe: Connection) -> None:
    """Run the simulator and answer with its CPU seconds whenever asked."""
    pin(1)
    limits = ServerLimits(requests_per_minute=60_000_000, tokens_per_minute=60_000_000_000)
    with Simulator(limits=limits, max_lifetime_seconds=RUNS * RUN_SECONDS + 60) as simulator:
        pipe.send(simulator.base_url)
        while pipe.recv() == "cpu":
            pipe.send((time.process_time(), simulator.bill.requests))


def request_bytes(port: int, number: int) -> bytes:
    messages = [{"role": "user", "content": f"Summarise text {number}:\n{TEXT}"}]
    body = json.dumps({"model": "gpt-4.1-mini", "messages": messages, "max_tokens": 200}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"authorization: Bearer sk-test\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def drive(port: int, payloads: list[bytes]) -> float:
    """Send all payloads, return the seconds it took."""
    queue = iter(payloads)

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for payload in queue:
            writer.write(payload)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            start = head.index(b"content-length: ") + 16
            await reader.readexactly(int(head[start : head.index(b"\r\n", start)]))
        writer.close()
        await writer.wait_closed()

    began = time.perf_counter()
    async with asyncio.timeout(RUN_SECONDS):
        await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=6_000, help="requests of each run")
    count = parser.parse_args().requests
    context = multiprocessing.get_context("spawn")
    pipe, other_end = context.Pipe()
    server = context.Process(target=serve, args=(other_end,), daemon=True)
    server.start()
    pin(0)
    port = int(pipe.recv().rsplit(":", 1)[1].removesuffix("/v1"))
    payloads = [request_bytes(port, number) for number in range(count)]
    asyncio.run(drive(port, payloads[:500]))  # warm up
    rates, costs = [], []
    for run in range(RUNS):
        pipe.send("cpu")
        cpu_before, served_before = pipe.recv()
        seconds = asyncio.run(drive(port, payloads))
        pipe.send("cpu")
        cpu_after, served_after = pipe.recv()
        assert served_after - served_before == count, "the bill does not show every request"
        rates.append(count / seconds)
        costs.append((cpu_after - cpu_before) / count * 1e6)
        print(f"run {run + 1}: {rates[-1]:7,.0f} requests/s  {costs[-1]:5.0f} us CPU a request")
    pipe.send("stop")
    server.join(10)
    rate = statistics.median(rates)
    print(
        f"median: {rate:,.0f} requests/s on one core, {statistics.median(costs):.0f} us CPU a "
        f"request ({len(payloads[0])} byte requests, {CONNECTIONS} connections, limits on); "
        f"target {TARGET_REQUESTS_PER_SECOND:,}: {'met' if rate >= 2_000 else 'NOT MET'}"
    )


if __name__ == "__main__":
    main()
