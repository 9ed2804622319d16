"""The demo: a chain over the package's own documents, every answer and every token checked.

`job` runs it, `result` says what came of it, `show` puts that on a terminal. Against the simulator each
answer is held against a rehearsal without faults, and each token against the simulator's bill.
"""

from lc_service.demo.failure import describe, is_hopeless
from lc_service.demo.job import DemoJob, DemoSettings, choose_documents
from lc_service.demo.result import INTERRUPTED, DemoResult, ItemResult
from lc_service.demo.show import progress_bar, show_plan, show_result
from lc_service.demo.target import ChainTargetError, load_factory, load_object

__all__ = [
    "INTERRUPTED",
    "ChainTargetError",
    "DemoJob",
    "DemoResult",
    "DemoSettings",
    "ItemResult",
    "choose_documents",
    "describe",
    "is_hopeless",
    "load_factory",
    "load_object",
    "progress_bar",
    "show_plan",
    "show_result",
]
