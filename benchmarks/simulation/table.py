"""The table: a row a cell, of each the worst of its seeds, in Markdown.

Invariant: every cell is shown, and what it misses. It measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from simulation.result import Result

INTRODUCTION = """# Simulation

What one machine cannot show: the limiter's real code, the real decision to retry and the simulator's real
limits, under a clock that is made up. Written by `python benchmarks/simulate.py --output docs/simulation.md`:
no wall time passes, and the same code gives the same table.

- **Items** are there from the beginning, dealt to the processes in turn; a process has 64 calls under way or
  in line, other numbers where limit or latency need them. An answer takes 80 to 100 % of the latency, the
  network 1 to 3 ms each way.
- **Floor** is the least time that the enforced limit and the latency need. **Rejected** are 429s over items.
  **Followed** is the time from a change to the end of the first second in which as many requests came as the
  new limit allows, give or take 10 %. **Looks** are the times that somebody in line woke to look, over items.
- The server enforces a second's worth unless the row says otherwise, and its headers tell the truth about
  that. No client is told a limit. Of several seeds each figure is the worst.
- No CPU time is spent in this world. One Python process sends perhaps 1,000 requests a second: 1,000,000 RPM
  from one of them is about the arithmetic.
"""


def markdown(groups: Mapping[str, Sequence[Sequence[Result]]]) -> str:
    """Return the page.

    Args:
        groups: By title the cells, each with its runs.
    """
    parts = [INTRODUCTION]
    for title, cells in groups.items():
        parts.append(f"\n## {title}\n")
        parts.append("| | items | floor | × floor | rejected | lost | followed | looks | |")
        parts.append("|---|--:|--:|--:|--:|--:|--:|--:|---|")
        parts += [row(results) for results in cells]
    return "\n".join(parts) + "\n"


def row(results: Sequence[Result]) -> str:
    """Return one cell as a row: of each figure the worst."""
    scenario = results[0].scenario
    lost = max(result.lost for result in results)
    # who loses items is done sooner than who answers all: no ratio
    ratio = "–" if lost else f"{max(result.floor_ratio for result in results):.3f}"
    followed = [
        [result.followed[place].seconds for result in results] for place in range(len(scenario.changes))
    ]
    cells = [
        scenario.name,
        f"{scenario.items:,}",
        f"{scenario.floor_seconds():.1f} s",
        ratio,
        f"{max(result.rejected_share for result in results):.1%}",
        f"**{lost}**" if lost else "0",
        ", ".join("never" if None in of_one else f"{max(filter(None, of_one)):.2f} s" for of_one in followed),
        f"{max(result.looks_share for result in results):.1f}",
        verdict(results),
    ]
    return "| " + " | ".join(cells) + " |"


def verdict(results: Sequence[Result]) -> str:
    """Return what is missed, `ok` where nothing is, and nothing where nothing was asked for."""
    missed = [f"seed {result.seed}: {'; '.join(result.misses)}" for result in results if result.misses]
    if missed:
        return f"**MISS** {missed[0]}" + (f" (and {len(missed) - 1} more)" if missed[1:] else "")
    bound = results[0].scenario.bound
    is_asked = any(asked is not None for asked in (bound.floor_ratio, bound.rejected_share))
    return "ok" if is_asked else ""
