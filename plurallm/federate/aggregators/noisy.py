"""The mean of central differential privacy: updates clipped, equal weights, noise on their sum.

We clip and add noise here and let Flower's accountant do the books (``privacy/central.py``).
Flower's own wrappers are not used: they clip a node's reply as one, although it holds several
groups; they fail on an update of zero and skip a round in which one client failed; they scale noise
for equal weights without asking for them; they draw it from numpy's seeded generator; and with an
accountant they refuse a strategy, such as ours, that replaces FedAvg's aggregation.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from plurallm.config.protection import CentralPrivacy
from plurallm.federate.aggregators.ordered_mean import OrderedMean
from plurallm.federate.privacy.ledger import PrivacyLedger
from plurallm.federate.privacy.noise import os_normal
from plurallm.record.checkpoint import Arrays

logger = logging.getLogger("plurallm")


class NoisyMean:
    """Received weights + (sum of clipped changes + noise) / groups of the round.

    A group's change is clipped to ``clipping_norm``, L2 over all weights; the noise has standard
    deviation ``noise_multiplier * clipping_norm``. A group that brings nothing counts as no change:
    the divisor is known before anybody answers, so that the sum moves by at most
    ``clipping_norm`` whatever one group does.

    Parameters
    ----------
    order : sequence of str
        Groups of the round, those that are away among them.
    received : dict of str to ndarray
        What they were sent.
    privacy : CentralPrivacy
        Norm and noise.
    ledger : PrivacyLedger
        Where the mean is entered before it is given out.
    """

    def __init__(
        self, order: Sequence[str], received: Arrays, privacy: CentralPrivacy, ledger: PrivacyLedger
    ) -> None:
        self._order = order
        self._received = received
        self._privacy = privacy
        self._ledger = ledger
        self._changes = OrderedMean(order)
        self._brought = 0

    def add(self, group: str, arrays: Mapping[str, npt.NDArray[Any]], weight: float) -> None:
        """Take a group's update; all weigh the same."""
        assert weight == 1.0
        change = {
            name: array - self._received[name].astype(float) for name, array in arrays.items()
        }
        norm = math.sqrt(math.fsum(float(np.square(array).sum()) for array in change.values()))
        factor = min(1.0, self._privacy.clipping_norm / norm) if norm else 1.0
        self._changes.add(group, {name: factor * array for name, array in change.items()}, 1.0)
        self._brought += 1

    def skip(self, group: str) -> None:
        """Do without a group."""
        self._changes.skip(group)

    def average(self) -> Arrays:
        """Noisy mean in float64; it is entered in the ledger first.

        Raises
        ------
        PrivacyBudgetError
            When the budget does not allow it.
        """
        self._ledger.enter(self._order)
        asked = len(self._order)
        scale = self._privacy.noise_multiplier * self._privacy.clipping_norm / asked
        weights = sum(array.size for array in self._received.values())
        logger.info(
            "the noise on the mean is about %.3g times as long as the longest update of a group",
            self._privacy.noise_multiplier * math.sqrt(weights) / asked,
        )
        return {
            name: self._received[name]
            + change * (self._brought / asked)
            + scale * os_normal(change.shape)
            for name, change in self._changes.average().items()
        }
