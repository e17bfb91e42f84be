"""Progress: a bar on a terminal, log lines elsewhere."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

HEADLINE = "held_out_groups.seen_questions"
"""The cell whose alignment progress shows; without held-out groups, the first there is."""

logger = logging.getLogger("plurallm")


class ProgressTracker:
    """A progress bar on a terminal, a log line a round elsewhere.

    Parameters
    ----------
    rounds : int
        Rounds of the whole run.
    first_round : int
        Rounds already done.
    """

    def __init__(self, rounds: int, first_round: int) -> None:
        self._rounds = rounds
        self._alignment = ""
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("round"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=rounds, completed=first_round)

    def log_round(self, metrics: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """Show round, loss and the last alignment."""
        text = progress_text(metrics)
        if self._bar is None:
            logger.info(
                "round %d/%d  %s%s", metrics["round"], self._rounds, text, _work_text(timings)
            )
            return
        if "cells" in metrics:
            self._alignment = text.partition("  ")[2]
        shown = f"{text.partition('  ')[0]}  {self._alignment}"
        self._bar.update(self._task, completed=int(metrics["round"]), description=shown)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Nothing more to show."""

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def progress_text(metrics: Mapping[str, Any]) -> str:
    """One round in a few words: loss and, when it evaluated, the headline alignment."""
    loss = metrics["train_loss"]
    text = "failed" if loss is None else f"loss {loss:.4f}"
    cells = metrics.get("cells")
    if cells:
        name = HEADLINE if HEADLINE in cells else next(iter(cells))
        text += f"  alignment {cells[name]['alignment']:.4f}"
    return text


def _work_text(timings: Mapping[str, Any]) -> str:
    """Groups, seconds and bytes of a round in a few words, where they are known."""
    if "groups" not in timings:
        return ""
    sent = timings["bytes_up"] + timings["bytes_down"]
    return (
        f"  {len(timings['groups'])} groups  {sum(timings['seconds'].values()):.1f} s"
        f"  {sent / 1e6:.1f} MB"
    )
