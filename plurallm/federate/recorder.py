"""What is written down of each round, and of the whole run at its end."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import torch
from flwr.app import ArrayRecord, MetricRecord

from plurallm.config.digest import config_dict
from plurallm.config.protection import (
    CentralPrivacy,
    ExpertsPersonal,
    PoisoningAttack,
    RespondentPrivacy,
)
from plurallm.config.schema import Config
from plurallm.data.content import check_survey
from plurallm.data.roles import survey_roles, tell_parentheses
from plurallm.data.survey import Survey
from plurallm.data.tasks import load_survey
from plurallm.evaluate.experts import expert_predictors
from plurallm.evaluate.plurality import score_plurality
from plurallm.evaluate.scores import model_predictor, summarize
from plurallm.federate.aggregators.aggregator import Aggregator
from plurallm.federate.attendance import Attendance
from plurallm.federate.expert_updates import gather_experts
from plurallm.federate.fedavg import GroupFedAvg
from plurallm.federate.members import describe, is_deployment
from plurallm.federate.messages import read_array
from plurallm.federate.round_report import RoundReport
from plurallm.record.checkpoint import Arrays, Checkpoint, save_checkpoint
from plurallm.record.run_folder import RunFolder
from plurallm.record.trackers import Trackers, versions
from plurallm.study import Study

# Best to worst: what tells the best round. Held-out groups must not choose the model.
SELECTION_CELLS = ("train_groups.unseen_questions", "train_groups.seen_questions")


class Recorder:
    """Writes down each round: metrics, the best and the last model, checkpoints, the summary.

    Parameters
    ----------
    config : Config
        The run's configuration.
    attendance : Attendance
        Who takes part, and as what.
    strategy : GroupFedAvg
        Its ``report`` is what a round brought.
    folder : RunFolder
        Where models and checkpoints go.
    trackers : Trackers
        Where metrics go.
    checkpoint : Checkpoint
        Where the run starts.
    """

    def __init__(
        self,
        config: Config,
        attendance: Attendance,
        strategy: GroupFedAvg,
        folder: RunFolder,
        trackers: Trackers,
        checkpoint: Checkpoint,
    ) -> None:
        self._config = config
        self._attendance = attendance
        self._roles = attendance.roles
        sizes = config_dict(config)  # takes some milliseconds: once
        self._model = {
            "embedding_width": next(iter(attendance.nodes.values())).embedding_width,
            "model": sizes["model"],
            "embedding": sizes["embedding"],
            "precision": config.precision,
            "content": checkpoint.state["content"],
        }
        self._content: dict[str, Any] = checkpoint.state["content"]
        self._strategy = strategy
        self._folder = folder
        self._trackers = trackers
        self._totals: dict[str, float] = checkpoint.state["totals"]
        self._best: dict[str, Any] | None = checkpoint.state["best"]
        self._started = time.monotonic()

    def end_round(self, server_round: int, record: ArrayRecord) -> MetricRecord | None:
        """Take a finished round; Flower also calls it before the first one."""
        if server_round == 0:
            return None
        report = self._strategy.report
        if self._roles != self._attendance.roles:
            # Means over other groups do not compare.
            self._roles, self._best = self._attendance.roles, None
        arrays = {name: read_array(array) for name, array in record.items()}
        metrics: dict[str, Any] = {
            "round": report.round_number,
            "step": report.round_number * self._config.training.steps_per_round,
            "train_loss": report.train_loss,
            "losses": dict(report.losses),
            "groups_trained": list(report.losses),
            "groups_refused": report.refused,
        }
        if report.failed is not None:
            metrics["failed"] = report.failed
        if report.strategy:
            metrics["strategy"] = report.strategy
        if report.scores:
            distance = self._config.data.distance
            metrics |= summarize(report.scores, self._roles.by_group, distance)
            metrics |= self._other_cells(report)
            metrics["groups_unscored"] = report.unscored
            last_round = report.round_number == self._config.federation.rounds
            metrics |= self._plurality(arrays, brief=not last_round)
            if not report.unscored:  # means over other groups do not compare
                self._keep_best(metrics, arrays)
        self._count(
            {**report.seconds, "bytes_down": report.bytes_down, "bytes_up": report.bytes_up}
        )
        timings = {
            "round": report.round_number,
            # What a round takes in all, checkpoints too, is from its beginning to the next one's.
            "began": report.began - self._started,
            "seconds": report.seconds,
            "bytes_down": report.bytes_down,
            "bytes_up": report.bytes_up,
            "groups": report.work,
            **self._presence(),
        }
        self._trackers.log_round(metrics, timings)
        if report.round_number == self._config.federation.rounds:
            self._folder.save_model("model", arrays, self._describe(report.round_number))
            summary = self._summary(metrics)
            if isinstance(self._config.personal, ExpertsPersonal):
                summary |= self._experts(record, metrics)
            self._trackers.finish(summary)
        elif report.round_number % self._config.federation.checkpoint_every == 0:
            aggregator = self._strategy.aggregator
            state = {
                "totals": self._totals,
                "best": self._best,
                "run": self._strategy.run,
                "strategy": aggregator.numbers,
                "roles": self._roles.by_group,
                "content": self._content,
            }
            save_checkpoint(
                self._folder.path / "checkpoint",
                Checkpoint(report.round_number, arrays, state, aggregator.arrays),
            )
        return None

    def _experts(self, record: ArrayRecord, last: Mapping[str, Any]) -> dict[str, Any]:
        """Gather and save the experts; scores of the run become those of their mixture."""
        started = time.monotonic()
        experts = gather_experts(self._strategy, record, self._totals["train"])
        told = {
            "groups": list(experts.groups),
            "declined": experts.declined,
            "seconds": time.monotonic() - started,
        }
        if not experts.groups:
            return {"experts": told}
        self._folder.save_model(
            "experts",
            experts.arrays,
            {**self._describe(self._config.federation.rounds), "groups": list(experts.groups)},
        )
        distance, roles = self._config.data.distance, self._roles.by_group
        facts = summarize(experts.scores, roles, distance)
        if experts.population:
            facts["population_cells"] = summarize(experts.population, roles, distance)["cells"]
        facts |= {"trunk_cells": last["cells"], "groups_unscored": experts.unscored}
        if self._simulated:
            study = self._study
            weights = {
                name: torch.from_numpy(array).to(study.table_RD.device)
                for name, array in experts.arrays.items()
            }
            predict = expert_predictors(
                study.new_model(), weights, experts.groups, study.roles.groups, study.table_RD
            )
            facts["plurality"] = score_plurality(
                study.tasks, study.roles, predict, self._config, by_name=True
            )
            facts["trunk_plurality"] = last["plurality"]
        return {**facts, "experts": {**told, "seconds": time.monotonic() - started}}

    def _plurality(self, arrays: Arrays, brief: bool) -> dict[str, Any]:
        """Plurality of the global model, in a simulation: only there one place has all answers."""
        if not self._simulated:
            return {}
        study = self._study
        model = study.new_model()
        model.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
        everyone = dict.fromkeys(study.roles.groups, model_predictor(model, study.table_RD))
        plurality = score_plurality(study.tasks, study.roles, everyone, self._config, brief)
        return {"plurality": plurality}

    @property
    def _simulated(self) -> bool:
        nodes = self._attendance.nodes.values()
        return all(node.partitions is not None for node in nodes) and not is_deployment(
            self._config
        )

    @cached_property
    def _study(self) -> Study:
        """All groups of a simulation, whose roles never change, laid out once."""
        if self._config.threads is not None:  # bits are those of one process
            torch.set_num_threads(self._config.threads)
        return Study((), self._config, self._load_survey(), self._roles)

    def _load_survey(self) -> Survey:
        """Read the simulation's survey again; it must be the one that the run began with."""
        survey = load_survey(self._config.data)
        mine = {
            group: own for group, own in survey.fingerprints.items() if group in self._roles.groups
        }
        check_survey(self._content, mine, f"{self._folder.path}")
        return survey

    def _presence(self) -> dict[str, Any]:
        """In a deployment, when the round ended, who came and went, and each group's node."""
        if not is_deployment(self._config):
            return {}
        attendance = self._attendance
        return {
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "joined": attendance.joined,
            "left": attendance.left,
            "nodes": {
                group: str(node)
                for node, groups in attendance.groups_of.items()
                for group in groups
            },
        }

    def _other_cells(self, report: RoundReport) -> dict[str, Any]:
        """Cells of personal models, and of those that do not attack, where there are any."""
        cells: dict[str, Any] = {}
        distance = self._config.data.distance
        if report.personal_scores:
            personal = summarize(report.personal_scores, self._roles.by_group, distance)
            cells |= {"personal_cells": personal["cells"], "personal_groups": personal["groups"]}
        attack = self._config.attack
        if isinstance(attack, PoisoningAttack):
            honest = {
                group: score for group, score in report.scores.items() if group not in attack.groups
            }
            cells["honest_cells"] = summarize(honest, self._roles.by_group, distance)["cells"]
        return cells

    def _keep_best(self, metrics: Mapping[str, Any], arrays: Arrays) -> None:
        cell = next((name for name in SELECTION_CELLS if name in metrics["cells"]), None)
        if cell is None:
            return
        alignment = metrics["cells"][cell]["alignment"]
        if self._best is None or alignment > self._best["alignment"]:
            number = metrics["round"]
            self._best = {"round": number, "cell": cell, "alignment": alignment}
            self._folder.save_model("model-best", arrays, self._describe(number))

    def _count(self, amounts: Mapping[str, float]) -> None:
        for name, amount in amounts.items():
            self._totals[name] = self._totals.get(name, 0) + amount

    def _describe(self, round_number: int) -> dict[str, Any]:
        return {"round": round_number, **self._model}

    def _summary(self, last: Mapping[str, Any]) -> dict[str, Any]:
        nodes = self._attendance.nodes.values()
        if is_deployment(self._config):
            facts = {"participation": self._folder.participation()}
        elif self._simulated:
            self._load_survey()  # a file that was swapped since it was laid out is told
            facts = _survey_facts(self._study)
        else:
            facts = {}
        return {
            **last,
            "best": self._best,
            "rounds": self._config.federation.rounds,
            "seed": self._config.seed,
            "distance": self._config.data.distance,
            "train_groups": list(self._roles.train),
            "held_out_groups": list(self._roles.held_out),
            "groups_absent": list(self._roles.absent),
            "groups_dropped": {},
            "populations": tell_parentheses(self._roles.groups, self._config.data),
            "nodes": len(nodes),
            "devices": {
                "clients": describe(node.device for node in nodes),
                "server": "cpu",
            },
            "threads": sorted({node.threads for node in nodes}),
            "privacy": _privacy(self._config, self._strategy.aggregator),
            "bytes_down": self._totals["bytes_down"],
            "bytes_up": self._totals["bytes_up"],
            "seconds": {
                "train": self._totals["train"],
                "evaluate": self._totals["evaluate"],
                "this_process": time.monotonic() - self._started,
            },
            "versions": versions(),
            "content": self._content,
            **facts,
        }


def _privacy(config: Config, aggregator: Aggregator) -> dict[str, Any] | None:
    """Whom the run protected, and how well."""
    privacy = config.privacy
    if isinstance(privacy, CentralPrivacy):
        epsilon = aggregator.report()["epsilon"]
        return {"protects": "groups", "epsilon": epsilon, "delta": privacy.delta}
    if isinstance(privacy, RespondentPrivacy):
        epsilon, delta = privacy.epsilon, privacy.delta
        return {"protects": "respondents", "epsilon": epsilon, "delta": delta}
    return None


def _survey_facts(study: Study) -> dict[str, Any]:
    """What only a simulation can know, because it holds the whole survey."""
    # Nodes host the groups that take part: those with too few questions are known only here.
    whole = survey_roles(study.survey, study.config)
    return {
        **study.facts,
        "groups_absent": list(whole.absent),
        "groups_dropped": dict(whole.dropped),
        "baselines": study.baselines,
    }
