"""What only a GPU can show: recorded steps equal those of one group after the other."""

import copy

import pytest
import torch
from tiny import TINY

from plurallm.config.compose import load_config
from plurallm.data.tasks import group_tasks, load_survey, survey_table
from plurallm.learn.batched import train_groups_together
from plurallm.learn.local import train_group
from plurallm.learn.proximal import Proximal
from plurallm.learn.transformer import PreferenceTransformer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def start(tmp_path, *overrides):
    config = load_config([*TINY, f"cache_dir={tmp_path}", *overrides], None)
    survey = load_survey(config.data)
    tasks = list(group_tasks(survey, list(survey.answers), config).values())
    table = survey_table(survey, config).cuda()
    model = PreferenceTransformer(table.shape[1], config.model, seed=0).cuda()
    return config, tasks, table, model


@pytest.fixture(params=[128, 8])
def _several_shapes(request, monkeypatch):
    """Pad to multiples of 8, too: then episodes this small have several shapes."""
    monkeypatch.setattr("plurallm.learn.batched.MULTIPLE", request.param)


@pytest.mark.usefixtures("_several_shapes")
@pytest.mark.parametrize("at_once", [None, 2, 1])
@pytest.mark.parametrize("loss", ["cross_entropy", "jensen_shannon", "gaussian"])
def test_recorded_steps_equal_those_of_one_group_after_the_other(tmp_path, loss, at_once):
    config, tasks, table, model = start(tmp_path, f"training={loss}", "precision=float64")
    model = model.double()
    for round_number in range(1, 5):  # a shape is recorded at its second use, then replayed
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


@pytest.mark.usefixtures("_several_shapes")
def test_what_was_recorded_before_changes_no_bit(tmp_path):
    config, tasks, table, model = start(tmp_path)
    other = copy.deepcopy(model)
    anchor = {name: value.detach().clone() for name, value in model.named_parameters()}
    away = [
        {name: value + row / 100 for name, value in anchor.items()} for row in range(len(tasks))
    ]

    def train(model, round_number):
        """A round, then another with starts and a pull, as for personal models."""
        plain, _ = train_groups_together(model, tasks, table, config, round_number, at_once=2)
        pulled, _ = train_groups_together(
            model, tasks, table, config, round_number, Proximal(0.3, anchor), away, at_once=2
        )
        return [*plain.values(), *pulled.values()]

    for round_number in (1, 2, 3):
        train(model, round_number)
        train_groups_together(model, tasks[:2], table, config, round_number)  # another number
        train_groups_together(model, tasks[:1], table, config, round_number)
    after, fresh = train(model, 4), train(other, 4)
    assert all(torch.equal(one, same) for one, same in zip(after, fresh, strict=True))


def test_the_weights_of_a_round_stay_when_another_one_follows(tmp_path):
    config, tasks, table, model = start(tmp_path)
    first, _ = train_groups_together(model, tasks, table, config, 1)
    kept = {name: value.clone() for name, value in first.items()}
    train_groups_together(model, tasks, table, config, 2)
    assert all(torch.equal(value, kept[name]) for name, value in first.items())


def test_training_twice_gives_the_same_bits(tmp_path):
    """At the default sizes: of so many points a fused attention may sum gradients in any order."""
    counts = [f"training.{part}_questions=[60,90]" for part in ("context", "target")]
    config = load_config([f"cache_dir={tmp_path}", *counts], None)
    survey = load_survey(config.data)
    tasks = list(group_tasks(survey, list(survey.answers)[:8], config).values())
    table = survey_table(survey, config).cuda()
    runs = []
    for _ in range(2):
        model = PreferenceTransformer(table.shape[1], config.model, seed=0).cuda()
        runs += [train_groups_together(model, tasks, table, config, number)[0] for number in (1, 1)]
    for other in runs[1:]:
        assert all(torch.equal(weight, other[name]) for name, weight in runs[0].items())
