"""Pages for people: the report of a run, and its pictures."""

from weakseg.report.pictures import Panel, contact_sheet
from weakseg.report.report import ReportData, render, write_report

__all__ = ["Panel", "ReportData", "contact_sheet", "render", "write_report"]
