"""Personal models on a node's disk, and their training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import TINY

from plurallm.config.compose import load_config
from plurallm.data.tasks import group_tasks, load_survey, survey_table
from plurallm.federate.ditto import PersonalModels, train_personal
from plurallm.federate.local_data import LocalData
from plurallm.learn.local import train_group
from plurallm.learn.transformer import PreferenceTransformer


def weights(value):
    return {"w": torch.full((2,), float(value))}


def rounds(folder, group):
    return sorted(int(file.stem[-6:]) for file in (folder / group).iterdir())


def test_the_version_of_a_round_is_the_last_one_up_to_it(tmp_path):
    models = PersonalModels(tmp_path, checkpoint_every=100)
    assert models.load("a", 5) is None
    models.save("a", 3, weights(3))
    models.save("b", 4, weights(4))
    assert models.load("a", 2) is None
    for number in (3, 4, 99):
        assert models.load("a", number)["w"].tolist() == [3, 3]
    models.save("a", 3, weights(7))
    assert models.load("a", 3)["w"].tolist() == [7, 7]


def test_what_a_checkpoint_may_go_on_from_is_kept_and_nothing_else(tmp_path):
    models = PersonalModels(tmp_path, checkpoint_every=5)
    for number in range(1, 13):
        models.save("a", number, weights(number))
    assert rounds(tmp_path, "a") == [5, 10, 12]
    # A group that is asked now and then: its last versions before rounds 5 and 10.
    for number in (1, 3, 4, 6, 12):
        models.save("b", number, weights(number))
    assert rounds(tmp_path, "b") == [4, 6, 12]


@pytest.mark.parametrize("group", ["Côte d'Ivoire", "a/b", "India (Current national sample)"])
def test_any_group_has_a_folder_of_its_own(tmp_path, group):
    models = PersonalModels(tmp_path / "run", checkpoint_every=5)
    models.save(group, 1, weights(1))
    assert models.load(group, 1)["w"].tolist() == [1, 1]
    assert len(list((tmp_path / "run").iterdir())) == 1


@pytest.mark.parametrize("run", ["", "..", "../../elsewhere", "0123456789abcdeg", "a" * 17])
def test_a_run_name_that_is_no_name_is_refused(run):
    local = LocalData(load_config([], None), "", None, {}, {}, {}, None, None, {}, "", [])
    with pytest.raises(ValueError, match="16 hexadecimal digits"):
        local.personal_models(run)


def test_a_group_with_a_very_long_name_has_a_folder_too(tmp_path):
    models = PersonalModels(tmp_path, 10)
    names = ["\u56fd" * 100, "\u56fd" * 99 + "\u5bb6"]
    for number, name in enumerate(names):
        models.save(name, 1, {"w": torch.tensor([float(number)])})
    assert [models.load(name, 1)["w"].item() for name in names] == [0.0, 1.0]


@pytest.fixture
def local(tmp_path):
    overrides = [*TINY, "personal=ditto", "precision=float64", f"cache_dir={tmp_path}"]
    config = load_config([*overrides, "training.steps_per_round=3"], None)
    survey = load_survey(config.data)
    tasks = list(group_tasks(survey, list(survey.answers), config).values())
    table = survey_table(survey, config)
    model = PreferenceTransformer(table.shape[1], config.model, seed=0).double()
    return config, tasks, table, model


def test_several_groups_together_get_the_models_of_one_by_one(local, tmp_path):
    config, tasks, table, model = local
    received = {name: value.clone() for name, value in model.state_dict().items()}
    stores = [PersonalModels(tmp_path / name, 10) for name in ("apart", "together")]
    draws = torch.Generator().manual_seed(0)
    for task in tasks:  # models that differ, and from the received one
        own = {
            name: value + 0.01 * torch.randn(value.shape, generator=draws)
            for name, value in received.items()
        }
        for store in stores:
            store.save(task.name, 1, own)
    for task in tasks:
        model.load_state_dict(received)
        train_personal(stores[0], model, [task], table, config, 2)
    model.load_state_dict(received)
    train_personal(stores[1], model, tasks, table, config, 2)
    for task in tasks:
        apart, together = (store.load(task.name, 2) for store in stores)
        for name, value in apart.items():
            torch.testing.assert_close(together[name], value, atol=1e-8, rtol=0)
            assert not torch.equal(received[name], value)


def test_the_stronger_the_pull_the_nearer_to_the_received_model(local, tmp_path):
    config, tasks, table, model = local
    received = {name: value.clone() for name, value in model.state_dict().items()}
    distances = []
    for mu in (0.0, 1.0, 100.0):
        config = replace(config, personal=replace(config.personal, mu=mu))
        store = PersonalModels(tmp_path / str(mu), 10)
        model.load_state_dict(received)
        train_personal(store, model, tasks[:1], table, config, 1)
        own = store.load(tasks[0].name, 1)
        distances.append(sum(float((own[n] - received[n]).square().sum()) for n in own))
        if mu == 0:
            model.load_state_dict(received)
            train_group(model, tasks[0], table, config, 1)
            assert all(np.array_equal(own[n], v) for n, v in model.state_dict().items())
    assert distances[0] > distances[1] > distances[2] > 0
