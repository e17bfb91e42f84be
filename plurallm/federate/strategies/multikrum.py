"""Multi-Krum: the mean of the updates that lie closest together.

Flower's MultiKrum computes distances in float32 as ||x||^2 + ||y||^2 - 2 xy of the whole models,
where the difference of two groups drowns in the rounding of their norms.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic.dataclasses import dataclass

from plurallm.config.error import ConfigError
from plurallm.config.ranges import SECTION, Count, Natural
from plurallm.config.strategies import RobustStrategy

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from plurallm.federate.aggregators.aggregator import AllUpdates
    from plurallm.record.checkpoint import Arrays


@dataclass(frozen=True, config=SECTION)
class MultiKrum(RobustStrategy):
    """Multi-Krum (arXiv 1703.02757): the mean of the updates with the smallest scores.

    A score is the sum of squared distances to the n - attackers - 2 nearest other updates.
    """

    name: Literal["multikrum"]
    attackers: Natural
    keep: Count | None

    def least(self, order: Sequence[str]) -> int:
        """As many as outnumber the attackers: 2 f + 3."""
        return 2 * self.attackers + 3

    def check(self, asked: int) -> None:
        """Refuse more attackers than the rule bears, and keeping some of them."""
        groups, least = f"a round asks {asked} groups", self.least(())
        if asked < least:
            raise ConfigError(
                f"strategy.attackers={self.attackers} needs {least} groups in a round "
                f"(2 attackers + 3), but {groups}: lower it, raise federation.fraction or take "
                "strategy=median"
            )
        if (self.keep or 1) > asked - self.attackers:
            raise ConfigError(
                f"strategy.keep={self.keep} would keep attackers: {groups}, of which "
                f"{self.attackers} may be some (strategy.attackers)"
            )

    def combine(self, state: "AllUpdates", updates: "dict[str, Arrays]") -> "Arrays":
        """Choose and average."""
        import numpy as np

        from plurallm.federate.aggregators.ordered_mean import OrderedMean

        groups = list(updates)
        score_G = krum_scores(_squared_distances(state, len(groups)), self.attackers)
        most = len(groups) - self.attackers
        chosen = np.argsort(score_G, kind="stable")[: min(self.keep or most, most)]
        kept = [groups[row] for row in sorted(chosen)]
        state.notes = {"kept": kept}
        mean = OrderedMean(kept)
        for group in kept:
            mean.add(group, updates[group], 1.0)
        return mean.average()

    def report(self, state: "AllUpdates") -> dict[str, Any]:
        """Groups whose updates were averaged."""
        return state.notes


def krum_scores(squared_GG: "npt.NDArray[np.float64]", attackers: int) -> "npt.NDArray[np.float64]":
    """Krum's scores.

    Parameters
    ----------
    squared_GG : ndarray of shape (G, G)
        Squared distances between updates.
    attackers : int
        At most ``G - 3``.

    Returns
    -------
    ndarray of shape (G,)
        Sum over the ``G - attackers - 2`` nearest others; lower is more trusted.
    """
    import numpy as np

    others_GG = squared_GG + np.diag(np.full(len(squared_GG), np.inf))
    score_G: npt.NDArray[np.float64] = np.sort(others_GG, axis=1)[
        :, : len(squared_GG) - attackers - 2
    ].sum(axis=1)
    return score_G


def _squared_distances(state: "AllUpdates", groups: int) -> "npt.NDArray[np.float64]":
    import numpy as np

    squared_GG = np.zeros((groups, groups))
    for name, received in state.received.items():
        # Of updates, not of models: those are close together and far from zero.
        change_GN = (state.stack(name) - received).reshape(groups, -1)
        norm_G = np.square(change_GN).sum(1)
        squared_GG += norm_G[:, None] + norm_G[None, :] - 2 * change_GN @ change_GN.T
    return squared_GG
