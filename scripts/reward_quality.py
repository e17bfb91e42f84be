"""Measure a reward model on its run's local survey: preferred options, and honest uncertainty.

For groups that never trained, from the context that the run's evaluation draws:

- how often the option that more of the group chose, of two of a question, gets the higher reward,
  next to the predictors without a network (a tie counts half);
- how often a true share lies within one and two predicted standard deviations, and whether larger
  ones go with larger errors.

    python scripts/reward_quality.py RUN
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch
import yaml
from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor

from plurallm.config.compose import load_tool_config, typed_config
from plurallm.config.overrides import hydra_quote
from plurallm.config.services import ExportConfig
from plurallm.data.preferences import Preferences
from plurallm.data.roles import assign_roles, count_seen
from plurallm.data.survey import Survey
from plurallm.data.tasks import group_tasks, load_survey, survey_table
from plurallm.evaluate.baseline import BASELINES
from plurallm.evaluate.baselines.scoring import baseline_predictors
from plurallm.evaluate.scores import Predictor, ScoredDraw, predict_draws
from plurallm.reward import PreferenceRewardModel, Query, survey_context
from plurallm.reward.export import export_bundle

CELLS = ("seen questions", "unseen questions")
_NAMES = {1e-9: "all pairs", 0.1: "10 points apart"}
_AT_ONCE = 128


def reward_predictor(
    model: PreferenceRewardModel, survey: Survey, group: str, spreads: list[Tensor]
) -> Predictor:
    """Make a predictor of the rewards that the model gives to the options of a question.

    It appends the spreads (Q, O) of the targets to `spreads`.
    """

    def predict(context: Preferences, target: Preferences) -> Tensor:
        known = survey_context(survey, group, context.question_Q.tolist())
        questions = [survey.questions[position] for position in target.question_Q.tolist()]
        queries = [Query(question.text, question.options, known) for question in questions]
        batches = range(0, len(queries), _AT_ONCE)
        forecasts = [f for n in batches for f in model.predict_batch(queries[n : n + _AT_ONCE])]
        both_2QO = torch.zeros(2, *target.mask_QO.shape, dtype=torch.float64)
        for row, forecast in enumerate(forecasts):
            both_2QO[0, row, : len(forecast.shares)] = torch.tensor(forecast.shares)
            both_2QO[1, row, : len(forecast.shares)] = torch.tensor(forecast.spread)
        spreads.append(both_2QO[1])
        return both_2QO[0]

    return predict


def pairs_right(true_QO: Tensor, reward_QO: Tensor, mask_QO: Tensor, least: float) -> float:
    """Share of pairs of options, whose true shares differ by at least so much, that are ranked."""
    pair_QOO = (mask_QO.unsqueeze(-1) & mask_QO.unsqueeze(-2)).triu(1)
    true_QOO = true_QO.unsqueeze(-1) - true_QO.unsqueeze(-2)
    reward_QOO = reward_QO.unsqueeze(-1) - reward_QO.unsqueeze(-2)
    counted = pair_QOO & (true_QOO.abs() >= least)
    right_QOO = (1 + true_QOO.sign() * reward_QOO.sign()) / 2
    return right_QOO[counted].mean().item()


def bundle_of(run: Path) -> PreferenceRewardModel:
    """Reward model of a run, exported and loaded again."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {"run": str(run), "folder": str(Path(folder, "bundle"))}
        settings = [f"{key}={hydra_quote(path)}" for key, path in paths.items()]
        export_bundle(load_tool_config("export", settings, ExportConfig))
        return PreferenceRewardModel.from_pretrained(paths["folder"])


def cells_of(draw: ScoredDraw) -> Iterator[tuple[str, Tensor]]:
    """Rows of the targets on seen and on unseen questions."""
    row_Q = torch.arange(len(draw.target))
    yield CELLS[0], row_Q[: draw.seen_questions]
    if draw.seen_questions < len(draw.target):
        yield CELLS[1], row_Q[draw.seen_questions :]


def accuracy_table(predictors: Mapping[str, Mapping[str, list[ScoredDraw]]]) -> Table:
    """How often each predictor ranks two options rightly: means over draws and groups."""
    columns = [(cell, least) for cell in CELLS for least in (1e-9, 0.1)]
    table = Table("reward", *(f"{cell}, {_NAMES[least]}" for cell, least in columns))
    table.box = box.MARKDOWN
    for name, by_group in predictors.items():
        right = defaultdict(list)
        for draw in (draw for draws in by_group.values() for draw in draws):
            target, share_QO = draw.target, draw.share_QO
            for cell, row_Q in cells_of(draw):
                true_QO, mask_QO = target.share_QO[row_Q], target.mask_QO[row_Q]
                for least in _NAMES:
                    right[cell, least].append(pairs_right(true_QO, share_QO[row_Q], mask_QO, least))
        marks = {
            cell: " *"
            if name in BASELINES.names and BASELINES.find(name).oracle and cell == CELLS[1]
            else ""
            for cell in CELLS
        }
        table.add_row(name, *(f"{fmean(right[c, n]):.3f}{marks[c]}" for c, n in columns))
    return table


def spread_table(draws: Sequence[ScoredDraw], spreads: Sequence[Tensor]) -> Table:
    """Predicted standard deviations next to errors, over all options of all groups."""
    table = Table("questions", "options", "within 1 spread", "within 2 spreads", "rms error")
    for name in ("rms spread", "rank correlation with the error"):
        table.add_column(name)
    table.box = box.MARKDOWN
    parts = defaultdict(list)
    for draw, spread_QO in zip(draws, spreads, strict=True):
        error_QO = (draw.share_QO - draw.target.share_QO).abs()
        for cell, row_Q in cells_of(draw):
            mask_QO = draw.target.mask_QO[row_Q]
            parts[cell].append(torch.stack([error_QO[row_Q][mask_QO], spread_QO[row_Q][mask_QO]]))
    for cell, found in parts.items():
        error_P, spread_P = torch.cat(found, 1)
        table.add_row(
            cell,
            f"{len(error_P):,}",
            *(f"{(error_P <= n * spread_P).double().mean():.3f}" for n in (1, 2)),
            *(f"{values.square().mean().sqrt():.3f}" for values in (error_P, spread_P)),
            f"{spearmanr(error_P, spread_P).statistic:.2f}",
        )
    return table


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run with held-out groups")
    options = parser.parse_args()
    config = typed_config(
        OmegaConf.create(yaml.safe_load((options.run / "config.yaml").read_text("utf-8")))
    )
    survey = load_survey(config.data)
    roles = assign_roles(count_seen(survey, config), config)
    if not roles.held_out:
        parser.error(f"{options.run} has no held-out group")
    model, spreads = bundle_of(options.run), list[Tensor]()
    tasks = group_tasks(survey, roles.groups, config)
    predictors: dict[str, dict[str, Predictor]] = {
        "reward model": {g: reward_predictor(model, survey, g, spreads) for g in roles.held_out},
        **baseline_predictors(tasks, roles, survey_table(survey, config)),
    }
    draws = {
        name: {g: [*predict_draws(tasks[g], by_group[g], config)] for g in roles.held_out}
        for name, by_group in predictors.items()
    }
    console = Console(width=150)
    console.print(f"Groups: {', '.join(roles.held_out)}; contexts: {config.evaluation.draws}")
    console.print(accuracy_table(draws), "* oracle: uses answers that training withheld", sep="\n")
    console.print(spread_table([d for own in draws["reward model"].values() for d in own], spreads))


if __name__ == "__main__":
    main()
