"""From the configuration to a strategy; a combination that cannot work is refused here."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from plurallm.config.error import ConfigError
from plurallm.config.protection import CentralPrivacy, PoisoningAttack
from plurallm.config.randomness import digest_fraction
from plurallm.config.schema import Config
from plurallm.config.strategies import MultiKrumStrategy, TrimmedMeanStrategy
from plurallm.data.roles import Roles
from plurallm.federate.aggregators.aggregator import Aggregator, FedAdam, FedAvg, FedAvgM
from plurallm.federate.aggregators.fair import Adaptive, Afl, QFedAvg, Term
from plurallm.federate.aggregators.noisy import NoisyMean
from plurallm.federate.aggregators.robust import (
    Median,
    MultiKrum,
    TrimmedMean,
    least_groups,
    trimmed,
)
from plurallm.federate.privacy.ledger import PrivacyLedger, central_epsilon

_MEANS: Mapping[str, type[FedAvg]] = {
    "fedavg": FedAvg,
    "fedprox": FedAvg,  # its term is the clients'
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedAdam,
    "qfedavg": QFedAvg,
    "afl": Afl,
    "term": Term,
    "adaptive": Adaptive,
}

_ROBUST: Mapping[str, type[Median]] = {
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "multikrum": MultiKrum,
}


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
    strategy = config.strategy
    if strategy.name in _ROBUST:
        return _ROBUST[strategy.name](strategy)
    privacy = config.privacy
    if not isinstance(privacy, CentralPrivacy):
        return _MEANS[strategy.name](strategy)
    ledger = PrivacyLedger(folder / "privacy.json", privacy)
    return _MEANS[strategy.name](
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
    strategy, privacy, asked = config.strategy, config.privacy, _groups_per_round(config, roles)
    groups = f"a round asks {asked} groups"
    if isinstance(strategy, MultiKrumStrategy):
        if asked < least_groups(strategy):
            raise ConfigError(
                f"strategy.attackers={strategy.attackers} needs {least_groups(strategy)} groups in "
                f"a round (2 attackers + 3), but {groups}: lower it, raise federation.fraction or "
                "take strategy=median"
            )
        if (strategy.keep or 1) > asked - strategy.attackers:
            raise ConfigError(
                f"strategy.keep={strategy.keep} would keep attackers: {groups}, of which "
                f"{strategy.attackers} may be some (strategy.attackers)"
            )
    if isinstance(strategy, TrimmedMeanStrategy) and trimmed(asked, strategy) == 0:
        least = f"give at least {math.ceil(1000 / asked) / 1000:g}, below 0.5, or " * (asked > 2)
        raise ConfigError(
            f"strategy.trim={strategy.trim:g} leaves out nobody: {groups}; {least}take "
            "strategy=median"
        )
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
