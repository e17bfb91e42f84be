"""A finished run, and how one is started from Python."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from plurallm.config.compose import load_tool_config
from plurallm.config.error import ConfigError
from plurallm.config.overrides import absolute_overrides, hydra_list, hydra_quote
from plurallm.config.services import ExportConfig
from plurallm.data.content import check_survey
from plurallm.federate.in_process import run_here
from plurallm.federate.recorder import SELECTION_CELLS
from plurallm.results.report.report_folder import write_report
from plurallm.results.rows import Rows
from plurallm.reward.export import run_model
from plurallm.reward.model import PreferenceRewardModel
from plurallm.study import Study, cached_study

_METRICS = ("alignment", "alignment_e", "worst", "gap", "cov", "fi")


class Run:
    """What a finished run has left in its folder.

    Parameters
    ----------
    folder : str or Path
        Of a run that ``train``, ``plurallm train`` or ``flwr run`` finished.

    Attributes
    ----------
    folder : Path
        The same.

    Raises
    ------
    ConfigError
        When it is not the folder of a finished run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "summary.json").is_file():
            raise ConfigError(f"{folder} is not the folder of a finished run: no summary.json")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The whole of ``summary.json``."""
        found: dict[str, Any] = json.loads(
            (self.folder / "summary.json").read_text(encoding="utf-8")
        )
        return found

    @property
    def scores(self) -> Rows:
        """Scores of the model and of the baselines, one row for each predictor and cell.

        Alignment in base 2 (0..1) and base e, its worst group, gap, coefficient of variation and
        fairness index over groups; ``gain``, what the group's own context adds, where it is known.
        """
        predictors = {"model": self.summary, **self.summary.get("baselines", {})}
        return Rows(
            {"predictor": name, "cell": cell}
            | {metric: scores.get(metric) for metric in _METRICS}
            | {"gain": _gain(found, cell)}
            for name, found in predictors.items()
            for cell, scores in found["cells"].items()
        )

    @property
    def groups(self) -> Rows:
        """Alignment of the model for each group, on seen and on unseen questions."""
        return Rows(
            {"group": group, "role": scores["role"]}
            | {
                column: scores.get(column, {}).get("alignment")
                for column in ("seen_questions", "unseen_questions")
            }
            for group, scores in self.summary["groups"].items()
        )

    @property
    def study(self) -> Study:
        """The study that was trained on; its survey must still lie where it did, unchanged."""
        saved = yaml.safe_load((self.folder / "overrides.yaml").read_text(encoding="utf-8"))
        kept = [text for text in saved if text.partition("=")[0] not in ("output_dir", "resume")]
        study = cached_study(tuple(kept))
        file = self.folder / "model" / "config.json"
        known = json.loads(file.read_text("utf-8")).get("content") if file.is_file() else None
        check_survey(known, study.survey.fingerprints, str(self.folder))
        return study

    def report(self) -> Path:
        """Write the report: ``report.html`` and tables as CSV; gives the page's path."""
        write_report(self.folder)
        return self.folder / "report.html"

    def reward_model(
        self, release_context: Sequence[str] = (), weights: str = "last"
    ) -> PreferenceRewardModel:
        """Load the run's predictor.

        Parameters
        ----------
        release_context : sequence of str, optional
            Groups of the run's own survey whose context goes into the model, so that they can be
            asked for by name; ``save_pretrained`` would write these answers.
        weights : str
            ``"last"`` or ``"best"``.

        Returns
        -------
        PreferenceRewardModel
            Ready to predict.
        """
        settings = [
            f"run={hydra_quote(str(self.folder))}",
            "folder=''",  # nothing is written
            f"weights={weights}",
            f"release_context={hydra_list(release_context)}",
        ]
        return run_model(load_tool_config("export", settings, ExportConfig))

    def __repr__(self) -> str:
        rounds, cells = self.summary["rounds"], self.summary["cells"]
        shown = ", ".join(f"{cell} {scores['alignment']:.4f}" for cell, scores in cells.items())
        return f"Run({str(self.folder)!r}: {rounds} rounds; alignment {shown})"


def train(
    study: Study | None = None,
    *,
    rounds: int | None = None,
    strategy: str | None = None,
    personal: str | None = None,
    privacy: str | None = None,
    output_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Run:
    """Train a federation in this process: every group a client, no Ray, no network.

    Parameters
    ----------
    study : Study, optional
        On what; the built-in survey by default.
    rounds : int, optional
        Rounds of training, at least 1.
    strategy, personal, privacy : str, optional
        Names of ``conf/strategy``, ``conf/personal`` and ``conf/privacy``.
    output_dir : path, optional
        The run's folder; by default a new one in ``outputs``.
    overrides : sequence of str, optional
        Any other key of ``conf/``, for example ``["training.learning_rate=1e-3"]``.

    Returns
    -------
    Run
        The finished run.

    Raises
    ------
    ConfigError
        Naming the key that is wrong.
    FederationError
        When too few groups could train.
    """
    settings = {
        "federation.rounds": rounds,
        "strategy": strategy,
        "personal": personal,
        "privacy": privacy,
    }
    named = [f"{key}={value}" for key, value in settings.items() if value is not None]
    named += [] if output_dir is None else [f"output_dir={hydra_quote(str(output_dir))}"]
    start = () if study is None else study.overrides
    return Run(run_here(absolute_overrides([*start, *overrides, *named], Path.cwd())))


def selection_score(folder: Path) -> float:
    """The alignment by which settings of runs are chosen: never that of held-out groups.

    Returns
    -------
    float
        Of the training groups, on questions that no group trained on, or on seen ones where there
        are no others.

    Raises
    ------
    ConfigError
        When the run scored no training group.
    """
    cells = Run(folder).summary["cells"]
    for cell in SELECTION_CELLS:
        if cell in cells:
            return float(cells[cell]["alignment"])
    raise ConfigError(f"{folder} has no score of a training group to choose settings by")


def _gain(found: Mapping[str, Any], cell: str) -> float | None:
    gain: float | None = (found.get("plurality") or {}).get(cell, {}).get("gain")
    return gain
