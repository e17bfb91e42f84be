"""Comparisons: what an arm is, numbers worked by hand, and a whole small one."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY

from plurallm.config.compose import load_config
from plurallm.config.error import ConfigError
from plurallm.config.schema import Config
from plurallm.evaluate.baselines.pooled_answers import simplex_weights
from plurallm.learn.local import train_group
from plurallm.results.compare.arms import read_arm
from plurallm.results.compare.centralized_arm import Pooled
from plurallm.results.compare.convergence import convergence
from plurallm.results.compare.over_seeds import answered_cells, over_seeds, question_fairness
from plurallm.results.compare.paired import Pairs, read_pairs
from plurallm.results.compare.run_comparison import ArmsFailedError, run_comparison
from plurallm.results.compare.summary import comparison_results
from plurallm.results.compare.verdicts import verdicts
from plurallm.study import cached_study

HELD_OUT = "held_out_groups.seen_questions"
ARMS = "federated,pooled_steps,pooled_rounds,local,paper,uniform,mean,mixture,neighbours"
SMALL = [
    *TINY,
    *("federation.rounds=3", "training.steps_per_round=2", "evaluation.every=1", "threads=1"),
    "compare.jobs=2",
]


# Arms


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config([], None)


def test_named_arms_and_overrides_of_a_federated_run(config: Config) -> None:
    assert read_arm("federated", config).overrides == ()
    assert read_arm("pooled_rounds", config).overrides == ("training.steps_per_round=1",)
    own = read_arm("training=jensen_shannon training.warmup=0", config)
    assert (own.kind, own.overrides) == (
        "federated",
        ("training=jensen_shannon", "training.warmup=0"),
    )
    assert "/" not in read_arm("embedding.path=a/b", config).folder


def test_the_paper_embeds_question_and_option_as_one_text() -> None:
    arm = read_arm("paper", load_config(["embedding=minilm"], None))
    assert arm.overrides[-1] == "embedding.parts=joint"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("fedrated", "neither an arm"),
        ("training=jensen_shannon seed=3", "seed"),
        ("data.unseen_questions=0.5", "data.unseen_questions"),
        ("evaluation.draws=3", "evaluation.draws"),
        ("+data.path=x", "data.path"),
    ],
)
def test_an_arm_that_cannot_be_compared_is_refused(config: Config, name: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        read_arm(name, config)


# Numbers worked by hand


def point(rounds: int, steps: int, sent: int, score: float) -> dict[str, object]:
    cost = {"rounds": rounds, "steps": steps, "episodes": 4 * steps, "bytes": sent}
    return {**cost, "train_loss": 1.0, "cells": {HELD_OUT: score}}


def arm(kind: str, final: float, *curve: dict[str, object]) -> dict[str, object]:
    cells = {HELD_OUT: {"alignment": over_seeds({"1": final})}}
    return {"kind": kind, "cells": cells, "curves": {"1": list(curve)} if curve else {}}


def test_convergence_is_the_first_round_with_most_of_the_best_gain() -> None:
    arms = {
        "uniform": arm("baseline", 0.6),
        "federated": arm(
            "federated",
            0.78,
            point(1, 6, 100, 0.7),
            point(2, 12, 200, 0.79),
            point(3, 18, 300, 0.78),
        ),
        "pooled_steps": arm(
            "pooled", 0.8, point(1, 6, 0, 0.78), point(2, 12, 0, 0.785), point(3, 18, 0, 0.8)
        ),
        "pooled_rounds": arm("pooled", 0.7, point(1, 1, 0, 0.65), point(2, 2, 0, 0.7)),
    }
    found = convergence(arms)[HELD_OUT]
    assert found["targets"] == {"1": pytest.approx(0.6 + 0.95 * 0.2)}  # 0.79
    assert found["arms"]["federated"]["1"]["rounds"] == 2
    assert found["arms"]["pooled_steps"]["1"]["rounds"] == 3
    assert found["arms"]["pooled_rounds"]["1"] is None
    ratios = found["ratios"]["pooled_steps"]
    assert ratios["rounds"]["median"] == pytest.approx(2 / 3)
    assert ratios["steps"]["median"] == pytest.approx(12 / 18)
    assert ratios["bytes"] is None  # the pooled arm sends no weights
    assert found["ratios"]["pooled_rounds"]["rounds"] is None  # never got there


def test_convergence_needs_uniform_and_a_gain_over_it() -> None:
    federated = arm("federated", 0.8, point(1, 1, 1, 0.8))
    assert convergence({"federated": federated}) == {}
    assert convergence({"federated": federated, "uniform": arm("baseline", 0.81)}) == {}


def test_verdicts_pair_the_seeds_that_both_have() -> None:
    ours = {HELD_OUT: {"alignment": over_seeds({"1": 0.8, "2": 0.7, "3": 0.9})}}
    theirs = {HELD_OUT: {"alignment": over_seeds({"1": 0.75, "2": 0.72})}}
    (row,) = verdicts(
        {
            "federated": {"kind": "federated", "cells": ours},
            "mean": {"kind": "baseline", "cells": theirs},
        }
    )
    assert row["difference"]["mean"] == pytest.approx(0.015)
    assert row["difference"]["std"] == pytest.approx(0.07 / math.sqrt(2))
    assert (row["wins"], row["oracle"], len(row["difference"]["values"])) == (1, False, 2)


def test_differences_leave_out_what_no_other_training_group_answered() -> None:
    pairs = Pairs(
        group_N=np.array(["A", "A", "A", "B", "B", "C"]),
        question_N=np.array([1, 2, 3, 1, 2, 3]),
        draw_N=np.zeros(6, int),
        seen_N=np.array([True, True, False, True, True, True]),
        distance_N=np.array([0.2, 0.4, 0.5, 0.1, 0.9, 0.6]),
        share_NO=np.zeros((6, 2), np.float32),
    )
    roles = {"A": "held_out", "B": "held_out", "C": "train"}
    cells = answered_cells(pairs, roles, {"B": (2,), "C": (3,)})
    # A has 0.8 and 0.6, B 0.9 alone; C has nothing left.
    assert cells == {
        HELD_OUT: {"alignment": pytest.approx(0.8), "unanswered": 1, "pairs": 4},
        "held_out_groups.unseen_questions": {"alignment": 0.5, "unanswered": 0, "pairs": 1},
    }
    all_pairs = {HELD_OUT: {"alignment": over_seeds({"1": 0.5})}}
    arms = {
        "federated": {"kind": "federated", "cells": all_pairs},
        "mean": {"kind": "baseline", "cells": all_pairs},
    }
    arms["federated"]["answered"] = {HELD_OUT: {"alignment": over_seeds({"1": 0.75})}}
    arms["mean"]["answered"] = {HELD_OUT: {"alignment": over_seeds({"1": 0.5})}}
    (row,) = verdicts(arms)
    assert row["difference"]["mean"] == 0.25


def test_fairness_by_question_averages_over_the_questions_that_two_groups_answered() -> None:
    pairs = Pairs(
        group_N=np.array(["A", "B", "A", "B", "A", "C"]),
        question_N=np.array([0, 0, 1, 1, 2, 0]),
        draw_N=np.zeros(6, dtype=np.int64),
        seen_N=np.array([True, True, True, True, True, True]),
        distance_N=np.array([0.2, 0.6, 0.5, 0.5, 0.1, 0.9]),
        share_NO=np.zeros((6, 2), dtype=np.float32),
    )
    # Question 0: scores 0.8 and 0.4, mean 0.6, deviation 0.2. Question 1: equal. 2: one group.
    assert question_fairness(pairs, ["A", "B"], seen=True) == pytest.approx(
        {"cov_question": (1 / 3 + 0) / 2, "fi_question": (1 / (1 + 1 / 9) + 1) / 2}
    )
    assert question_fairness(pairs, ["A", "B"], seen=False) is None


def test_simplex_weights_are_the_best_of_a_grid() -> None:
    generator = torch.Generator().manual_seed(3)
    predicted_PG = torch.rand(30, 3, generator=generator, dtype=torch.float64)
    true_P = torch.rand(30, generator=generator, dtype=torch.float64)

    def cost(weight_G: torch.Tensor) -> float:
        error = (predicted_PG @ weight_G - true_P).square().sum()
        return float(error + 0.5 * (weight_G - 1 / 3).square().sum())

    grid = torch.linspace(0, 1, 201, dtype=torch.float64)
    best = min(
        cost(torch.stack([a, b, 1 - a - b])) for a in grid for b in grid if a + b <= 1 + 1e-12
    )
    weight_G = simplex_weights(predicted_PG, true_P, 0.5)
    assert (weight_G >= 0).all()
    assert float(weight_G.sum()) == pytest.approx(1)
    assert cost(weight_G) <= best + 1e-6


# A whole small comparison


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compare") / "comparison"
    run_comparison([*SMALL, f"compare.arms=[{ARMS}]", "compare.seeds=[1,2]"], path)
    return path


def test_every_arm_has_the_same_questions_and_a_spread(folder: Path) -> None:
    results = comparison_results(folder)
    assert results["missing"] == []
    assert set(results["arms"]) == set(ARMS.split(","))
    for name, own in results["arms"].items():
        cell = own["cells"]["train_groups.seen_questions"]
        assert set(cell["alignment"]["values"]) == {"1", "2"}, name
        assert cell["alignment"]["std"] is not None
        assert "cov_question" in cell
    assert HELD_OUT not in results["arms"]["local"]["cells"]
    pairs = {
        name: read_pairs(folder / name / "seed-1" / "pairs.npz")
        for name in ("federated", "mixture")
    }
    assert (pairs["federated"].question_N == pairs["mixture"].question_N).all()
    assert (pairs["federated"].group_N == pairs["mixture"].group_N).all()


def test_scores_by_question_average_to_the_arms_score(folder: Path) -> None:
    summary = json.loads((folder / "pooled_steps" / "seed-1" / "summary.json").read_text())
    pairs = read_pairs(folder / "pooled_steps" / "seed-1" / "pairs.npz")
    for group, scores in summary["groups"].items():
        chosen = (pairs.group_N == group) & pairs.seen_N
        assert 1 - pairs.distance_N[chosen].mean() == pytest.approx(
            scores["seen_questions"]["alignment"]
        )


def test_curves_count_what_was_spent(folder: Path) -> None:
    arms = comparison_results(folder)["arms"]
    last = {name: arms[name]["curves"]["1"][-1] for name in ("federated", "pooled_steps")}
    groups = len(comparison_results(folder)["train_groups"])
    for name in last:
        assert (last[name]["rounds"], last[name]["steps"]) == (3, 6), name
        assert last[name]["episodes"] == 6 * groups
    assert last["pooled_steps"]["bytes"] == 0
    assert arms["pooled_rounds"]["curves"]["1"][-1]["steps"] == 3


def test_what_is_done_is_not_done_again_and_what_is_missing_is(folder: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("pairs.npz")}
    lost = folder / "pooled_steps" / "seed-2" / "pairs.npz"
    expected = read_pairs(lost).distance_N
    lost.unlink()
    run_comparison([*SMALL, f"compare.arms=[{ARMS}]", "compare.seeds=[1,2]"], folder)
    after = {file: file.stat().st_mtime_ns for file in folder.rglob("pairs.npz")}
    assert {file for file in before if before[file] != after[file]} == {lost}
    assert (read_pairs(lost).distance_N == expected).all()


def test_another_configuration_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"federation\.rounds: 3 -> 4"):
        run_comparison([*SMALL, "federation.rounds=4"], folder)


def test_a_federated_arm_that_was_cut_off_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    overrides = [*SMALL, "compare.arms=[federated]", "compare.seeds=[1]"]
    overrides += ["federation.rounds=4", "federation.checkpoint_every=2"]
    run_comparison(overrides, tmp_path / "whole")
    run_comparison(overrides, tmp_path / "cut")
    cut = tmp_path / "cut" / "federated" / "seed-1"
    for name in ("summary.json", "pairs.npz"):
        (cut / name).unlink()
    log = (cut / "metrics.jsonl").read_bytes()
    (cut / "metrics.jsonl").write_bytes(b"".join(log.splitlines(keepends=True)[:3]))
    run_comparison(overrides, tmp_path / "cut")
    whole = tmp_path / "whole" / "federated" / "seed-1"
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert (
        read_pairs(cut / "pairs.npz").distance_N == read_pairs(whole / "pairs.npz").distance_N
    ).all()


def test_an_arm_that_changes_who_takes_part_is_refused(tmp_path: Path) -> None:
    arms = 'compare.arms=[uniform,"training.context_questions=[31,32]"]'
    with pytest.raises(ConfigError, match=r"context_questions=\[31,32\]' changes which groups"):
        run_comparison([*SMALL, arms], tmp_path / "refused")


def test_privacy_of_respondents_needs_true_scores_beside_other_arms(tmp_path: Path) -> None:
    arms = 'compare.arms=[uniform,"privacy=respondent"]'
    with pytest.raises(ConfigError, match=r"privacy=respondent'.*privacy.true_scores=true"):
        run_comparison([*SMALL, arms], tmp_path / "refused")


def test_the_published_arm_stays_as_published() -> None:
    given = ["training.learning_rate=1e-2", "strategy=fedadam", "training.steps_per_round=9"]
    config = load_config(given, None)
    paper = load_config([*given, *read_arm("paper", config).overrides], None)
    published = load_config(["training=paper", "training.steps_per_round=9"], None)
    assert paper.training == published.training
    assert paper.strategy.name == "fedavg"


def test_an_arm_that_fails_is_named_and_the_others_run(tmp_path: Path) -> None:
    overrides = [*SMALL, "compare.arms=[uniform,federation.min_groups=50]", "compare.seeds=[1]"]
    overrides[-2] = 'compare.arms=[uniform,"federation.min_groups=50"]'
    with pytest.raises(ArmsFailedError, match=r"1 of 2 .*federation.min_groups=50, seed 1"):
        run_comparison(overrides, tmp_path / "failing")
    results = comparison_results(tmp_path / "failing")
    assert list(results["arms"]) == ["uniform"]
    (missing,) = results["missing"]
    assert missing.startswith("federation.min_groups=50, seed 1 (failed: federation.min_groups is")


# Central training


def test_pooled_training_of_one_group_is_local_training() -> None:
    overrides = (*SMALL, "data.train_groups=[]", "data.held_out_fraction=0.6", "precision=float64")
    study = cached_study(overrides)
    (task,) = study.train_tasks
    pooled = Pooled(study)
    losses = pooled.train(1)
    alone = study.new_model()
    update = train_group(alone, task, study.table_RD, study.config, 1)
    assert losses[task.name] == pytest.approx(sum(update.losses) / len(update.losses))
    for name, value in alone.state_dict().items():
        assert np.array_equal(pooled.arrays()[name], value.numpy()), name
