"""What a ledger raises. Its words say what to do; they hold no password."""

from __future__ import annotations


class LedgerError(Exception):
    """The ledger cannot be opened, read or asked; `record` and `arecord` never raise it."""
