"""Usage for people and programs: tables, HTML, charts, data frames.

Everything here is made from the lines of a `UsageReport` or a ledger, and says so where a sum is only a lower
bound. Nothing is counted or priced here; nothing is sent anywhere.
"""

from lc_service.accounting.report.table import COLUMNS, Row, Table, make_table
from lc_service.accounting.report.views import ReportViews

__all__ = ["COLUMNS", "ReportViews", "Row", "Table", "make_table"]
