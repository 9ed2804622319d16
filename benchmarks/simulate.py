"""Simulate fleets of clients against limits, without wall time, and write the table.

Run: python benchmarks/simulate.py [--quick] [--only TEXT] [--output docs/simulation.md]

A line for every cell; with `--quick` the cells of up to 2,000 items, one seed each.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from simulation.cells import GROUPS
from simulation.result import run
from simulation.table import markdown, row

QUICK_ITEMS = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"cells of up to {QUICK_ITEMS} items, one seed")
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--output", type=Path, help="where the table is written to")
    options = parser.parse_args()
    groups = {}
    for title, scenarios in GROUPS.items():
        groups[title] = []
        for scenario in scenarios:
            if options.only not in scenario.name or (options.quick and scenario.items > QUICK_ITEMS):
                continue
            began = time.perf_counter()
            seeds = scenario.seeds[:1] if options.quick else scenario.seeds
            groups[title].append([run(scenario, seed) for seed in seeds])
            print(f"{time.perf_counter() - began:5.1f} s {row(groups[title][-1])}", flush=True)
    if options.output is not None:
        options.output.write_text(
            markdown({title: cells for title, cells in groups.items() if cells}), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
