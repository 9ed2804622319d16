"""The cells of the table: from 60 to 1,000,000 requests a minute, from 1 to 1,000 processes.

Invariant: workers are enough to reach the limit at the latency. It runs nothing.
"""

from __future__ import annotations

from dataclasses import replace

from lc_service.limits.rate_limits import RateLimits
from lc_service.simulator import ServerLimits
from simulation.scenario import Bound, Scenario

_HONEST = Bound(floor_ratio=1.02, rejected_share=0.005)
_MINUTE = Bound(floor_ratio=1.08, rejected_share=0.05)
_NEIGHBOUR = Bound(floor_ratio=1.10, rejected_share=0.05)
_NO_HEADERS = Bound(floor_ratio=1.15, rejected_share=0.10)
_FOLLOWED = Bound(rejected_share=0.02, followed_seconds=3.0)
RPM = ServerLimits(requests_per_minute=3_000)
TPM = ServerLimits(tokens_per_minute=72_000)
MIXED = (19, 900)


def _rpm(requests_per_minute: float) -> ServerLimits:
    return ServerLimits(requests_per_minute=requests_per_minute)


def _cell(name: str, limits: ServerLimits, items: int, bound: Bound | None = None, **more) -> Scenario:
    return Scenario(name=name, limits=limits, items=items, bound=bound or Bound(), **more)


SIZES = (
    _cell("60 RPM", _rpm(60), 60, _HONEST),
    _cell("600 RPM", _rpm(600), 600, _HONEST),
    _cell("3,000 RPM", RPM, 1_000, _HONEST),
    _cell("60,000 RPM", _rpm(60_000), 10_000, _HONEST, workers=400, seeds=(1,)),
    _cell("1,000,000 RPM", _rpm(1_000_000), 60_000, _HONEST, workers=4_000, seeds=(1,)),
    _cell("72,000 TPM, 19 to 900 tokens", TPM, 600, _HONEST, tokens=MIXED),
    _cell("the same, reckoned 1.5 times as large", TPM, 600, _HONEST, tokens=MIXED, reckoned=1.5),
    _cell("the same, reckoned 0.7 times as large", TPM, 600, _HONEST, tokens=MIXED, reckoned=0.7),
    _cell(
        "6,000,000 TPM, 19 to 900 tokens", ServerLimits(tokens_per_minute=6_000_000), 6_000, _HONEST,
        tokens=MIXED, workers=400, seeds=(1,),
    ),
    _cell(
        "60,000 RPM and 6,000,000 TPM",
        ServerLimits(requests_per_minute=60_000, tokens_per_minute=6_000_000), 6_000, _HONEST,
        tokens=MIXED, workers=400, seeds=(1,),
    ),
)  # fmt: skip
_NO_CAUTION = RateLimits(max_concurrency=4_096)
LATENCIES = (
    _cell("1 s", RPM, 1_500, latency_seconds=1.0, workers=128),
    _cell("10 s", RPM, 2_000, latency_seconds=10.0, workers=1_000),
    _cell("10 s, max_concurrency=4096", RPM, 2_000, latency_seconds=10.0, workers=1_000, told=_NO_CAUTION),
    _cell("60 s", RPM, 6_000, latency_seconds=60.0, workers=4_000, seeds=(1,)),
    _cell("60 s, max_concurrency=4096", RPM, 6_000, latency_seconds=60.0, workers=4_000, seeds=(1,),
          told=_NO_CAUTION),
    _cell("60 s at 60 RPM", _rpm(60), 120, latency_seconds=60.0, workers=120),
    _cell("10 s, no headers", replace(RPM, headers="none"), 2_000, latency_seconds=10.0, workers=1_000),
    _cell("10 s, a neighbour takes half of 6,000", replace(_rpm(6_000), neighbour_share=0.5), 2_000,
          latency_seconds=10.0, workers=1_000),
)  # fmt: skip
SERVERS = (
    _cell("rejected requests count", replace(RPM, charge_rejected=True), 1_000, _HONEST),
    _cell("no Retry-After", replace(RPM, sends_retry_after=False), 1_000, _HONEST),
    _cell("headers tell a minute's bucket", replace(RPM, headers="minute"), 1_000, _MINUTE),
    _cell("no headers", replace(RPM, headers="none"), 1_000, _NO_HEADERS),
    _cell("no headers, 600 RPM", replace(_rpm(600), headers="none"), 600, _NO_HEADERS),
    _cell("no headers, 60,000 RPM", replace(_rpm(60_000), headers="none"), 10_000, _NO_HEADERS, workers=400,
          seeds=(1,)),
    _cell("a neighbour takes half of 6,000", replace(_rpm(6_000), neighbour_share=0.5), 1_000, _NEIGHBOUR),
    _cell("a minute's bucket is enforced", replace(RPM, burst_seconds=60.0), 6_000, seeds=(1,)),
    _cell("halved after 6 s, doubled after 12 s", RPM, 1_000, _FOLLOWED,
          changes=((6.0, _rpm(1_500)), (12.0, RPM))),
    _cell("ten times the limit after 6 s", RPM, 5_000, _FOLLOWED, workers=128,
          changes=((6.0, _rpm(30_000)),)),
    _cell("a tenth of 30,000 after 6 s", _rpm(30_000), 4_000, _FOLLOWED, workers=128, changes=((6.0, RPM),)),
)  # fmt: skip
FLEETS = (
    _cell("4 processes", RPM, 1_000, processes=4, workers=16),
    _cell("4 processes, clocks off by up to 1 %", RPM, 1_000, processes=4, workers=16, drift=0.01),
    _cell("1 process, its clock off by up to 1 %", RPM, 1_000, drift=0.01),
    _cell("16 processes", RPM, 1_000, processes=16, workers=8),
    _cell("100 processes", RPM, 1_000, processes=100, workers=4),
    _cell("100 processes at 60,000 RPM", _rpm(60_000), 10_000, processes=100, workers=16, seeds=(1,)),
    _cell("1,000 processes at 60,000 RPM", _rpm(60_000), 10_000, processes=1_000, workers=4, seeds=(1,)),
    _cell(
        "1,000 processes at 1,000,000 RPM", _rpm(1_000_000), 50_000, processes=1_000, workers=16, seeds=(1,)
    ),
    _cell("4 processes, no headers", replace(RPM, headers="none"), 1_000, processes=4, workers=16),
)
GROUPS = {
    "Limits, one process, a latency of 0.1 s": SIZES,
    "Latencies, one process, 3,000 RPM": LATENCIES,
    "Servers and changes, one process, 3,000 RPM": SERVERS,
    "Processes that share a key and nothing else, 3,000 RPM": FLEETS,
}
