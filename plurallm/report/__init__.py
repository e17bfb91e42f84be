"""What a run or a comparison shows."""

from plurallm.report.names import ARMS
from plurallm.report.tables import notes, print_result, wide_console

__all__ = ["ARMS", "notes", "print_result", "wide_console"]
