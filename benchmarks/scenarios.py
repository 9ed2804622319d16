"""Measure flow: ours and its peers against a server that enforces limits, side by side.

Run: python benchmarks/scenarios.py [--quick] [--only ours,litellm] [--scenario rpm,tpm] [--items 300]

A line for every run; with `--results FOLDER` the table and the plot are written there. Peers get virtual
environments of their own under .bench/, made when first needed.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flow.peers import PEERS, Peer, install, version
from flow.plot import draw
from flow.run import Outcome, run
from flow.scenario import CONCURRENCY, SCENARIOS, Scenario, with_items
from flow.table import markdown
from flow.verdict import followed, misses

QUICK_ITEMS = 250
CPU_ROUNDS = 3
TABLE, PLOT = "flow.md", "flow.svg"
TIME_LIMIT_FLOORS = {False: 10.0, True: 4.0}  # by whether it is a quick run


def chosen(names: str | None, known: dict, parser: argparse.ArgumentParser) -> list:
    """Return the entries that are named, separated by commas; all where none are."""
    wanted = names.split(",") if names else list(known)
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


def is_asked(scenario: Scenario, peer: Peer) -> bool:
    """Tell whether the scenario says something about the peer that its neighbours in the table do not."""
    if peer.name == "ours":
        return True
    if scenario.processes > 1:
        return False
    if scenario.is_cpu:
        return peer.variant not in {"max_retries", "rate_limiter"}  # they do what the default does
    has_token_limit = scenario.limits is not None and scenario.limits.tokens_per_minute is not None
    can_be_told = scenario.limits is not None and not has_token_limit
    return can_be_told if peer.variant == "rate_limiter" else True


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
    if outcome.peer == "ours" and not outcome.scenario.is_cpu:  # its bounds are other peers' CPU time
        missed = misses(outcome)
        text += "  MISS: " + "; ".join(missed) if missed else "  PASS"
    elif not outcome.is_done:
        text += "  not done"
    return text + (f"  {dict(outcome.errors)}" if outcome.errors else "")


class Session:
    """The runs of one call of this script, and where their results go."""

    def __init__(self, scenarios: list[Scenario], peers: list[Peer], options: argparse.Namespace) -> None:
        self.scenarios = scenarios
        self.peers = peers
        self.at_once: int = options.at_once
        self.time_limit_floors = TIME_LIMIT_FLOORS[options.quick]
        self.results: Path | None = options.results
        self.is_quick: bool = options.quick
        self.outcomes: dict[tuple[str, str], Outcome] = {}
        self.failures = {peer.name: install(peer) for peer in peers}
        self.versions = {peer.package: version(peer) for peer in peers}

    def run_all(self) -> None:
        """Run what is to be timed alone alone, and the rest several at once."""
        pairs = [(each, peer) for each in self.scenarios for peer in self.peers if is_asked(each, peer)]
        alone = [pair for pair in pairs if pair[1].name == "ours" or pair[0].is_cpu]
        for pair in alone:
            if not pair[0].is_cpu:
                self._run_one(*pair)
        for _ in range(CPU_ROUNDS):  # in turn, so that what slows the machine slows all alike
            for pair in alone:
                if pair[0].is_cpu:
                    self._run_one(*pair)
        with ThreadPoolExecutor(self.at_once) as pool:
            for _ in pool.map(
                lambda pair: self._run_one(*pair), [each for each in pairs if each not in alone]
            ):
                pass

    def _run_one(self, scenario: Scenario, peer: Peer) -> None:
        if note := self.failures[peer.name]:
            outcome = Outcome(scenario=scenario, peer=peer.name, note=note)
        else:
            outcome = run(scenario, peer, self.time_limit_floors)
        before = self.outcomes.get((scenario.name, peer.name))
        if before is None or outcome.cpu_seconds < before.cpu_seconds:  # only CPU time is measured again
            self.outcomes[scenario.name, peer.name] = outcome
        print(line(outcome), flush=True)
        self.write()

    def write(self) -> None:
        """Write the table and the plot of the runs so far, where results are kept."""
        if self.results is None:
            return
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        is_whole = len(self.scenarios) == len(SCENARIOS) and len(self.peers) == len(PEERS)
        kind = "a quick run" if self.is_quick else "a full run" if is_whole else "a run of a part"
        text = (
            f"# Flow\n\nWritten by `benchmarks/scenarios.py`, {kind}: {CONCURRENCY} calls at a time, limits "
            f"not told unless marked, stopped after {self.time_limit_floors:.0f} times the floor. "
            f"Ours and CPU time were measured alone, peers {self.at_once} at once. "
            "With faults ours has 256 calls under way, of which its limiter lets 64 out; "
            "peers have 64 in all.\n\n"
            f"{markdown(self.scenarios, self.peers, dict(self.outcomes))}\n"
            f"![Time over the floor, and items lost]({PLOT})\n\nPackages: {versions}.\n"
        )
        self.results.mkdir(parents=True, exist_ok=True)
        (self.results / TABLE).write_text(text, encoding="utf-8")

    @property
    def is_met(self) -> bool:
        """Whether ours missed nothing."""
        ours = [one for (_, name), one in self.outcomes.items() if name == "ours" and not one.note]
        return not any(misses(one) for one in ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help=f"about {QUICK_ITEMS} items, stopped after 4 floors"
    )
    parser.add_argument("--only", help="peers, separated by commas: " + ", ".join(PEERS))
    parser.add_argument("--scenario", help="scenarios, separated by commas: " + ", ".join(SCENARIOS))
    parser.add_argument("--items", type=int, help="items of each run")
    parser.add_argument("--at-once", type=int, default=1, help="runs of peers at once; ours runs alone")
    parser.add_argument("--results", type=Path, help="folder for the table and the plot")
    options = parser.parse_args()
    items = options.items or (QUICK_ITEMS if options.quick else None)
    scenarios = [with_items(each, items) for each in chosen(options.scenario, SCENARIOS, parser)]
    session = Session(scenarios, chosen(options.only, PEERS, parser), options)
    session.run_all()
    if options.results:
        draw(options.results / PLOT, session.scenarios, session.peers, session.outcomes)
    print("ours: every bound but CPU's is met" if session.is_met else "ours: NOT every bound is met")


if __name__ == "__main__":
    main()
