"""The scenarios: what the server enforces, what is asked of it, what ours has to reach.

Invariant: the same scenario and number of items give the same prompts. It runs nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lc_service.simulator import FaultPlan, ServerLimits
from lc_service.simulator.prompt import read_chat
from lc_service.simulator.reply import compose

MODEL = "gpt-4.1-mini"
CONCURRENCY = 64
_RPM = ServerLimits(requests_per_minute=3_000)
_SENTENCE = "Parcel {number} holds copper wire for shelf {shelf} of the harbour. "


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What ours has to reach; None is not asked for. Nothing may be lost or wrong in any case."""

    floor_ratio: float | None = None
    rejected_share: float | None = None  # rejections over items
    fault_free_rate: float | None = None  # answered a second, over those of the same run without faults
    is_followed: bool = False  # each changed limit, in the third second after its change


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One row of the table.

    Attributes:
        changes: (seconds after the first request, limits from then on).
        is_mixed: Prompts of about 10 to 1,000 tokens instead of short ones.
        least_items: Fewer would say nothing.
        processes: Client processes that share the items and the calls in flight.
        callers: Calls that ours has under way; of more than 64 its limiter holds the rest.
    """

    name: str
    title: str
    items: int
    limits: ServerLimits | None = None
    bound: Bound = field(default_factory=Bound)
    latency_seconds: float = 0.1
    max_tokens: int = 32
    is_mixed: bool = False
    changes: tuple[tuple[float, ServerLimits], ...] = ()
    faults: FaultPlan | None = None
    least_items: int = 100
    warm_calls: int = 1
    processes: int = 1
    callers: int = CONCURRENCY
    is_cpu: bool = False


@dataclass(frozen=True, kw_only=True)
class Item:
    """One prompt, its right answer, and what the token limit charges for it."""

    prompt: str
    answer: str
    tokens: int


_HONEST = Bound(floor_ratio=1.02, rejected_share=0.005)
_SCENARIOS = (
    Scenario(name="rpm", title="3,000 RPM", items=1_000, limits=_RPM, bound=_HONEST),
    Scenario(
        name="tpm", title="72,000 TPM, items of mixed size", items=600, bound=_HONEST, max_tokens=20,
        limits=ServerLimits(tokens_per_minute=72_000), is_mixed=True,
    ),
    Scenario(
        name="charged", title="3,000 RPM, rejected requests count", items=1_000, bound=_HONEST,
        limits=replace(_RPM, charge_rejected=True),
    ),
    Scenario(
        name="no-retry-after", title="3,000 RPM, no Retry-After", items=1_000, bound=_HONEST,
        limits=replace(_RPM, sends_retry_after=False),
    ),
    Scenario(
        name="minute", title="3,000 RPM, headers tell a minute's bucket, a second's is enforced", items=1_000,
        limits=replace(_RPM, headers="minute"), bound=Bound(floor_ratio=1.08, rejected_share=0.05),
    ),
    Scenario(
        name="no-headers", title="3,000 RPM, no rate headers, no Retry-After", items=1_000,
        limits=replace(_RPM, headers="none"), bound=Bound(floor_ratio=1.15, rejected_share=0.10),
    ),
    Scenario(
        name="neighbour", title="6,000 RPM of which a neighbour on the same key eats half", items=1_000,
        limits=ServerLimits(requests_per_minute=6_000, neighbour_share=0.5),
        bound=Bound(floor_ratio=1.10, rejected_share=0.05),
    ),
    Scenario(
        name="change", title="3,000 RPM, halved after 6 s, doubled after 12 s", items=1_000, limits=_RPM,
        changes=((6.0, replace(_RPM, requests_per_minute=1_500)), (12.0, _RPM)),
        bound=Bound(rejected_share=0.02, is_followed=True), least_items=750,
    ),
    Scenario(
        name="faults", title="2,000 items, 20 % faults on up to three attempts", items=2_000,
        faults=FaultPlan(seed=7, rate=0.2, kinds=("server_error", "unavailable", "reset"), max_attempts=3),
        latency_seconds=1.0, bound=Bound(fault_free_rate=0.85), least_items=1_000, callers=4 * CONCURRENCY,
    ),
    Scenario(
        name="cpu", title="CPU a call, no limits", items=2_000, latency_seconds=0.0, least_items=1_000,
        warm_calls=256, is_cpu=True,
    ),
    Scenario(
        name="redis", title="3,000 RPM, four processes through Redis", items=1_000, limits=_RPM, processes=4,
        bound=Bound(floor_ratio=1.05),
    ),
    Scenario(
        name="redis-tokens", title="72,000 TPM, items of mixed size, four processes through Redis", items=600,
        limits=ServerLimits(tokens_per_minute=72_000), is_mixed=True, max_tokens=20, processes=4,
        bound=Bound(floor_ratio=1.05),
    ),
)  # fmt: skip
SCENARIOS = {scenario.name: scenario for scenario in _SCENARIOS}


def items_of(scenario: Scenario) -> list[Item]:
    """Make the scenario's items; every prompt is about a parcel of its own, and so is its answer."""
    rng = random.Random(4)
    sizes = _mixed_sizes(scenario.items, rng) if scenario.is_mixed else [1] * scenario.items
    made = [_item(number, size, scenario.max_tokens) for number, size in enumerate(sizes)]
    assert len({item.answer for item in made}) == len(made), "two items with the same answer"
    return made


def _mixed_sizes(count: int, rng: random.Random) -> list[int]:
    """Return sentences a prompt: 1 to 70, many small and few large: 120 tokens an item with its output."""
    sizes = [max(1, round(70 ** (((place + 0.5) / count) ** 3.0))) for place in range(count)]
    rng.shuffle(sizes)
    return sizes


def _item(number: int, sentences: int, max_tokens: int) -> Item:
    name = f"{number:05d}"
    prompt = "".join(_SENTENCE.format(number=name, shelf=shelf) for shelf in range(sentences)).strip()
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    read = read_chat(body)
    return Item(prompt=prompt, answer=compose(read).choices[0].text.strip(), tokens=read.admission_tokens)


def with_items(scenario: Scenario, items: int | None) -> Scenario:
    """Return the scenario with another number of items, no fewer than say something."""
    return scenario if items is None else replace(scenario, items=max(items, scenario.least_items))


def total_tokens(items: Sequence[Item]) -> int:
    """Return what the token limit charges for all items."""
    return sum(item.tokens for item in items)
