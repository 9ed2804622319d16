"""Measure what pricing a call costs when warm, and what the first one costs.

Run: python benchmarks/pricing.py [--calls 20000]
"""

from __future__ import annotations

import argparse
import statistics
import time
from datetime import UTC, datetime
from typing import Any

from lc_service.accounting.pricing import ModelPrice, price, set_price
from lc_service.accounting.usage import TokenUsage

RUNS = 5
TARGET_MICROSECONDS = 2.0
USAGE = TokenUsage(input_tokens=1_200, cached_input_tokens=1_024, output_tokens=300, reasoning_tokens=100)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "now": ("gpt-4.1-mini", {}),
    "dated": ("gpt-4.1-mini", {"at": datetime(2026, 6, 1, 12, tzinfo=UTC)}),
    "batch": ("gpt-4.1-mini", {"service_tier": "batch"}),
    "priced by context": ("gpt-5.4", {}),
    "embeddings": ("text-embedding-3-small", {"operation": "embeddings"}),
    "own price": ("a private model", {}),
    "unknown": ("an unknown model", {}),
}


def microseconds(calls: int, model: str, options: dict[str, Any]) -> float:
    price(USAGE, model, **options)  # warm up
    began = time.perf_counter()
    for _ in range(calls):
        price(USAGE, model, **options)
    return (time.perf_counter() - began) / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="calls of each run")
    calls = parser.parse_args().calls
    began = time.perf_counter()
    price(USAGE, "gpt-4.1-mini")
    print(f"the first call, imports included: {(time.perf_counter() - began) * 1e3:.0f} ms")
    set_price("a private model", ModelPrice(input_usd_per_million=1, output_usd_per_million=2))  # type: ignore[arg-type]
    slowest = 0.0
    print(f"µs for a warm call, median of {RUNS} runs of {calls:,} calls, best in brackets")
    for name, (model, options) in CASES.items():
        runs = [microseconds(calls, model, options) for _ in range(RUNS)]
        slowest = max(slowest, statistics.median(runs))
        print(f"  {name:20}{statistics.median(runs):6.2f} ({min(runs):.2f})")
    verdict = "met" if slowest <= TARGET_MICROSECONDS else "NOT MET"
    print(f"target {TARGET_MICROSECONDS:.0f} µs: {verdict}")


if __name__ == "__main__":
    main()
