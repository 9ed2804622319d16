"""The plot: time over the floor of the runs that lost nothing, and what the others lost.

Invariant: a run is in exactly one of the two panels. It draws what the table tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flow.peers import Peer
from flow.scenario import Scenario
from flow.table import Outcomes

_MARKERS = "*osD^vPXh"
_NOT_DONE_RATIO = 10.0


def draw(path: Path, scenarios: Sequence[Scenario], peers: Sequence[Peer], outcomes: Outcomes) -> None:
    """Draw the scenarios that have a floor, and write the plot as SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # text stays text, and no moment or random name makes each run another file
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "flow"})
    shown = [each for each in scenarios if not each.is_cpu and (each.name, "ours") in outcomes]
    figure = Figure(figsize=(11, 1.2 + 0.62 * len(shown)), layout="constrained")
    times, losses = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [3, 2]})
    for place, peer in enumerate(peers):
        style = {"marker": _MARKERS[place % 9], "color": f"C{place}", "ls": "", "ms": 11 if place == 0 else 7}
        found = [
            (row + (place - (len(peers) - 1) / 2) * 0.09, outcome)
            for row, scenario in enumerate(shown)
            if (outcome := outcomes.get((scenario.name, peer.name))) and not outcome.note
        ]
        whole = [(row, one.floor_ratio) for row, one in found if not one.lost]
        lossy = [(row, 100 * one.lost / one.items) for row, one in found if one.lost]
        times.plot([x for _, x in whole], [y for y, _ in whole], label=peer.title.replace("`", ""), **style)
        losses.plot([x for _, x in lossy], [y for y, _ in lossy], **style)
    times.set_xscale("log")
    times.set_xlim(0.95, _NOT_DONE_RATIO)
    times.set_xticks([1, 1.5, 2, 3, 5, 10], ["1", "1.5", "2", "3", "5", "10"])
    times.minorticks_off()
    times.axvline(1, color="0.6", lw=1)
    times.set_xlabel("time over the floor, of runs that lost nothing")
    losses.set_xlim(0, 105)
    losses.set_xlabel("% of the items lost, of the others")
    times.set_yticks(range(len(shown)), [_wrapped(scenario.title) for scenario in shown])
    times.set_ylim(len(shown) - 0.5, -0.5)
    for axes in (times, losses):
        axes.grid(axis="x", color="0.9")
        for row in range(1, len(shown)):
            axes.axhline(row - 0.5, color="0.85", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def _wrapped(title: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(title, 34))
