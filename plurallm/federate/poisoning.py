"""Poisoning, for research only: what training groups that misbehave do to a federation.

Two kinds: ``update`` multiplies the change of the weights, by much (scaled up) or by a negative
number (sign-flipped); ``shuffle`` trains on answers whose shares are swapped between the options of
each question, which no check of an update can tell from an unusual group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from plurallm.config.protection import AttackConfig, PoisoningAttack, UpdateAttack
from plurallm.config.randomness import generator
from plurallm.config.schema import Config
from plurallm.data.preferences import Preferences
from plurallm.data.tasks import GroupTask


def poison_task(task: GroupTask, config: Config) -> GroupTask:
    """What a group trains on: its answers, or shuffled ones where it attacks so.

    Parameters
    ----------
    task : GroupTask
        The group's true data.
    config : Config
        The run's configuration.

    Returns
    -------
    GroupTask
        With other shares in its seen questions if ``attack=shuffled`` lists the group.
    """
    attack = config.attack
    if not (isinstance(attack, PoisoningAttack) and attack.name == "shuffle"):
        return task
    if task.name not in attack.groups:
        return task
    draws = generator(config.seed, "attack", task.name)
    return replace(task, seen=_shuffle_shares(task.seen, draws))


def poison_updates(
    groups: Sequence[str],
    weights: Mapping[str, Tensor],
    received: Mapping[str, Tensor],
    attack: AttackConfig,
) -> None:
    """Multiply the change of the weights, in place, of the groups that attack so.

    Parameters
    ----------
    groups : sequence of str
        The groups that have trained.
    weights : mapping of str to Tensor of shape (G, ...)
        Their weights after it.
    received : mapping of str to Tensor
        The weights before it.
    attack : AttackConfig
        Who attacks, and how.
    """
    if not isinstance(attack, UpdateAttack):
        return
    for row, group in enumerate(groups):
        if group in attack.groups:
            for name, tensor in weights.items():
                change = tensor[row] - received[name]
                tensor[row] = received[name] + attack.factor * change


def _shuffle_shares(preferences: Preferences, draws: torch.Generator) -> Preferences:
    key_QO = torch.rand(preferences.share_QO.shape, generator=draws)
    # Keys of padding are largest: the shares of a question stay among its options.
    order_QO = key_QO.masked_fill(~preferences.mask_QO, 2.0).argsort(-1)
    return replace(preferences, share_QO=preferences.share_QO.gather(-1, order_QO))
