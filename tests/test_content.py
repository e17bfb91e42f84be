"""A result keeps to the survey and the embedder that it began with: by content, not by path."""

import json
import logging
import random
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_embedding_fingerprint import date_back, make_model

from plurallm.config.compose import load_tool_config
from plurallm.config.error import ConfigError
from plurallm.config.services import ExportConfig
from plurallm.data.embedding.models import release_models
from plurallm.data.reading import read_survey
from plurallm.federate.client_app import app as client_app
from plurallm.federate.in_process import InProcessGrid, run_in_process
from plurallm.federate.node import memory
from plurallm.federate.node.memory import check_unchanged
from plurallm.federate.node.permission import RefusalError
from plurallm.federate.round_report import FederationError
from plurallm.federate.server_app import app as server_app
from plurallm.record.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from plurallm.results.compare.run_comparison import run_comparison
from plurallm.results.compare.summary import comparison_results
from plurallm.results.run import Run
from plurallm.reward import PreferenceRewardModel
from plurallm.reward.export import export_bundle

GROUPS = ("North", "East", "South", "West")
MODEL = [override for override in tiny.TINY if not override.startswith("data.")]
RUN = [
    *MODEL,
    *("training.steps_per_round=2", "evaluation.every=1", "federation.rounds=4", "threads=1"),
    *("federation.checkpoint_every=1", "data=custom", "data.held_out_groups=[West]"),
    *("data.train_groups=[North,East,South]", "embedding.width=32"),
]
Rows = list[dict[str, Any]]
Write = Callable[..., Path]


def make_rows() -> Rows:
    draws = np.random.default_rng(0)
    return [
        {
            "question_id": f"q{number}",
            "question": f"Should the town spend on matter {number}?",
            "options": ["Yes", "No", "Perhaps"][: 2 + number % 2],
            "group": group,
            "counts": draws.integers(1, 90, size=2 + number % 2).tolist(),
        }
        for number in range(40)
        for group in GROUPS
    ]


def reversed_counts(rows: Rows, group: str | None = None) -> Rows:
    """Another export of the survey, with the counts of a group, or of all, the other way round."""
    return [
        row | {"counts": row["counts"][::-1]} if group in (None, row["group"]) else row
        for row in rows
    ]


def shuffled(rows: Rows, seed: int = 0) -> Rows:
    return random.Random(seed).sample(rows, len(rows))


class Dies(ClientApp):
    """The real client, until a round."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def __call__(self, message: Message, context: Context) -> Message:
        asked = message.content.config_records.get("config")
        if asked is not None and asked["round"] == self._number:
            raise RuntimeError("the power went out")
        return client_app(message, context)


def stopped(folder: Path, *overrides: str) -> Path:
    """A run that stopped after round 2."""
    with pytest.raises(FederationError, match="the power went out"):
        run_in_process([*RUN, *overrides, f"output_dir={folder}"], client_app=Dies(3))
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# The fingerprint


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), row=st.integers(0, 159), data=st.data())
def test_the_order_of_rows_is_no_content_and_every_cell_is(
    seed: int, row: int, data: st.DataObject, write_survey: Write
) -> None:
    rows = make_rows()
    survey = read_survey(write_survey(rows, "a.csv"), "custom")
    again = read_survey(write_survey(shuffled(rows, seed), "b.csv.gz"), "custom")
    assert again.questions == survey.questions
    assert list(again.answers) == list(survey.answers)
    assert again.fingerprints == survey.fingerprints
    assert again.fingerprint == survey.fingerprint

    group, question = rows[row]["group"], rows[row]["question_id"]
    column = data.draw(st.sampled_from(["counts", "question", "options", "question_id", "group"]))
    others = {own["group"] for own in rows if own["group"] != group}
    if column == "counts":
        first, second, *rest = rows[row]["counts"]
        moved = data.draw(st.booleans()) and first != second  # the sum stays, or it changes
        counts = [second, first, *rest] if moved else [first + 1, second, *rest]
        rows[row] = rows[row] | {"counts": counts}
    elif column == "group":
        rows[row] = rows[row] | {"group": "Nobody"}
    else:  # a question is the same for every group
        others = set()
        new = {"question": "Another?", "question_id": "z", "options": rows[row]["options"][::-1]}
        rows = [
            own | {column: new[column]} if own["question_id"] == question else own for own in rows
        ]
    changed = read_survey(write_survey(rows, "c.csv"), "custom").fingerprints
    assert changed.get(group) != survey.fingerprints[group]
    assert all(changed[other] == survey.fingerprints[other] for other in others)


# A run that goes on


def test_a_run_does_not_go_on_with_other_answers(write_survey: Write, tmp_path: Path) -> None:
    rows = make_rows()
    path = write_survey(rows)
    folder = stopped(tmp_path / "run", f"data.path={path}")
    before = (folder / "metrics.jsonl").read_bytes()
    write_survey(reversed_counts(rows, "East"))
    with pytest.raises(ConfigError, match=r"other answers or questions now: \"East\"\)\. Restore"):
        run_in_process([f"resume={folder}"])
    assert (folder / "metrics.jsonl").read_bytes() == before
    write_survey([row for row in rows if row["group"] != "South"] + rows[:0])
    with pytest.raises(ConfigError, match="South"):
        run_in_process([f"resume={folder}"])


def test_the_same_content_in_another_order_at_another_place_goes_on(
    write_survey: Write, tmp_path: Path
) -> None:
    rows = make_rows()
    path = write_survey(rows)
    whole = tmp_path / "whole"
    run_in_process([*RUN, f"data.path={path}", f"output_dir={whole}"])
    folder = stopped(tmp_path / "run", f"data.path={path}")
    path.unlink()
    elsewhere = write_survey(shuffled(rows), "moved.csv.gz")
    run_in_process([f"resume={folder}", f"data.path={elsewhere}"])
    assert lines(folder) == lines(whole)
    weights = "model/model.safetensors"
    assert (folder / weights).read_bytes() == (whole / weights).read_bytes()
    # What the folder says now leads to where the file is.
    bundle = export(folder, tmp_path / "bundle", "release_context=[North]")
    assert bundle.groups == ("North",)


def test_a_file_that_changes_while_a_run_goes_on_stops_it(
    write_survey: Write, tmp_path: Path
) -> None:
    rows = make_rows()
    path = write_survey(rows)

    class Changes(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            asked = message.content.config_records.get("config")
            if asked is not None and asked["round"] == 2:
                write_survey(reversed_counts(rows))
            return client_app(message, context)

    with pytest.raises(FederationError, match="survey has changed since the run began"):
        run_in_process(
            [*RUN, f"data.path={path}", f"output_dir={tmp_path / 'run'}"], client_app=Changes()
        )
    assert [line["round"] for line in lines(tmp_path / "run")] == [1]


def test_changed_ordinal_values_are_a_changed_survey(write_survey: Write, tmp_path: Path) -> None:
    rows = make_rows()
    known = [
        {
            "qkey": row["question_id"],
            "question": row["question"],
            "references": repr(row["options"]),
            "group": row["group"],
            "attribute": "REGION",
            "D_H": repr((np.array(row["counts"]) / sum(row["counts"])).tolist()),
        }
        for row in rows
    ]
    path = write_survey(known, "distributions.csv")

    def write_scale(values: Sequence[int]) -> Path:
        scales = {
            row["question_id"]: {
                "key": row["question_id"],
                "references": repr(row["options"]),
                "option_ordinal": list(values)[: len(row["options"])],
            }
            for row in rows
        }
        return write_survey(list(scales.values()), "info.csv")

    own = [f"data.path={path}", f"data.ordinals={write_scale([1, 2, 3])}", "data.groups=null"]
    wasserstein = [o if o != "data=custom" else "data=opinionqa" for o in RUN]
    with pytest.raises(FederationError):
        run_in_process([*wasserstein, *own, f"output_dir={tmp_path / 'run'}"], client_app=Dies(3))
    write_scale([1, 9, 3])
    with pytest.raises(ConfigError, match="survey has changed"):
        run_in_process([f"resume={tmp_path / 'run'}"])


def test_a_run_does_not_go_on_with_another_embedder(write_survey: Write, tmp_path: Path) -> None:
    path = write_survey(make_rows())
    model = make_model(tmp_path / "model", 0)
    own = ("embedding=sentence_transformer", f"embedding.model={model}", f"data.path={path}")
    run = [override for override in RUN if not override.startswith("embedding.")]
    folder = tmp_path / "run"
    with pytest.raises(FederationError):
        run_in_process([*run, *own, f"output_dir={folder}"], client_app=Dies(3))
    moved = model.rename(tmp_path / "moved")
    other = make_model(tmp_path / "model", 1)
    with pytest.raises(ConfigError, match="embedder has changed"):
        run_in_process([f"resume={folder}"])
    run_in_process([f"resume={folder}", f"embedding.model={moved}"])
    assert len(lines(folder)) == 4
    # A bundle predicts with the embedder of the training, wherever that lies, or not at all.
    export(folder, tmp_path / "bundle")
    context = [{"question": "Should the town spend?", "options": ["Yes", "No"], "shares": [1, 0]}]
    bundle = PreferenceRewardModel.from_pretrained(tmp_path / "bundle", contexts={"A": context})
    share = bundle.predict("Roads?", ["Yes", "No"], "A").shares
    release_models()
    shutil.rmtree(moved)
    shutil.copytree(other, moved)
    date_back(moved)
    bundle = PreferenceRewardModel.from_pretrained(tmp_path / "bundle", contexts={"A": context})
    with pytest.raises(ValueError, match="embedding=sentence_transformer has changed since"):
        bundle.predict("Roads?", ["Yes", "No"], "A")
    release_models()
    shutil.rmtree(moved)
    right = make_model(tmp_path / "right", 0)
    bundle = PreferenceRewardModel.from_pretrained(
        tmp_path / "bundle",
        contexts={"A": context},
        embedding={**json.loads((tmp_path / "bundle/config.json").read_text())["embedding"]}
        | {"model": str(right)},
    )
    assert bundle.predict("Roads?", ["Yes", "No"], "A").shares == share
    release_models()


# Of another version


def rewrite_checkpoint(folder: Path, content: dict[str, Any] | None) -> None:
    known = load_checkpoint(folder / "checkpoint")
    state = {key: value for key, value in known.state.items() if key != "content"}
    if content is not None:
        state["content"] = known.state["content"] | content
    kept = Checkpoint(known.round_number, known.arrays, state, known.strategy_arrays)
    save_checkpoint(folder / "checkpoint", kept)


@pytest.mark.parametrize(
    ("content", "warning"),
    [(None, "did not record"), ({"version": "0.0.9"}, "is of plurallm 0.0.9")],
)
def test_a_run_of_another_version_goes_on_with_a_warning(
    content: dict[str, Any] | None,
    warning: str,
    write_survey: Write,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = stopped(tmp_path / "run", f"data.path={write_survey(make_rows())}")
    rewrite_checkpoint(folder, content)
    run_in_process([f"resume={folder}"])
    assert len(lines(folder)) == 4
    assert any(warning in line for line in caplog.messages)


def test_a_later_format_is_refused(write_survey: Write, tmp_path: Path) -> None:
    folder = stopped(tmp_path / "run", f"data.path={write_survey(make_rows())}")
    rewrite_checkpoint(folder, {"format": 99})
    with pytest.raises(ConfigError, match="has format 99"):
        run_in_process([f"resume={folder}"])


# Comparisons, bundles


def export(run: Path, folder: Path, *overrides: str) -> PreferenceRewardModel:
    settings = [f"run={run}", f"folder={folder}", *overrides]
    return export_bundle(load_tool_config("export", settings, ExportConfig))


def test_a_comparison_is_over_one_survey(write_survey: Write, tmp_path: Path) -> None:
    rows, folder = make_rows(), tmp_path / "compare"
    path = write_survey(rows)
    few = [*RUN, "federation.rounds=1", f"data.path={path}", "compare.jobs=1", "compare.seeds=[1]"]
    run_comparison([*few, "compare.arms=[federated,mean]"], folder)
    results = comparison_results(folder)
    write_survey(shuffled(rows))
    assert comparison_results(folder) == results
    write_survey(reversed_counts(rows))
    with pytest.raises(ConfigError, match="the survey has changed"):
        comparison_results(folder)
    with pytest.raises(ConfigError, match="the survey has changed"):
        run_comparison([*few, "compare.arms=[federated,mean,mixture]"], folder)
    moved = write_survey(shuffled(rows, 1), "moved.csv")
    few[few.index(f"data.path={path}")] = f"data.path={moved}"
    run_comparison([*few, "compare.arms=[federated,mean,mixture]"], folder)
    assert set(comparison_results(folder)["arms"]) == {"federated", "mean", "mixture"}


def test_a_comparison_of_0_1_0_is_reported_with_a_warning_and_does_not_go_on(
    write_survey: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows, folder = shuffled(make_rows()), tmp_path / "compare"
    path = write_survey(rows)
    rules = ["data.split_by=id", "data.join_parentheses=true", "data.non_answers=keep"]
    own = [*RUN, "federation.rounds=1", f"data.path={path}", "compare.jobs=1", "compare.seeds=[1]"]
    own += ["compare.arms=[federated,mean]", *rules]
    run_comparison(own, folder)
    now = comparison_results(folder)
    # 0.1.0 named questions by their place in the file, and knew none of these keys.
    ids = list(dict.fromkeys(row["question_id"] for row in rows))
    in_file = np.array([ids.index(name) for name in sorted(ids)])
    for file in folder.rglob("pairs.npz"):
        arrays = dict(np.load(file))
        np.savez_compressed(file, **arrays | {"question_N": in_file[arrays["question_N"]]})
    (folder / "content.json").unlink()
    config = yaml.safe_load((folder / "compare.yaml").read_text())
    for rule in rules:
        del config["data"][rule.partition("=")[0].removeprefix("data.")]
    (folder / "compare.yaml").write_text(yaml.safe_dump(config))
    command = shlex.split((folder / "command.txt").read_text())
    (folder / "command.txt").write_text(shlex.join(word for word in command if word not in rules))
    before = comparison_results(folder)
    assert any("did not record the content" in line for line in caplog.messages)
    for part in ("arms", "examples", "unanswered", "unanswered_counts", "verdicts"):
        assert before[part] == now[part]
    with pytest.raises(ConfigError, match=r"comparison of plurallm 0\.1\.0.*compare anew"):
        run_comparison([*own, "compare.arms=[federated,mean,mixture]"], folder)


def test_the_study_of_a_run_is_the_one_that_it_was_trained_on(
    write_survey: Write, tmp_path: Path
) -> None:
    rows = make_rows()
    own = [*RUN, "federation.rounds=1", f"data.path={write_survey(rows)}"]
    run_in_process([*own, f"output_dir={tmp_path / 'run'}"])
    context = Run(tmp_path / "run").study.context("West")
    write_survey(shuffled(rows))
    assert Run(tmp_path / "run").study.context("West") == context
    write_survey(reversed_counts(rows, "West"))
    with pytest.raises(ConfigError, match=r"other answers or questions now: \"West\""):
        assert Run(tmp_path / "run").study


def test_answers_that_were_not_evaluated_are_not_released(
    write_survey: Write, tmp_path: Path
) -> None:
    rows, run = make_rows(), tmp_path / "run"
    few = [*RUN, "federation.rounds=1", f"data.path={write_survey(rows)}"]
    run_in_process([*few, f"output_dir={run}"])
    first = export(run, tmp_path / "bundle", "release_context=[West]")
    write_survey(shuffled(rows))
    again = export(run, tmp_path / "again", "release_context=[West]")
    assert again.contexts == first.contexts
    write_survey(reversed_counts(rows))
    with pytest.raises(ConfigError, match="the survey has changed"):
        export(run, tmp_path / "other", "release_context=[West]")
    assert not (tmp_path / "other").exists()
    export(run, tmp_path / "none")  # releases nothing, reads no survey


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"content": None, "probe": None}, "did not record"),
        ({"content": {"format": 1, "version": "0.0.9"}}, "is of plurallm 0.0.9"),
    ],
)
def test_a_bundle_of_another_version_loads_with_a_warning(
    change: dict[str, Any],
    warning: str,
    write_survey: Write,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    few = [*RUN, "federation.rounds=1", f"data.path={write_survey(make_rows())}"]
    run_in_process([*few, f"output_dir={run}"])
    export(run, bundle, "release_context=[West]")
    text = (bundle / "config.json").read_text()
    before = PreferenceRewardModel.from_pretrained(bundle).predict("Q?", ["Yes", "No"], "West")
    assert not caplog.messages
    config = json.loads(text) | change
    kept = {key: value for key, value in config.items() if value is not None}
    (bundle / "config.json").write_text(json.dumps(kept))
    loaded = PreferenceRewardModel.from_pretrained(bundle)
    assert any(warning in line for line in caplog.messages)
    assert loaded.predict("Q?", ["Yes", "No"], "West") == before
    later = json.loads(text)
    later["content"]["format"] = 99
    (bundle / "config.json").write_text(json.dumps(later))
    with pytest.raises(ValueError, match="has format 99"):
        PreferenceRewardModel.from_pretrained(bundle)


# A deployment, whose server knows nothing of the answers


def deploy(folder: Path, nodes: list[dict[str, Any]], app: ClientApp, *server: str) -> None:
    run = [o for o in RUN if o != "data=custom"]
    run_config = {
        "overrides": shlex.join([*run, "data=nodes", "federation.nodes=4"]),
        "server-overrides": shlex.join(server or [f"output_dir={folder}"]),
    }
    context = Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config
    )
    server_app(InProcessGrid(app, nodes, run_config), context)


def test_a_node_keeps_a_run_to_one_survey(write_survey: Write, tmp_path: Path) -> None:
    rows = make_rows()

    def write_own(group: str, rows: Rows) -> Path:
        return write_survey([row for row in rows if row["group"] == group], f"{group}.csv")

    nodes = [
        {
            "survey": str(write_own(group, rows)),
            "groups": group,
            "cache-dir": str(tmp_path / "cache"),
            "state-dir": str(tmp_path / f"state-{group}"),
        }
        for group in GROUPS
    ]
    folder = tmp_path / "run"
    with pytest.raises(FederationError):
        deploy(folder, nodes, Dies(3))
    write_own("East", reversed_counts(rows))
    write_own("North", shuffled(rows))
    deploy(folder, nodes, client_app, f"resume={folder}")
    for line in lines(folder)[2:]:
        assert set(line["groups_refused"]) == {"East"}
        assert "survey of group 'East' has changed" in line["groups_refused"]["East"]
        assert line["groups_trained"] == ["North", "South"]
    # The server, and whoever reads its folder, has no digest of anybody's answers.
    known = read_survey(write_own("North", rows), "custom")
    for file in folder.rglob("*"):
        if file.is_file():
            assert known.fingerprints["North"].encode() not in file.read_bytes()


def test_a_node_forgets_the_oldest_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "RUNS_KEPT", 3)
    for number in range(5):
        check_unchanged(tmp_path, f"{number:016x}", {"North": "a"})
    assert len(list((tmp_path / "surveys").iterdir())) == 3
    with pytest.raises(RefusalError, match="'North' has changed"):
        check_unchanged(tmp_path, f"{4:016x}", {"North": "b"})
    with pytest.raises(ValueError, match="16 hexadecimal digits"):
        check_unchanged(tmp_path, "../../etc", {})


def test_a_node_that_can_remember_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(RefusalError, match="--state-dir"):
        check_unchanged(tmp_path / "state", f"{4:016x}", {"North": "b"})


def test_nodes_with_different_embedders_do_not_train_together(
    write_survey: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    rows = make_rows()
    nodes = [
        {
            "survey": str(write_survey([r for r in rows if r["group"] == group], f"{group}.csv")),
            "groups": group,
            "cache-dir": str(tmp_path / "cache"),
        }
        for group in GROUPS
    ]

    class Other(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            reply = client_app(message, context)
            if message.metadata.message_type == "query.groups" and context.node_id == 4:
                reply.content.config_records["node"]["embedder"] = "another"
            return reply

    with pytest.raises(FederationError, match="different embedders"):
        deploy(tmp_path / "run", nodes, Other())
