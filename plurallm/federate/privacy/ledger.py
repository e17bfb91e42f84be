"""Central differential privacy over groups: the books of what a run has given away.

The strategy clips each group's update and adds noise to the sum (``aggregators/noisy.py``); here
every released model is entered, before it is sent, in a ledger in the run's folder. The ledger is
not part of the checkpoint: a run that was cut off and resumed repeats rounds with fresh noise, and
the rounds that it repeats were released all the same.

Flower's accountant (over ``dp-accounting``) computes epsilon: Renyi divergences of the Gaussian
mechanism, composed, without amplification because the groups of a round follow from a seed that
everybody knows.
"""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from plurallm.config.error import ConfigError
from plurallm.config.protection import CentralPrivacy

logger = logging.getLogger("plurallm")


class PrivacyBudgetError(RuntimeError):
    """The next model would spend more than ``privacy.max_epsilon``."""


class PrivacyLedger:
    """Counts, for each group, the models that depend on it.

    Parameters
    ----------
    path : Path
        The file; an earlier part of the run may have written it.
    privacy : CentralPrivacy
        Noise and budget.

    Attributes
    ----------
    epsilon : float
        Spent so far on the group that took part most often.
    """

    def __init__(self, path: Path, privacy: CentralPrivacy) -> None:
        self._path = path
        self._privacy = privacy
        self._releases: dict[str, int] = {}
        if path.exists():
            self._releases = json.loads(path.read_text(encoding="utf-8"))["releases"]
        self.epsilon = central_epsilon(max(self._releases.values(), default=0), privacy)

    def enter(self, groups: Sequence[str]) -> None:
        """Enter a model that is about to be released.

        Parameters
        ----------
        groups : sequence of str
            Groups asked, whether or not they answered.

        Raises
        ------
        PrivacyBudgetError
            When it would spend more than the budget; nothing is entered then.
        """
        releases = self._releases | {group: self._releases.get(group, 0) + 1 for group in groups}
        epsilon = central_epsilon(max(releases.values()), self._privacy)
        budget, delta = self._privacy.max_epsilon, self._privacy.delta
        if budget is not None and epsilon > budget:
            raise PrivacyBudgetError(
                f"the next model would bring epsilon to {epsilon:.4g}, above privacy.max_epsilon="
                f"{budget:g} (delta {delta:g}); the run's newest checkpoint has the last one, or "
                "one of up to federation.checkpoint_every rounds before"
            )
        part = self._path.with_name(self._path.name + ".part")
        part.write_text(
            json.dumps({"epsilon": epsilon, "delta": delta, "releases": releases}, indent=2),
            encoding="utf-8",
        )
        os.replace(part, self._path)
        self._releases, self.epsilon = releases, epsilon
        logger.info("privacy of groups: epsilon %.4g at delta %g", epsilon, delta)


def central_epsilon(releases: int, privacy: CentralPrivacy) -> float:
    """Epsilon after some released models that depend on one group.

    Parameters
    ----------
    releases : int
        How many, from 0.
    privacy : CentralPrivacy
        Noise multiplier and delta.

    Returns
    -------
    float
        An upper bound, for neighbours that differ in one group's taking part.

    Raises
    ------
    ConfigError
        When ``dp-accounting`` is not installed.
    """
    if releases == 0:
        return 0.0
    from flwr.serverapp import (
        GaussianPrivacyEvent,
        NeighboringRelation,
        PrivacyConfig,
        RdpAccountant,
        SamplingMethod,
    )

    books = PrivacyConfig(
        target_delta=privacy.delta,
        population_size=1,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=SamplingMethod.NO_AMPLIFICATION,
    )
    try:
        accountant = RdpAccountant(books)
    except ImportError as error:
        raise ConfigError(
            "privacy=central needs dp-accounting: pip install 'plurallm[privacy]'"
        ) from error
    accountant.compose(GaussianPrivacyEvent(privacy.noise_multiplier, 1, 1), releases)
    return accountant.get_epsilon(privacy.delta)
