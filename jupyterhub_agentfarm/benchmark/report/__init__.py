"""What a run means: figures, sentences, plots, and the report in several formats.

From the records of a run to a report:

- :mod:`.evidence`, :mod:`.timeline` the records, with the questions that several parts ask of them
- :mod:`.robust`, :mod:`.significance`, :mod:`.laws` statistics of plain numbers
- :mod:`.usage`, :mod:`.intervals`, :mod:`.delivery`, :mod:`.cells`, :mod:`.balance`, :mod:`.outliers` figures …
- :mod:`.stability`, :mod:`.occurrences`, :mod:`.scaling`, :mod:`.contention`, :mod:`.energy`, :mod:`.conditions` … more
- :mod:`.prometheus`, :mod:`.crosscheck`, :mod:`.comparison` the same run seen by others, and an earlier run
- :mod:`.bottleneck`, :mod:`.roles`, :mod:`.verdict` what they mean, in sentences; :mod:`.findings` all of it
- :mod:`.drawing`, :mod:`.traces`, :mod:`.plots`, :mod:`.charts` drawings
- :mod:`.html`, :mod:`.markdown`, :mod:`.tables`, :mod:`.pdf`, :mod:`.document`, :mod:`.rendering` formats
"""

from .document import FORMATS, Report, write_report
from .prometheus import PrometheusCheck
from .rendering import ReportRenderer

__all__ = ["FORMATS", "PrometheusCheck", "Report", "ReportRenderer", "write_report"]
