"""What a run means: figures, sentences, plots, and the report in several formats."""

from .document import FORMATS, Report, write_report

__all__ = ["FORMATS", "Report", "write_report"]
