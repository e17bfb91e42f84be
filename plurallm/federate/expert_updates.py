"""After the rounds: an expert of each training group, and the scores of their mixture.

Experts travel and are checked as updates are. A group whose expert does not come, because its data
holder does not allow it or because it is no update, is predicted by the others' experts.

Dimension letters: ``M`` experts.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import ArrayRecord, MessageType, RecordDict

from plurallm.config.protection import ExpertsPersonal
from plurallm.config.randomness import generator
from plurallm.config.schema import Config
from plurallm.evaluate.experts import expert_config
from plurallm.evaluate.scores import GroupScore
from plurallm.federate.fedavg import GroupFedAvg
from plurallm.federate.messages import write_array
from plurallm.federate.replies import answers, read_more_scores, read_scores
from plurallm.federate.round_report import FederationError, reasons
from plurallm.record.checkpoint import Arrays

logger = logging.getLogger("plurallm")


@dataclass(frozen=True)
class Experts:
    """What the training groups made of the final model.

    Attributes
    ----------
    groups : tuple of str
        Whose experts they are, in the order of the roles.
    arrays : dict of str to ndarray of shape (M, ...)
        Their weights, stacked.
    declined : dict of str to str
        Reason by training group without an expert.
    scores : dict of str to GroupScore
        Of the mixture, by group.
    population : dict of str to GroupScore
        Of all experts alike, whatever the group's context.
    unscored : dict of str to str
        Reason by group that should have been scored and was not.
    """

    groups: tuple[str, ...]
    arrays: Arrays
    declined: dict[str, str]
    scores: dict[str, GroupScore] = field(default_factory=dict)
    population: dict[str, GroupScore] = field(default_factory=dict)
    unscored: dict[str, str] = field(default_factory=dict)


PATIENCE = 3
"""Experts may take so many times what their steps took in the rounds, and a round's time more."""


def gather_experts(strategy: GroupFedAvg, final: ArrayRecord, trained_seconds: float) -> Experts:
    """Ask every training group for an expert, and all groups for their scores with the mixture.

    Parameters
    ----------
    strategy : GroupFedAvg
        After its last round.
    final : ArrayRecord
        The global weights.
    trained_seconds : float
        What the training of all rounds took: how long experts take goes by it.

    Returns
    -------
    Experts
        Without any, when no group sent one: the global model predicts then.

    Raises
    ------
    FederationError
        When there are experts and no group could be scored with them.
    """
    assert strategy.grid is not None
    timeout, roles = strategy.config.federation.round_timeout, strategy.roles
    chosen = _draw(roles.train, strategy.config)
    messages = strategy.ask(f"{MessageType.TRAIN}.experts", chosen, final)
    work = timeout + PATIENCE * trained_seconds * _share_of_rounds(strategy.config)
    found = dict(strategy.updates(strategy.grid.send_and_receive(messages, timeout=work)))
    found = {**strategy.away(chosen), **found}
    declined = {group: own for group, own in found.items() if isinstance(own, str)}
    for group, reason in declined.items():
        logger.warning("no expert of %s: %s", group, reason)
    # Taken out one after the other: never are all in memory twice.
    taken = {group: found[group] for group in chosen if group in found.keys() - declined}
    if not taken:
        logger.warning(
            "no group sent an expert, so the global model predicts, which hardly tells groups "
            "apart; a data holder allows experts with allow=personal.experts in the node's "
            "settings, and personal=none does without"
        )
        return Experts((), {}, declined)
    arrays = {
        name: np.stack([own.arrays[name] for own in taken.values() if not isinstance(own, str)])
        for name in final
    }
    record = ArrayRecord({name: write_array(array) for name, array in arrays.items()})
    groups = tuple(taken)
    scores: dict[str, GroupScore] = {}
    population: dict[str, GroupScore] = {}
    messages = strategy.ask(
        f"{MessageType.EVALUATE}.experts", roles.groups, record, {"experts": list(groups)}
    )
    unscored = strategy.away(roles.groups)
    replies = strategy.grid.send_and_receive(messages, timeout=timeout)
    for members, content in answers(replies, strategy.asked):
        draws = strategy.config.evaluation.draws
        own = content if isinstance(content, str) else read_scores(content, members, draws)
        if isinstance(own, str):
            unscored |= dict.fromkeys(members, own)
        else:
            assert isinstance(content, RecordDict)
            scores |= own
            population |= read_more_scores(content, "population", members, draws)
    for group, reason in unscored.items():
        logger.warning("%s not scored with the experts: %s", group, reason)
    if not scores:
        raise FederationError("no group could be scored with the experts; " + reasons(unscored))
    return Experts(groups, arrays, declined, scores, population, unscored)


def _share_of_rounds(config: Config) -> float:
    """Steps of an expert over those that a group takes in all rounds."""
    rounds = config.federation.rounds * config.training.steps_per_round
    return expert_config(config).training.steps_per_round / rounds


def _draw(groups: Sequence[str], config: Config) -> list[str]:
    """Who fine-tunes: all, or a seeded draw of ``personal.max_experts``, in the roles' order."""
    assert isinstance(config.personal, ExpertsPersonal)
    if len(groups) <= config.personal.max_experts:
        return list(groups)
    draws = generator(config.seed, "experts")
    drawn = torch.randperm(len(groups), generator=draws)[: config.personal.max_experts]
    logger.info(
        "%d of %d training groups, drawn at random, bring an expert (personal.max_experts); all "
        "others are predicted by their mixture",
        len(drawn),
        len(groups),
    )
    return [groups[row] for row in sorted(drawn.tolist())]
