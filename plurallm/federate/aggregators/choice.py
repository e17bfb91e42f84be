"""From the configuration to an aggregator; a combination that cannot work is refused here."""

import math
from collections import Counter
from pathlib import Path

from plurallm.config.error import ConfigError
from plurallm.config.protection import CentralPrivacy, PoisoningAttack
from plurallm.config.randomness import digest_fraction
from plurallm.config.schema import Config
from plurallm.config.strategies import RobustStrategy
from plurallm.data.roles import Roles
from plurallm.federate.aggregators.aggregator import Aggregator, AllUpdates, GroupMean
from plurallm.federate.aggregators.noisy import NoisyMean
from plurallm.federate.privacy.ledger import PrivacyLedger, central_epsilon


def make_aggregator(config: Config, roles: Roles, folder: Path) -> Aggregator:
    """Make the aggregator that the configuration asks for.

    Parameters
    ----------
    config : Config
        The run's configuration.
    roles : Roles
        Which groups train.
    folder : Path
        The run's folder, where the ledger of central privacy is kept.

    Returns
    -------
    Aggregator
        At its start: state of a checkpoint is set by the caller.

    Raises
    ------
    ConfigError
        When the strategy cannot work with the groups or with the rest of the configuration.
    """
    _check(config, roles)
    strategy, privacy = config.strategy, config.privacy
    if isinstance(strategy, RobustStrategy):
        return AllUpdates(strategy)
    if not isinstance(privacy, CentralPrivacy):
        return GroupMean(strategy)
    ledger = PrivacyLedger(folder / "privacy.json", privacy)
    return GroupMean(
        strategy, lambda order, received: NoisyMean(order, received, privacy, ledger), ledger
    )


def participants(config: Config, roles: Roles, round_number: int) -> tuple[str, ...]:
    """Training groups of a round: a seeded ``federation.fraction``, in the order of the roles."""
    drawn = sorted(
        roles.train,
        key=lambda group: digest_fraction("take part", config.seed, round_number, group),
    )[: _groups_per_round(config, roles)]
    return tuple(group for group in roles.train if group in drawn)


def _groups_per_round(config: Config, roles: Roles) -> int:
    return max(1, math.floor(config.federation.fraction * len(roles.train) + 0.5))


def _check(config: Config, roles: Roles) -> None:
    privacy = config.privacy
    config.strategy.check(_groups_per_round(config, roles))
    if isinstance(config.attack, PoisoningAttack):
        others = sorted(set(config.attack.groups) - set(roles.train))
        if others:
            raise ConfigError(f"attack.groups lists {others[0]!r}, which is no training group")
    if isinstance(privacy, CentralPrivacy):
        rounds, budget = config.federation.rounds, privacy.max_epsilon
        releases = Counter(
            group
            for number in range(1, rounds + 1)
            for group in participants(config, roles, number)
        )
        planned = central_epsilon(max(releases.values()), privacy)
        if budget is not None and planned > budget:
            raise ConfigError(
                f"federation.rounds={rounds} would spend epsilon {planned:.4g}, more than "
                f"privacy.max_epsilon={budget:g}: raise privacy.noise_multiplier or plan fewer "
                "rounds"
            )
