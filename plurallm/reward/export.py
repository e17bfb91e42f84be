"""From a run's folder to a reward bundle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from safetensors.torch import load_file

from plurallm import __version__
from plurallm.config.compose import typed_config
from plurallm.config.digest import with_old_rules
from plurallm.config.schema import Config
from plurallm.config.services import ExportConfig
from plurallm.data.content import FORMAT, check_format, check_survey
from plurallm.data.context import Context, context_to_json, draw_context
from plurallm.data.embedding.table import PROBE
from plurallm.data.reading import read_survey
from plurallm.data.tasks import group_tasks, load_survey
from plurallm.reward.model import PreferenceRewardModel

_FOLDERS = {"last": "model", "best": "model-best"}


def export_bundle(export: ExportConfig) -> PreferenceRewardModel:
    """Write a run's model as a self-contained reward bundle.

    Parameters
    ----------
    export : ExportConfig
        Run, folder, which of its models, and the groups whose context is released.

    Returns
    -------
    PreferenceRewardModel
        As written to the folder, with its model card.

    Raises
    ------
    FileNotFoundError
        When the folder of the run holds no such model.
    FileExistsError
        When the bundle's folder is not empty.
    ValueError
        For a group that the survey does not have, or that has too few questions, or a run whose
        embedder cannot embed new texts.
    """
    folder = Path(export.folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose another folder")
    model = run_model(export)
    model.save_pretrained(folder)
    return model


def run_model(export: ExportConfig) -> PreferenceRewardModel:
    """Load a run's model as ``export_bundle`` does, without writing it anywhere."""
    run = Path(export.run)
    weights = run / _FOLDERS[export.weights] / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"{run} is not the folder of a finished run: {weights} is missing")
    description = json.loads(weights.with_name("config.json").read_text(encoding="utf-8"))
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    if description["embedding"]["name"] == "table":
        raise ValueError(
            f"{run} was trained with embedding=table, which has no vectors of new texts: a bundle "
            "needs an embedder"
        )
    experts: list[str] = []
    file = run / "experts" / "config.json"
    if export.weights == "last" and file.is_file():
        experts = json.loads(file.read_text(encoding="utf-8"))["groups"]
    content = description.get("content")
    check_format(content, str(run))
    contexts = {}
    if export.release_context:
        contexts = release_contexts(
            export, typed_config(OmegaConf.create(with_old_rules(config))), content
        )
    model = PreferenceRewardModel(
        model=description["model"],
        embedding=_anywhere(description["embedding"]),
        embedding_width=description["embedding_width"],
        precision=description["precision"],
        contexts={group: context_to_json(context) for group, context in contexts.items()},
        provenance=_provenance(run, export, config, description["round"]),
        experts=experts,
        probe=_probe(content),
        content=_bundle_content(content),
        non_answers=with_old_rules(config)["data"]["non_answers"],
    )
    model.network.load_state_dict(load_file(weights))
    if model.experts is not None:
        model.experts.load_state_dict(load_file(run / "experts" / "model.safetensors"))
    return model.eval()


def _probe(content: dict[str, Any] | None) -> dict[str, Any] | None:
    if content is None or not content["probe"]:
        return None
    return {"text": list(PROBE), "vector": content["probe"]}


def _bundle_content(content: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a bundle tells of what is behind it: of the survey one digest, not one a group."""
    if content is None:
        return None
    survey = json.dumps(sorted(content["survey"].items())).encode()
    return {
        "format": FORMAT,
        "version": __version__,
        "survey": hashlib.sha256(survey).hexdigest()[:32] if content["survey"] else None,
        "embedder": content["embedder"],
    }


def release_contexts(
    export: ExportConfig, config: Config, content: Mapping[str, Any] | None
) -> dict[str, Context]:
    """Take the context of the groups that are named, and of no other.

    Of the run's survey it is the context that evaluation uses: seen questions, drawn by the run's
    seed. A file of its own was given to be released: context is drawn from all of it.

    Parameters
    ----------
    export : ExportConfig
        Names, and where their answers lie.
    config : Config
        The run's configuration.
    content : mapping or None
        What the run recorded of its survey, whose answers must still be the same.

    Returns
    -------
    dict of str to Context
        By group.
    """
    if export.survey is None:
        survey = load_survey(config.data)
        now = {
            group: fingerprint
            for group, fingerprint in survey.fingerprints.items()
            if content is not None and group in content["survey"]
        }
        check_survey(content, now, str(export.run))
    else:
        survey = read_survey(Path(export.survey), export.layout, config.data.non_answers)
    for group in export.release_context:
        if group not in survey.answers:
            raise ValueError(
                f"{survey.source} has no group {group!r}, whose context is to be released"
            )
    tasks = group_tasks(survey, export.release_context, config)
    wanted = export.context_questions or config.evaluation.context_questions
    contexts = {}
    for group, task in tasks.items():
        own = task.seen if export.survey is None else task.seen.join(task.unseen)
        if len(own) < wanted:
            kind = "seen" if export.survey is None else "answered"
            raise ValueError(
                f"group {group!r} has {len(own)} {kind} questions, fewer than the {wanted} "
                "of a context: lower context_questions"
            )
        contexts[group] = draw_context(survey, group, own, wanted, config.seed)
    return contexts


def _anywhere(embedding: dict[str, Any]) -> dict[str, Any]:
    """Leave the device of the training out: the one of the call counts."""
    return embedding | {"device": None} if "device" in embedding else embedding


def _provenance(
    run: Path, export: ExportConfig, config: dict[str, Any], round_number: int
) -> dict[str, Any]:
    """Where the weights come from and how they scored; names of groups, but no answer."""
    facts: dict[str, Any] = {
        "weights": export.weights,
        "round": round_number,
        "seed": config["seed"],
        "license": export.license,
        "data": config["data"]["source"],
        "strategy": config["strategy"]["name"],
        "loss": config["training"]["loss"],
        "distance": config["data"].get("distance", "jensen_shannon"),
    }
    with (run / "metrics.jsonl").open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if line["round"] == round_number and "cells" in line:
                told = ("cells", "groups", "plurality")
                facts |= {key: line[key] for key in told if key in line}
    summary = run / "summary.json"
    if summary.is_file():
        whole = json.loads(summary.read_text(encoding="utf-8"))
        keys = ("train_groups", "held_out_groups", "privacy", "versions")
        facts |= {key: whole[key] for key in keys if key in whole}
        if "experts" in whole and export.weights == "last":
            facts |= {key: whole[key] for key in ("cells", "groups", "plurality") if key in whole}
            facts["experts"] = whole["experts"]["groups"]
        facts["training"] = "federated" if whole["bytes_up"] else "central"
    return facts
