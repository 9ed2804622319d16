"""Measure flow: ours and its peers against a server that enforces limits, side by side.

Run: python benchmarks/scenarios.py [--quick] [--only ours,litellm] [--scenario rpm,tpm] [--items 300]

A line for every run; with all scenarios and peers, the table and the plot in benchmarks/results too. Peers
get virtual environments of their own under .bench/, made when first needed.
"""

from __future__ import annotations

import argparse
import sys

from flow.peers import PEERS, Peer, install
from flow.run import Outcome, run
from flow.scenario import SCENARIOS, Scenario, with_items
from flow.verdict import followed, misses

QUICK_ITEMS = 250
TIME_LIMIT_FLOORS = {False: 10.0, True: 4.0}  # by whether it is a quick run


def chosen(names: str | None, known: dict, parser: argparse.ArgumentParser) -> list:
    """Return the entries that are named, separated by commas; all where none are."""
    wanted = names.split(",") if names else list(known)
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


def is_asked(scenario: Scenario, peer: Peer) -> bool:
    """Tell whether the scenario says something about the peer."""
    if scenario.processes > 1:
        return peer.name == "ours"
    knows_requests_only = peer.told == {"requests"}
    has_token_limit = scenario.limits is not None and scenario.limits.tokens_per_minute is not None
    return not (knows_requests_only and has_token_limit)


def line(outcome: Outcome) -> str:
    """Return one run as a line."""
    head = f"{outcome.scenario.name:15}{outcome.peer:16}"
    if outcome.note:
        return head + outcome.note
    text = (
        f"{head}{outcome.answered:5} answered {outcome.wrong:3} wrong {outcome.lost:4} lost "
        f"{outcome.seconds:7.2f} s {outcome.floor_ratio:7.3f} x floor "
        f"{outcome.rejections / outcome.items:7.2%} rejected ({outcome.rejections}) "
        f"{outcome.cpu_milliseconds:5.2f} ms CPU"
    )
    if outcome.served is not None and outcome.scenario.changes:
        rates = followed(outcome.scenario, outcome.served)
        text += "  third second: " + ", ".join(f"{rate:.0f} of {limit:.0f}" for rate, limit in rates)
    if outcome.fault_free_seconds is not None:
        text += f"  {outcome.fault_free_seconds / outcome.seconds:.3f} x the fault-free rate"
    if outcome.peer == "ours":
        missed = misses(outcome)
        text += "  MISS: " + "; ".join(missed) if missed else "  PASS"
    elif not outcome.is_done:
        text += "  not done"
    return text + (f"  {dict(outcome.errors)}" if outcome.errors else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help=f"about {QUICK_ITEMS} items, stopped after 4 floors"
    )
    parser.add_argument("--only", help="peers, separated by commas: " + ", ".join(PEERS))
    parser.add_argument("--scenario", help="scenarios, separated by commas: " + ", ".join(SCENARIOS))
    parser.add_argument("--items", type=int, help="items of each run")
    options = parser.parse_args()
    scenarios = chosen(options.scenario, SCENARIOS, parser)
    peers = chosen(options.only, PEERS, parser)
    items = options.items or (QUICK_ITEMS if options.quick else None)
    failures = {peer.name: install(peer) for peer in peers}
    is_met = True
    for scenario in (with_items(each, items) for each in scenarios):
        for peer in peers:
            if not is_asked(scenario, peer):
                continue
            if note := failures[peer.name]:
                outcome = Outcome(scenario=scenario, peer=peer.name, note=note)
            else:
                outcome = run(scenario, peer, TIME_LIMIT_FLOORS[options.quick])
            print(line(outcome), flush=True)
            is_met &= bool(outcome.note) or peer.name != "ours" or not misses(outcome)
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
