"""Budgets: room for an attempt before it is sent, charged when it has ended, given back where it was not.

Invariant: a strict budget is never exceeded. Sends nothing and records nothing. `BudgetExceeded` is in
`exceeded`, which imports langgraph.
"""

from lc_service.accounting.budget.account import BudgetUnavailableError
from lc_service.accounting.budget.budget import Budget, Reservation, areserve_all, reserve_all
from lc_service.accounting.budget.request_amount import UnboundedRequestError, UnpricedModelError

__all__ = [
    "Budget",
    "BudgetUnavailableError",
    "Reservation",
    "UnboundedRequestError",
    "UnpricedModelError",
    "areserve_all",
    "reserve_all",
]
