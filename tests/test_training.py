"""Local learning: schedule, losses, determinism, and that it learns."""

import copy
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from tiny import TINY
from torch.utils._python_dispatch import TorchDispatchMode

from plurallm.config.compose import load_config
from plurallm.data.preferences import make_episode
from plurallm.data.tasks import group_tasks, load_survey, survey_table
from plurallm.learn.adam import Adam
from plurallm.learn.batched import groups_in_memory, train_groups, train_groups_together
from plurallm.learn.draws import batches, draw_round, round_questions
from plurallm.learn.episodes import round_batches, round_episodes
from plurallm.learn.local import learning_rate, received_distance, train_group
from plurallm.learn.losses import episode_loss, predict
from plurallm.learn.proximal import Proximal
from plurallm.learn.transformer import Prediction, PreferenceTransformer


def prepare(tmp_path, *overrides):
    config = load_config([*TINY, f"cache_dir={tmp_path}", *overrides], None)
    survey = load_survey(config.data)
    tasks = group_tasks(survey, list(survey.answers), config)
    table = survey_table(survey, config)
    model = PreferenceTransformer(table.shape[1], config.model, seed=0)
    return config, tasks, table, model.to(getattr(torch, config.precision))


@pytest.fixture
def local(tmp_path):
    return prepare(tmp_path)


@pytest.fixture
def local_in_float64(tmp_path):
    """Where two computations of one thing are compared: float32 rounds them apart."""
    return prepare(tmp_path, "precision=float64")


def test_learning_rate_follows_the_written_list():
    config = load_config(
        [
            "federation.rounds=2",
            "training.steps_per_round=5",
            "training.warmup=0.2",
            "training.learning_rate=0.8",
        ],
        None,
    )
    cosine = [0.4 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    expected = [0.8 / 3, 1.6 / 3, *cosine]
    assert [learning_rate(step, config) for step in range(10)] == pytest.approx(expected)


def test_paper_schedule_is_one_cosine_over_the_whole_run():
    config = load_config(["experiment=paper"], None)
    rates = [learning_rate(step, config) for step in range(600)]
    assert rates[0] == pytest.approx(3e-4)
    assert rates == sorted(rates, reverse=True)
    assert rates[300] == pytest.approx(1.5e-4)
    assert 0 < rates[-1] < 1e-7


def hand_prediction():
    # Two questions: shares 0.75/0.25 predicted; the second has a third option.
    mean = torch.tensor([[math.log(3.0), 0.0, -math.inf], [0.0, 0.0, 0.0]])
    return Prediction(mean_QO=mean, raw_scale_QO=torch.zeros(2, 3))


def hand_loss(name, local):
    _, tasks, *_ = local
    training = load_config([*TINY, f"training={name}"], None).training
    task = next(iter(tasks.values()))
    target = task.seen.take(torch.tensor([0, 1]))
    episode = make_episode(task.seen.take(torch.tensor([2])), target)
    share = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    episode = replace(episode, point_QO=episode.point_QO[:, :2], share_QO=share, mask_QO=mask)
    return training.losses(hand_prediction(), episode)


def test_losses_equal_hand_worked_numbers(local):
    half, quarter = math.log(0.5), math.log(0.25)
    cross = [-(0.5 * math.log(0.75) + 0.5 * quarter), math.log(3)]
    torch.testing.assert_close(hand_loss("cross_entropy", local), torch.tensor(cross))
    divergence = [
        0.5
        * (
            0.5 * math.log(0.5 / 0.625)
            + 0.5 * math.log(0.5 / 0.375)
            + 0.75 * math.log(0.75 / 0.625)
            + 0.25 * math.log(0.25 / 0.375)
        ),
        0.5 * (math.log(1 / (2 / 3)) + 1 / 3 * half + 2 / 3 * math.log(2)),
    ]
    expected = torch.tensor([value / math.log(2) for value in divergence])
    torch.testing.assert_close(hand_loss("jensen_shannon", local), expected)
    scale = 1.01
    constant = math.log(scale) + 0.5 * math.log(2 * math.pi)
    gaussian = [
        constant + 0.5 * (0.25 / scale) ** 2,
        constant + 0.5 * ((2 / 3) ** 2 + 2 * (1 / 3) ** 2) / scale**2 / 3,
    ]
    torch.testing.assert_close(hand_loss("gaussian", local), torch.tensor(gaussian))


@pytest.mark.parametrize("loss", ["cross_entropy", "jensen_shannon", "gaussian"])
def test_every_loss_falls(local, loss):
    _, tasks, table, model = local
    config = load_config([*TINY, f"training={loss}", "training.learning_rate=3e-3"], None)
    task = next(iter(tasks.values()))
    first = train_group(model, task, table, config, round_number=1).losses
    for round_number in range(2, 12):
        last = train_group(model, task, table, config, round_number).losses
    assert sum(last) < sum(first)


def test_a_round_is_a_function_of_weights_seed_group_and_round(local):
    config, tasks, table, model = local
    first, second, *_ = tasks.values()

    def trained(task, round_number):
        one = copy.deepcopy(model)
        torch.rand(7)  # the global state must not matter
        train_group(one, task, table, config, round_number)
        return one.state_dict()["first.weight"]

    assert torch.equal(trained(first, 1), trained(first, 1))
    assert not torch.equal(trained(first, 1), trained(first, 2))
    assert not torch.equal(trained(first, 1), trained(second, 1))


def test_examples_are_the_seen_questions_and_losses_one_a_step(local):
    config, tasks, table, model = local
    task = next(iter(tasks.values()))
    update = train_group(model, task, table, config, 1)
    assert update.examples == len(task.seen)
    assert len(update.losses) == config.training.steps_per_round


def test_unseen_questions_are_never_trained_on(local):
    config, tasks, table, model = local
    task = next(iter(tasks.values()))
    nothing = torch.full_like(task.unseen.share_QO, torch.nan)
    poisoned = replace(task, unseen=replace(task.unseen, share_QO=nothing))
    assert all(map(math.isfinite, train_group(model, poisoned, table, config, 1).losses))


def test_loss_is_the_mean_over_target_questions(local):
    config, tasks, table, model = local
    task = next(iter(tasks.values()))
    context = task.seen.take(torch.arange(5))
    both = task.seen.take(torch.tensor([6, 7]))
    single = [task.seen.take(torch.tensor([row])) for row in (6, 7)]
    separate = [
        episode_loss(model, make_episode(context, one), table, config.training) for one in single
    ]
    together = episode_loss(model, make_episode(context, both), table, config.training)
    torch.testing.assert_close(together, sum(separate) / 2)


@pytest.mark.parametrize("at_once", [None, 2])
@pytest.mark.parametrize("loss", ["cross_entropy", "jensen_shannon", "gaussian"])
def test_groups_together_equal_one_after_the_other(tmp_path, loss, at_once):
    config, by_group, table, model = prepare(tmp_path, f"training={loss}", "precision=float64")
    tasks = list(by_group.values())
    before = copy.deepcopy(model.state_dict())
    weights, updates = train_groups_together(
        model, tasks, table, config, round_number=2, at_once=at_once
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for row, task in enumerate(tasks):
        one = copy.deepcopy(model)
        update = train_group(one, task, table, config, round_number=2)
        assert updates[row].losses == pytest.approx(update.losses, abs=1e-10)
        assert updates[row].examples == update.examples
        for name, value in one.state_dict().items():
            torch.testing.assert_close(weights[name][row], value, rtol=0, atol=1e-8)


def test_a_single_group_is_trained_in_the_model_and_several_beside_it(local_in_float64):
    config, tasks, table, model = local_in_float64
    first, *others = tasks.values()
    start = copy.deepcopy(model.state_dict())
    alone = copy.deepcopy(model)
    expected = train_group(alone, first, table, config, 1)
    weights, updates = train_groups(model, [first], table, config, 1)
    assert updates == [expected]
    for name, value in alone.state_dict().items():
        assert torch.equal(weights[name], value[None])
        assert weights[name].data_ptr() == model.state_dict()[name].data_ptr()
    again, _ = train_groups(model, [first], table, config, 1, starts=[start])
    assert all(torch.equal(again[name][0], value) for name, value in alone.state_dict().items())
    model.load_state_dict(start)
    several, updates = train_groups(model, [first, *others], table, config, 1)
    assert len(updates) == len(tasks)
    assert all(torch.equal(start[name], value) for name, value in model.state_dict().items())
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(several[name][0], value, rtol=0, atol=1e-8)


def test_training_reads_nothing_from_the_device_step_by_step(local):
    """What waits for a device is counted on a CPU: single numbers that are read."""

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    def reads(action):
        with Reads() as counter:
            action()
        return counter.count

    config, tasks, table, model = local
    chosen = list(tasks.values())
    drawn = reads(lambda: draw_round(chosen, config, 1))  # on the host
    assert reads(lambda: train_groups_together(model, chosen, table, config, 1)) == drawn
    drawn = reads(lambda: draw_round(chosen[:1], config, 1))
    assert reads(lambda: train_group(model, chosen[0], table, config, 1)) == drawn


def test_groups_of_like_length_are_computed_together(local):
    config, tasks, *_ = local
    drawn = [draw for step in draw_round(list(tasks.values()), config, 1) for draw in step]
    lengths = [len(draw.point_P) for draw in drawn]
    found = list(batches(drawn, 4))
    assert [len(batch) for batch in found] == [4] * (len(drawn) // 4) + [2]
    together = [draw for batch in found for draw in batch]
    assert [len(draw.point_P) for draw in together] == sorted(lengths)
    assert sorted(map(id, together)) == sorted(map(id, drawn))
    (whole,) = batches(drawn, len(drawn))
    assert list(map(id, whole)) == list(map(id, drawn))


def test_episodes_are_those_of_the_drawn_questions_to_the_bit(local):
    config, tasks, table, _ = local
    for task in tasks.values():
        episodes = list(round_episodes(task, config, 2, table.device))
        assert len(episodes) == config.training.steps_per_round
        drawn = round_questions(task, config, 2)
        for episode, (context_Q, target_Q) in zip(episodes, drawn, strict=True):
            expected = make_episode(task.seen.take(context_Q), task.seen.take(target_Q))
            assert (episode.contexts, episode.start) == (expected.contexts, expected.start)
            assert episode.tensors().keys() == expected.tensors().keys()
            for name, part in expected.tensors().items():
                assert episode.tensors()[name].dtype == part.dtype
                assert torch.equal(episode.tensors()[name], part)


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("at_once", [2, 3])
def test_stacked_episodes_are_as_long_as_the_longest_and_hold_each_groups_own(
    local, at_once, multiple
):
    config, tasks, table, _ = local
    alone = [list(round_episodes(task, config, 1, table.device)) for task in tasks.values()]
    batched = round_batches(list(tasks.values()), config, 1, at_once, table.device, multiple)
    for step, drawn in zip(batched, zip(*alone, strict=True), strict=True):
        assert sorted(row for batch in step for row in batch.row_B.tolist()) == [0, 1, 2]
        for batch in step:
            stacked, rows = batch.episode, batch.row_B.tolist()
            longest = max(len(drawn[row].row_P) for row in rows)
            length = math.ceil(longest / multiple) * multiple
            assert stacked.row_P.shape == (len(rows), length)
            contexts = [drawn[row].contexts for row in rows]
            assert stacked.contexts == math.ceil(max(contexts) / multiple) * multiple
            assert stacked.start == (min(contexts) if multiple == 1 else 0)
            assert stacked.mask_QO.shape[1] % multiple == 0
            for place, row in enumerate(rows):
                _check_stacked(stacked, place, drawn[row])


def _check_stacked(stacked, place, episode):
    questions, options = episode.mask_QO.shape
    inner = (place, slice(questions), slice(options))
    assert torch.equal(stacked.mask_QO[inner], episode.mask_QO)
    assert torch.equal(stacked.share_QO[inner], episode.share_QO)
    assert stacked.share_QO[place].count_nonzero() == episode.share_QO.count_nonzero()
    # Counted from the stack's start: the shortest context's end.
    point = (stacked.point_QO + stacked.start)[inner]
    rows = stacked.row_P[place][point][episode.mask_QO]
    assert torch.equal(rows, episode.target_row_P[episode.point_QO][episode.mask_QO])
    context = stacked.context_mask_P[place]
    assert context.sum() == episode.contexts
    for name in ("row_P", "share_P"):
        known = getattr(stacked, name)[place, : stacked.contexts][context]
        assert torch.equal(known, getattr(episode, name)[: episode.contexts])
    assert not stacked.share_P[place, episode.contexts :].any()
    torch.testing.assert_close(
        stacked.weight_Q[place, :questions], torch.full((questions,), 1 / questions)
    )
    assert not stacked.weight_Q[place, questions:].any()


def test_a_round_copies_to_the_device_once_and_answers_never_again(local):
    config, tasks, *_ = local

    class Copies(TorchDispatchMode):
        """Counts what goes from the host to the meta device, which stands in for a GPU."""

        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            given = [part for part in args if isinstance(part, torch.Tensor)]
            if func is torch.ops.aten._to_copy.default:
                self.count += given[0].device.type == "cpu" and result.device.type == "meta"
            return result

    device = torch.device("meta")
    chosen = list(tasks.values())
    for counted in (
        lambda n: [*round_episodes(chosen[0], config, n, device)],
        lambda n: [*round_batches(chosen, config, n, 2, device)],
    ):
        counted(1)
        with Copies() as copies:
            counted(2)
        assert copies.count == 1


def test_groups_in_memory_follow_the_size_of_the_weights():
    sizes = load_config([], None).model
    small, large = (PreferenceTransformer(width, sizes, 0) for width in (384, 4096))
    assert groups_in_memory(small) > groups_in_memory(large) > 85  # all of GlobalOpinionQA's


def test_adam_is_that_of_torch_to_the_bit():
    draws = torch.Generator().manual_seed(3)
    start = [torch.randn(shape, generator=draws) for shape in ((5, 7), (3,), ())]
    ours, theirs = ([t.clone().requires_grad_() for t in start] for _ in range(2))
    own, reference = Adam(ours), torch.optim.Adam(theirs, fused=True)
    for rate in (1e-2, 3e-3, 1e-3):
        for tensors in (ours, theirs):
            sum((t**3).sum() for t in tensors).backward()
        own.step(rate)
        reference.param_groups[0]["lr"] = rate
        reference.step()
        reference.zero_grad()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_training_does_not_import_the_compiler_of_torch():
    # A new process for every message would spend most of its time on it.
    script = (
        "import sys, tiny; from plurallm.config.compose import load_config; "
        "from plurallm.data import tasks;"
        "from plurallm.learn.transformer import PreferenceTransformer;"
        "from plurallm.learn.local import train_group;"
        "config = load_config(tiny.TINY, None); survey = tasks.load_survey(config.data);"
        "table = tasks.survey_table(survey, config); name = next(iter(survey.answers));"
        "model = PreferenceTransformer(table.shape[1], config.model, config.seed);"
        "train_group(model, tasks.group_tasks(survey, [name], config)[name], table, config, 1);"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent)


def test_the_proximal_gradient_is_that_of_half_mu_times_the_squared_distance():
    anchor = {"w": torch.tensor([1.0, -2.0]), "b": torch.tensor(0.5)}
    weights = {
        "w": torch.tensor([[3.0, 1.0], [1.0, -2.0]], requires_grad=True),
        "b": torch.tensor([0.25, 0.5], requires_grad=True),
    }

    def loss():
        return (weights["w"] ** 3).sum() + weights["b"].sum()

    loss().backward()
    Proximal(0.7, anchor).add_gradient(weights)
    given = {name: value.grad.clone() for name, value in weights.items()}
    for value in weights.values():
        value.grad = None
    distance = sum(((value - anchor[name]) ** 2).sum() for name, value in weights.items())
    (loss() + 0.7 / 2 * distance).backward()
    for name, value in weights.items():
        torch.testing.assert_close(given[name], value.grad)


def test_at_mu_zero_the_proximal_term_changes_no_bit(local):
    config, tasks, table, model = local
    task = next(iter(tasks.values()))
    anchor = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    plain, pulled, strongly = (copy.deepcopy(model) for _ in range(3))
    losses = [
        train_group(one, task, table, config, 1, proximal).losses
        for one, proximal in (
            (plain, None),
            (pulled, Proximal(0.0, anchor)),
            (strongly, Proximal(9.0, anchor)),
        )
    ]
    assert losses[0] == losses[1] != losses[2]
    assert all(
        torch.equal(value, pulled.state_dict()[n]) for n, value in plain.state_dict().items()
    )


def test_received_distance_is_the_mean_over_the_rounds_targets_before_training(local):
    config, tasks, table, model = local
    task = next(iter(tasks.values()))
    before = copy.deepcopy(model.state_dict())
    distances = []
    for episode in round_episodes(task, config, 3, table.device):
        with torch.inference_mode():
            shares = predict(model, episode, table).shares_QO
        distances.append(
            np.mean(
                [
                    jensenshannon(true[mask], given[mask], base=2)
                    for true, given, mask in zip(
                        episode.share_QO.numpy(),
                        shares.numpy(),
                        episode.mask_QO.numpy(),
                        strict=True,
                    )
                ]
            )
        )
    assert len(distances) == config.training.steps_per_round
    measured = received_distance(model, task, table, config, 3)
    assert measured == pytest.approx(np.mean(distances), abs=1e-5)
    assert measured != received_distance(model, task, table, config, 4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
