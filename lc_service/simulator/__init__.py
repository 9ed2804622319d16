"""A server that speaks OpenAI's protocol on loopback, with its limits, its faults and a bill."""

from lc_service.simulator.bill import Bill, BillLine, Usage
from lc_service.simulator.faults import Fault, FaultPlan
from lc_service.simulator.journal import ServedRequest
from lc_service.simulator.limits import ServerLimits
from lc_service.simulator.server import Simulator, run_simulator

__all__ = [
    "Bill",
    "BillLine",
    "Fault",
    "FaultPlan",
    "ServedRequest",
    "ServerLimits",
    "Simulator",
    "Usage",
    "run_simulator",
]
