"""What happened in a round, and why a run cannot go on."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plurallm.evaluate.scores import GroupScore


class FederationError(RuntimeError):
    """A run that cannot go on; the message names round, groups and reasons."""


@dataclass
class RoundReport:
    """What happened in one round; filled while it runs.

    Attributes
    ----------
    round_number : int
        From 1, counted over resumed runs.
    losses : dict of str to float
        Mean training loss of each group whose update was taken.
    refused : dict of str to str
        Reason by group whose update was not taken.
    work : dict of str to dict
        What each group's training took: ``seconds`` of it alone on its node, and ``bytes_up``.
    failed : str or None
        Why the round changed nothing, where it brought too few updates.
    scores : dict of str to GroupScore
        Scores by group; empty when the round does not evaluate.
    unscored : dict of str to str
        Reason by group that should have been scored and was not.
    personal_scores : dict of str to GroupScore
        Scores of the groups' own models, where they have them.
    strategy : dict
        The strategy's own numbers.
    bytes_down, bytes_up : int
        Weights sent to and received from nodes.
    seconds : dict of str to float
        Wall-clock seconds of ``train`` and ``evaluate``, from the messages to the last reply.
    began : float
        When the round began, on the clock ``time.monotonic``.
    """

    round_number: int
    losses: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    work: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: str | None = None
    scores: dict[str, GroupScore] = field(default_factory=dict)
    unscored: dict[str, str] = field(default_factory=dict)
    personal_scores: dict[str, GroupScore] = field(default_factory=dict)
    strategy: dict[str, Any] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def train_loss(self) -> float | None:
        """Mean over the groups whose update was taken; None where none was."""
        return sum(self.losses.values()) / len(self.losses) if self.losses else None


def reasons(by_group: Mapping[str, str]) -> str:
    """Reasons in one line, each with its group."""
    return "; ".join(f"{group}: {reason}" for group, reason in by_group.items())
