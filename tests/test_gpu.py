"""What only a GPU can show: recorded steps equal those of one group after the other."""

import copy

import pytest
import torch
from tiny import TINY

from plurallm.config import load_config
from plurallm.model import PreferenceTransformer
from plurallm.tasks import group_tasks, load_survey, survey_table
from plurallm.training import train_group, train_groups_together

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def start(tmp_path, *overrides):
    config = load_config([*TINY, f"cache_dir={tmp_path}", *overrides], None)
    survey = load_survey(config.data)
    tasks = list(group_tasks(survey, list(survey.answers), config).values())
    table = survey_table(survey, config).cuda()
    model = PreferenceTransformer(table.shape[1], config.model, seed=0).cuda()
    return config, tasks, table, model


@pytest.mark.parametrize("at_once", [None, 2, 1])
@pytest.mark.parametrize("loss", ["cross_entropy", "jensen_shannon", "gaussian"])
def test_recorded_steps_equal_those_of_one_group_after_the_other(tmp_path, loss, at_once):
    config, tasks, table, model = start(tmp_path, f"training={loss}", "precision=float64")
    model = model.double()
    for round_number in (1, 2, 3):  # from the second on what was recorded is replayed
        weights, updates = train_groups_together(
            model, tasks, table, config, round_number, at_once=at_once
        )
        for row, task in enumerate(tasks):
            one = copy.deepcopy(model)
            update = train_group(one, task, table, config, round_number)
            assert updates[row].losses == pytest.approx(update.losses, abs=1e-10)
            for name, value in one.state_dict().items():
                torch.testing.assert_close(weights[name][row], value, rtol=0, atol=1e-8)
        model.load_state_dict({name: value.mean(0) for name, value in weights.items()})


def test_what_was_recorded_before_changes_no_bit(tmp_path):
    config, tasks, table, model = start(tmp_path)
    other = copy.deepcopy(model)
    for round_number in (1, 2):
        train_groups_together(model, tasks, table, config, round_number, at_once=2)
    after, _ = train_groups_together(model, tasks, table, config, 3, at_once=2)
    fresh, _ = train_groups_together(other, tasks, table, config, 3, at_once=2)
    assert all(torch.equal(value, fresh[name]) for name, value in after.items())


def test_the_weights_of_a_round_stay_when_another_one_follows(tmp_path):
    config, tasks, table, model = start(tmp_path)
    first, _ = train_groups_together(model, tasks, table, config, 1)
    kept = {name: value.clone() for name, value in first.items()}
    train_groups_together(model, tasks, table, config, 2)
    assert all(torch.equal(value, kept[name]) for name, value in first.items())
