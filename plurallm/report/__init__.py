"""What a run or a comparison shows."""

from plurallm.report.tables import ARMS, notes, print_result, wide_console

__all__ = ["ARMS", "notes", "print_result", "wide_console"]
