"""Poisoning: who attacks, and with what."""

import numpy as np
import torch
from tiny import TINY

from plurallm.config.compose import load_config
from plurallm.data.tasks import group_tasks, load_survey
from plurallm.federate.poisoning import poison_task, poison_updates


def test_only_attackers_multiply_their_update():
    received = {"w": torch.tensor([1.0, 2.0])}
    for name, expected in (("scaled", [6.0, -8.0]), ("flipped", [-4.0, 12.0])):
        attack = load_config([f"attack={name}", "attack.groups=[a]"], None).attack
        trained = {"w": torch.tensor([[1.5, 1.0], [1.5, 1.0]])}
        poison_updates(["b", "a"], trained, received, attack)
        assert trained["w"].tolist() == [[1.5, 1.0], expected]


def test_shuffled_answers_are_the_same_shares_at_other_options():
    config = load_config([*TINY, "attack=shuffled", "attack.groups=[Avaria]"], None)
    tasks = group_tasks(load_survey(config.data), ["Avaria", "Belora"], config)
    assert poison_task(tasks["Belora"], config) is tasks["Belora"]
    true, poisoned = tasks["Avaria"], poison_task(tasks["Avaria"], config)
    assert poisoned.unseen is true.unseen
    share, other = true.seen.share_QO, poisoned.seen.share_QO
    assert not other[~true.seen.mask_QO].any()
    np.testing.assert_array_equal(share.sort(-1).values, other.sort(-1).values)
    assert (share != other).any(-1).float().mean() > 0.5
    assert torch.equal(other, poison_task(true, config).seen.share_QO)
    unchanged = load_config([*TINY, "attack=scaled", "attack.groups=[Avaria]"], None)
    assert poison_task(true, unchanged) is true
