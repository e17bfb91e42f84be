"""Answers and episodes as tensors: laid out like a slow loop would, drawn fairly.

Dimension letters: ``Q`` questions, ``O`` options (padded), ``P`` points.
"""

from collections import Counter
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from plurallm.data.preferences import (
    Episode,
    Preferences,
    draw_questions,
    make_episode,
    split_context,
)


def answers(questions: int, seed: int = 0, widest: int = 6) -> Preferences:
    """Random answers; table row ``100 * question + option`` names every point."""
    random = torch.Generator().manual_seed(seed)
    options_Q = torch.randint(2, widest + 1, (questions,), generator=random)
    mask_QO = torch.arange(widest) < options_Q[:, None]
    question_Q = torch.arange(questions) * 2 + 1
    row_QO = 100 * question_Q[:, None] + torch.arange(widest)
    share_QO = torch.rand(questions, widest, generator=random).masked_fill(~mask_QO, 0)
    return Preferences(
        question_Q,
        row_QO.masked_fill(~mask_QO, 0),
        share_QO / share_QO.sum(-1, keepdim=True),
        mask_QO,
        torch.rand(questions, widest, generator=random, dtype=torch.float64),
    )


def random_state(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parts(episode: Episode) -> dict[str, Tensor | None]:
    return {field.name: getattr(episode, field.name) for field in fields(episode)}


def same(one: Episode | Preferences, other: Episode | Preferences) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return all(
        torch.equal(left, right) if isinstance(left, Tensor) else left == right
        for left, right in pairs
    )


def draw_episode(
    preferences: Preferences, context: list[int], target: list[int], random: torch.Generator
) -> Episode:
    context_Q, target_Q = draw_questions(preferences, context, target, random)
    return make_episode(preferences.take(context_Q), preferences.take(target_Q))


def slow_episode(context: Preferences, target: Preferences) -> dict[str, list[Any]]:
    laid: dict[str, list[Any]] = {
        "row_P": [],
        "share_P": [],
        "point_QO": [],
        "share_QO": [],
        "mask_QO": [],
    }
    for question in range(len(context)):
        for option in range(context.mask_QO.shape[1]):
            if context.mask_QO[question, option]:
                laid["row_P"].append(context.row_QO[question, option].item())
                laid["share_P"].append(context.share_QO[question, option].item())
    contexts = len(laid["row_P"])
    widest = max(sum(mask) for mask in target.mask_QO.tolist())
    for question in range(len(target)):
        points, shares, mask = [], [], []
        for option in range(widest):
            exists = target.mask_QO[question, option].item()
            points.append(len(laid["row_P"]) - contexts if exists else 0)
            if exists:
                laid["row_P"].append(target.row_QO[question, option].item())
                laid["share_P"].append(0.0)
            shares.append(target.share_QO[question, option].item())
            mask.append(exists)
        laid["point_QO"].append(points)
        laid["share_QO"].append(shares)
        laid["mask_QO"].append(mask)
    return laid


def questions_of(row_P: Tensor) -> list[int]:
    """Positions of the questions that points belong to, in order."""
    return list(dict.fromkeys((row_P // 100).tolist()))


@pytest.mark.parametrize("seed", range(5))
def test_an_episode_is_laid_out_like_the_slow_loop_does(seed: int) -> None:
    everything = answers(12, seed)
    context = everything.take(torch.tensor([3, 0, 7]))
    target = everything.take(torch.tensor([11, 5, 1, 8]))
    episode = parts(make_episode(context, target))
    assert episode.pop("contexts") == episode.pop("start") == context.mask_QO.sum()
    assert episode.pop("context_mask_P") is None
    assert episode.pop("weight_Q") is None
    assert {name: part.tolist() for name, part in episode.items()} == slow_episode(context, target)


def test_targets_points_lead_back_to_their_rows() -> None:
    target = answers(9, 3)
    episode = make_episode(answers(2, 4), target)
    width = episode.mask_QO.shape[1]
    rows_QO = episode.target_row_P[episode.point_QO].masked_fill(~episode.mask_QO, 0)
    assert torch.equal(rows_QO, target.row_QO[:, :width])
    assert len(episode.target_row_P) == target.mask_QO.sum()


def test_an_episode_without_targets_is_empty_and_not_an_error() -> None:
    nothing = answers(3).take(torch.tensor([], dtype=torch.int64))
    episode = make_episode(answers(2), nothing)
    assert len(episode.target_row_P) == 0
    assert episode.share_QO.shape[0] == 0


def test_padding_of_options_changes_nothing() -> None:
    narrow = answers(12, 1)
    pad = (0, 13)
    wide = Preferences(
        narrow.question_Q,
        torch.nn.functional.pad(narrow.row_QO, pad),
        torch.nn.functional.pad(narrow.share_QO, pad),
        torch.nn.functional.pad(narrow.mask_QO, pad),
        torch.nn.functional.pad(narrow.position_QO, pad),
    )
    for seed in range(10):
        drawn = [draw_episode(part, [2, 5], [2, 5], random_state(seed)) for part in (narrow, wide)]
        assert same(*drawn)


def test_context_and_targets_share_no_question() -> None:
    everything = answers(30)
    for seed in range(100):
        episode = draw_episode(everything, [1, 20], [1, 20], random_state(seed))
        context, target = questions_of(episode.context_row_P), questions_of(episode.target_row_P)
        assert not set(context) & set(target)
        assert len(target) == len(episode.share_QO)
        # Whole questions, none twice.
        options = everything.mask_QO.sum(-1).tolist()
        of = dict(zip(everything.question_Q.tolist(), options, strict=True))
        assert len(episode.context_row_P) == sum(of[question] for question in context)
        assert len(episode.context_row_P.unique()) == len(episode.context_row_P)
        assert len(episode.target_row_P) == sum(of[question] for question in target)


def test_shares_go_with_their_rows() -> None:
    everything = answers(30)
    rows = everything.row_QO.flatten().tolist()
    share_of = dict(zip(rows, everything.share_QO.flatten(), strict=True))
    episode = draw_episode(everything, [5, 10], [5, 10], random_state(0))
    for row, share in zip(episode.context_row_P.tolist(), episode.context_share_P, strict=True):
        assert share == share_of[row]
    share_P = episode.share_QO[episode.mask_QO]
    for row, share in zip(episode.target_row_P.tolist(), share_P, strict=True):
        assert share == share_of[row]
    torch.testing.assert_close(episode.share_QO.sum(-1), torch.ones(len(episode.share_QO)))


def drawn_counts(
    questions: int, context: list[int], target: list[int], draws: int = 300
) -> Counter[tuple[int, int]]:
    everything = answers(questions)
    counts: Counter[tuple[int, int]] = Counter()
    random = random_state(1)
    for _ in range(draws):
        episode = draw_episode(everything, context, target, random)
        counts[len(questions_of(episode.context_row_P)), len(episode.share_QO)] += 1
    return counts


def test_counts_are_uniform_over_the_spans_with_both_ends() -> None:
    counts = drawn_counts(40, [3, 5], [7, 8])
    assert set(counts) == {(c, t) for c in (3, 4, 5) for t in (7, 8)}
    assert min(counts.values()) > 25  # 50 each on average
    assert set(drawn_counts(40, [4, 4], [9, 9], 20)) == {(4, 9)}


def test_a_group_of_few_questions_draws_fewer_but_never_below_the_least() -> None:
    assert set(drawn_counts(5, [3, 50], [2, 50])) == {(3, 2)}
    counts = drawn_counts(7, [3, 50], [2, 50])
    # What context leaves of seven are at least the two least targets.
    assert set(counts) == {(3, 2), (3, 3), (3, 4), (4, 2), (4, 3), (5, 2)}


def test_every_question_takes_every_part() -> None:
    everything = answers(10)
    random = random_state(2)
    context: Counter[int] = Counter()
    target: Counter[int] = Counter()
    for _ in range(200):
        episode = draw_episode(everything, [3, 3], [3, 3], random)
        context.update(questions_of(episode.context_row_P))
        target.update(questions_of(episode.target_row_P))
    for counts in (context, target):
        assert set(counts) == set(everything.question_Q.tolist())
        assert min(counts.values()) > 30  # 60 each on average


def test_draws_depend_on_the_generator_alone() -> None:
    everything = answers(30)
    before = torch.get_rng_state()
    one = draw_episode(everything, [3, 9], [3, 9], random_state(5))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.rand(7)
        assert same(draw_episode(everything, [3, 9], [3, 9], random_state(5)), one)
    assert not same(draw_episode(everything, [3, 9], [3, 9], random_state(6)), one)
    # Of one group's answers only their number moves the draw.
    other = replace(everything, share_QO=everything.share_QO.flip(0))
    drawn = draw_episode(other, [3, 9], [3, 9], random_state(5))
    assert torch.equal(drawn.context_row_P, one.context_row_P)
    assert torch.equal(drawn.target_row_P, one.target_row_P)


def test_an_evaluation_context_has_its_size_and_the_rest_its_order() -> None:
    everything = answers(30)
    context, rest = split_context(everything, 12, random_state(3))
    assert (len(context), len(rest)) == (12, 18)
    assert (rest.question_Q.diff() > 0).all()
    both = context.join(rest)
    assert torch.equal(both.take(both.question_Q.argsort()).share_QO, everything.share_QO)
    again, _ = split_context(everything, 12, random_state(3))
    other, _ = split_context(everything, 12, random_state(4))
    assert same(context, again)
    assert not same(context, other)


def test_selections_carry_all_parts_along() -> None:
    everything = answers(5)
    some = everything.take(torch.tensor([4, 1]))
    assert some.question_Q.tolist() == [9, 3]
    assert some.row_QO[:, 0].tolist() == [900, 300]
    assert torch.equal(some.mask_QO[0], everything.mask_QO[4])
    both = some.join(everything.take(torch.tensor([0])))
    assert both.question_Q.tolist() == [9, 3, 1]
    assert torch.equal(both.share_QO[2], everything.share_QO[0])


def test_hidden_answers_are_zero_and_all_else_stays() -> None:
    everything = answers(5)
    hidden = everything.without_shares()
    assert not hidden.share_QO.any()
    assert same(replace(hidden, share_QO=everything.share_QO), everything)
    assert everything.share_QO.any()


def test_an_episode_keeps_what_is_not_there_on_its_way_to_a_device() -> None:
    episode = draw_episode(answers(20), [3, 9], [3, 9], random_state(1))
    assert same(episode.to(torch.device("cpu")), episode)
    assert episode.to(torch.device("meta")).point_QO.device.type == "meta"
    assert episode.to(torch.device("meta")).weight_Q is None
