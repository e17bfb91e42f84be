"""What a run or a comparison shows."""

from plurallm.report.tables import ARMS, notes, print_result

__all__ = ["ARMS", "notes", "print_result"]
