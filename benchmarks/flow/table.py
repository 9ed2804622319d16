"""The table: a row a scenario, a column a client, in Markdown; and the bounds of ours.

Invariant: every run that was made is shown, those that failed too. It judges by `verdict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flow.peers import Peer
from flow.run import Outcome
from flow.scenario import Scenario
from flow.verdict import followed, misses

Outcomes = Mapping[tuple[str, str], Outcome]
"""By the names of scenario and peer."""


def markdown(scenarios: Sequence[Scenario], peers: Sequence[Peer], outcomes: Outcomes) -> str:
    """Return both tables."""
    lines = [
        "| scenario | " + " | ".join(peer.title for peer in peers) + " |",
        "|---" * (len(peers) + 1) + "|",
    ]
    for scenario in scenarios:
        cells = [cell(outcomes.get((scenario.name, peer.name))) for peer in peers]
        lines.append(f"| {scenario.title} | " + " | ".join(cells) + " |")
    ours = [found for scenario in scenarios if (found := outcomes.get((scenario.name, "ours")))]
    lines += ["", "| ours | reached | asked for | |", "|---|---|---|---|"]
    for found in ours:
        cells = [found.scenario.title, reached(found), asked(found, outcomes), verdict(found, outcomes)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(outcome: Outcome | None) -> str:
    """Return what a run came to, in a few words; a dash where there was none."""
    if outcome is None:
        return "–"
    if outcome.note:
        return outcome.note
    if outcome.scenario.is_cpu:
        return f"{outcome.cpu_milliseconds:.2f} ms"
    parts = []
    if not outcome.is_done:
        parts.append(f"**not done** ({outcome.answered / outcome.items:.0%})")
    elif outcome.lost:
        parts.append(f"**{outcome.lost / outcome.items:.1%} lost**")
    else:
        parts.append(f"{outcome.floor_ratio:.3f} ×")
    if outcome.wrong:
        parts.append(f"**{outcome.wrong} wrong**")
    paid_twice = outcome.served.billed - outcome.answered if outcome.served else 0
    if outcome.scenario.faults is not None and paid_twice > 0:
        parts.append(f"**{paid_twice} paid twice**")
    if outcome.rejections:
        parts.append(f"{outcome.rejections:,} rejections")
    return ", ".join(parts)


def reached(outcome: Outcome) -> str:
    """Return the figures of ours that bounds are about."""
    if outcome.note or outcome.scenario.is_cpu:
        return cell(outcome)
    parts = [f"{outcome.lost} lost", f"{outcome.wrong} wrong", f"{outcome.floor_ratio:.3f} × floor"]
    if outcome.scenario.limits is not None:
        parts.append(f"{outcome.rejections / outcome.items:.1%} rejected")
    if outcome.scenario.faults is not None and outcome.served is not None:
        parts.append(f"{outcome.served.billed - outcome.answered} paid twice")
    if outcome.fault_free_seconds is not None:
        parts.append(f"{outcome.fault_free_seconds / outcome.seconds:.2f} × the fault-free rate")
    if outcome.scenario.changes and outcome.served is not None:
        rates = followed(outcome.scenario, outcome.served)
        parts += [f"{rate:.0f} a second of {limit:.0f}" for rate, limit in rates]
    return ", ".join(parts)


def asked(outcome: Outcome, outcomes: Outcomes) -> str:
    """Return the bounds of a scenario."""
    bound, parts = outcome.scenario.bound, ["0 lost, 0 wrong"]
    if outcome.scenario.is_cpu:
        return ", ".join(
            f"at most {share:.2f} × {name} ({other.cpu_milliseconds * share:.2f} ms)"
            for name, share, other in _cpu_bounds(outcomes)
        )
    if bound.floor_ratio is not None:
        parts.append(f"at most {bound.floor_ratio} × floor")
    if bound.rejected_share is not None:
        parts.append(f"at most {bound.rejected_share:.1%} rejected")
    if outcome.scenario.faults is not None:
        parts.append("0 paid twice")
    if bound.fault_free_rate is not None:
        parts.append(f"at least {bound.fault_free_rate} × the fault-free rate")
    if bound.is_followed:
        parts.append("the third second's rate within 10 %")
    return ", ".join(parts)


def verdict(outcome: Outcome, outcomes: Outcomes) -> str:
    """Return PASS, MISS, or a dash where nothing ran."""
    if outcome.note:
        return "–"
    slower = [
        name
        for name, share, other in _cpu_bounds(outcomes)
        if outcome.scenario.is_cpu and outcome.cpu_milliseconds > share * other.cpu_milliseconds
    ]
    return "**MISS**" if misses(outcome) or slower else "PASS"


def _cpu_bounds(outcomes: Outcomes) -> list[tuple[str, float, Outcome]]:
    """Return who ours is compared to in CPU time, and the share of theirs that it may take."""
    compared = [("ChatOpenAI", 0.75, "chatopenai"), ("OpenAI SDK", 1.0, "openai")]
    found = [(name, share, outcomes.get(("cpu", peer))) for name, share, peer in compared]
    return [(name, share, other) for name, share, other in found if other is not None and not other.note]
