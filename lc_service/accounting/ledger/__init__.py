"""The ledger: attempts in a database, written before their call returns, and what budgets set aside.

Invariant: what was recorded stays and is never priced again. SQLAlchemy is loaded when a ledger is opened.
"""

from lc_service.accounting.ledger.error import LedgerError
from lc_service.accounting.ledger.ledger import UsageLedger

__all__ = ["LedgerError", "UsageLedger"]
