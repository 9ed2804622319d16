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
READING = """
## Where it misses, and what to do

- **60 RPM.** Nothing is known before the first answer, so four go at once, into a bucket of one: three
  rejections, which are 5 % of 60 items and none of the next 60. `RateLimits(requests_per_minute=60)` avoids
  them.
- **1,000,000 RPM.** The run takes 3 s, and some rounds of 0.1 s go by until the 1,700 calls that the limit
  needs are under way. With `RateLimits(max_concurrency=4096)` it is 1.07 × the floor, and 1.04 × with 200,000
  items.
- **Reckoned 0.7 times as large.** The client takes requests for smaller than the server does, and first
  learns of it by rejections. It is over after some seconds: longer runs have a smaller share of them.
- **Slow answers.** 10 s at 3,000 RPM need 500 calls under way, 60 s need 3,000. 64 go at first, twice as
  many each second up to 1,024, and beyond that with rounds of answers, of which a 60 s run has three.
  Without headers caution lasts until the first answers: 4 calls, twice as many each second up to 64.
  Whoever knows better says so: `RateLimits(max_concurrency=4096)` is within a few percent.
- **Many processes that share a key and nothing else.** Each is the others' neighbour. Four lose perhaps a
  call in several thousand. From sixteen on the retries of some calls run out before it is their turn, and
  `lost` counts them; a thousand processes that ask 4 each before they know anything are four times a
  second's worth. Share the limits through Redis ([rate-limits-redis.md](rate-limits-redis.md)), or give
  each process its part: 16 with `RateLimits(requests_per_minute=3_000 / 16)` take 1.01 × the floor, and
  lose and reject nothing. Parts do not help where the first requests alone are too many, as with 100
  processes here; retries do: with `max_retries=10` 16 processes lose nothing at 1.05 × the floor, and 100
  lose 3 of 1,000 items at 1.03 ×.
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
    return "\n".join([*parts, READING])


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
