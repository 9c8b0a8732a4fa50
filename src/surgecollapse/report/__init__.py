"""The report: what a run did, as one page with pictures. matplotlib and scikit-learn are imported only to draw."""

from __future__ import annotations

from surgecollapse.report.page import write_report
from surgecollapse.report.summary import Summary, table

__all__ = ["Summary", "table", "write_report"]
