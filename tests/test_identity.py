"""Who and what is one, however it is written: groups, questions, populations."""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_content import RUN, make_rows, rewrite_checkpoint, stopped

from plurallm.config.compose import load_config
from plurallm.config.error import ConfigError
from plurallm.config.schema import Config
from plurallm.data.formats.tabular import SurveyError
from plurallm.data.identity import label, normal_form
from plurallm.data.inspection import print_inspection
from plurallm.data.reading import read_survey
from plurallm.data.roles import parentheses_joins, population, survey_roles, which_unseen
from plurallm.data.survey import Question
from plurallm.data.tasks import group_tasks, load_survey, near_copies, survey_table
from plurallm.evaluate.scores import GroupScore, predict_draws, score_group, summarize
from plurallm.federate import registration
from plurallm.federate.in_process import run_in_process
from plurallm.federate.node.permission import own_config, own_survey
from plurallm.federate.node.settings import node_settings
from plurallm.federate.node_roles import extend_roles
from plurallm.results.report.tables import notes

Write = Callable[..., Path]

WAYS: dict[str, Callable[[str], str]] = {
    "nfd": lambda text: unicodedata.normalize("NFD", text),
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    "upper": str.upper,
    "lower": str.lower,
    "zero width": lambda text: text[:1] + "\u200b" + text[1:] + "\ufeff",
    "no break": lambda text: text.replace(" ", "\u00a0"),
    "two spaces": lambda text: text.replace(" ", "  "),
    "quotes": lambda text: text.replace("'", "\u2019").replace('"', "\u201c"),
    "dashes": lambda text: text.replace("-", "\u2013"),
    "full width": lambda text: text.replace("?", "\uff1f"),
    "all full width": lambda text: "".join(
        chr(ord(char) + 0xFEE0) if "!" <= char <= "~" and char not in "`" else char for char in text
    ),
    "soft hyphen": lambda text: text[:1] + "\u00ad" + text[1:],
    "variation": lambda text: text + "\ufe0f",
    "joiner": lambda text: text[:1] + "\u034f\u200d" + text[1:],
    "apostrophe": lambda text: text.replace("'", "\u02bc"),
    "prime": lambda text: text.replace("'", "\u2032").replace('"', "\u2033"),
    "minus": lambda text: text.replace("-", "\u2212"),
    "no-break hyphen": lambda text: text.replace("-", "\u2011"),
    "ideographic": lambda text: text.replace(" ", "\u3000"),
    "narrow": lambda text: text.replace(" ", "\u202f"),
}


def rewrite(text: str, ways: list[str]) -> str:
    for way in ways:
        text = WAYS[way](text)
    return text


# Of one form


@given(
    text=st.text("aZé'\"- ?ßñ10", min_size=1).filter(str.strip),
    ways=st.lists(st.sampled_from(sorted(WAYS))),
)
def test_ways_of_writing_have_one_form(text: str, ways: list[str]) -> None:
    assert normal_form(rewrite(text, ways)) == normal_form(text)
    assert normal_form(normal_form(text)) == normal_form(text)


@given(text=st.text())
def test_the_form_of_a_form_is_itself(text: str) -> None:
    assert normal_form(normal_form(text)) == normal_form(text)


@pytest.mark.parametrize(
    "others", [("North", "Nord"), ("a b", "ab"), ("10.5", "105"), ("no", "no.")]
)
def test_what_says_something_else_has_another_form(others: tuple[str, str]) -> None:
    assert normal_form(others[0]) != normal_form(others[1])


def test_a_number_is_one_name_in_every_file() -> None:
    assert {label(cell) for cell in (7, 7.0, "7", "7.0", " 7 ", np.float64(7))} == {"7"}
    assert label("7.5") == "7.5"
    assert label("1.10") == "1.10"
    assert label(float("nan")) == ""
    assert {label(cell) for cell in (0, 0.0, -0.0, "0", "0.0", "-0.0", "0.00")} == {"0"}
    assert {label(cell) for cell in (1e20, 10**20)} == {"1" + "0" * 20}
    # A name is one line, as a soft line break of a spreadsheet is not.
    assert label("Great\nBritain") == label("Great \r\n Britain") == "Great Britain"


# Groups


def spelled(
    rows: list[dict[str, Any]], spelling: Callable[[int, str], str]
) -> list[dict[str, Any]]:
    return [row | {"group": spelling(n, row["group"])} for n, row in enumerate(rows)]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ways=st.lists(st.sampled_from(sorted(WAYS)), min_size=1), seed=st.integers(0, 99))
def test_a_group_written_in_two_ways_is_one(
    ways: list[str], seed: int, write_survey: Write
) -> None:
    name = "Côte d'Ivoire - Nord"
    other = rewrite(name, ways)
    assume(other != name)
    rows = spelled(make_rows(), lambda _, group: name if group == "North" else group)
    whole = read_survey(write_survey(rows, "one.csv"), "custom")
    draws = np.random.default_rng(seed).random(len(rows))
    draws[0], draws[4] = 0, 1
    mixed = spelled(rows, lambda n, own: other if own == name and draws[n] < 0.5 else own)
    survey = read_survey(write_survey(mixed, "two.csv"), "custom")
    (shown,) = survey.joined
    assert survey.joined[shown] == tuple(sorted((name, other)))
    assert survey.fingerprints[shown] == whole.fingerprints[name]
    # Both have answered one question: which answer counts nobody can tell.
    twice = [*mixed, mixed[0] | {"group": name if mixed[0]["group"] == other else other}]
    with pytest.raises(SurveyError) as refusal:
        read_survey(write_survey(twice, "three.csv"), "custom")
    assert repr(name) in str(refusal.value)
    assert repr(other) in str(refusal.value)


def test_no_twin_of_a_held_out_group_trains(write_survey: Write) -> None:
    decomposed = unicodedata.normalize("NFD", "Québec")
    rows = spelled(make_rows(), lambda _, group: decomposed if group == "West" else group)
    path = write_survey(rows)
    own = [*RUN[:-3], f"data.path={path}", "data=custom", "data.held_out_groups=['QUÉBEC']"]
    config = load_config([*own, "data.groups=all", "data.held_out_fraction=0"], None)
    roles = survey_roles(load_survey(config.data), config)
    assert roles.held_out == (decomposed,)
    # In a deployment its twin can come on another node.
    later = extend_roles(roles, {"Québec": 99}, set(), config)
    assert later.held_out == (decomposed, "Québec")


def test_one_group_in_two_ways_has_no_two_roles(write_survey: Write) -> None:
    rows = spelled(make_rows(), lambda _, group: "Québec" if group == "West" else group)
    path = write_survey(rows)
    decomposed = unicodedata.normalize("NFD", "Québec")
    for lists in (
        ["data.train_groups=['Québec',North]", f"data.held_out_groups=['{decomposed}']"],
        [f"data.train_groups=['Québec','{decomposed.upper()}',North]"],
    ):
        own = [text for text in RUN if "_groups=" not in text]
        config = load_config([*own, "data=custom", f"data.path={path}", *lists], None)
        with pytest.raises(ConfigError, match=r"'Québec' (is in data\.train_groups and|twice)"):
            survey_roles(load_survey(config.data), config)


def test_a_node_and_its_key_may_write_a_group_in_another_way(
    write_survey: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = spelled(make_rows(), lambda _, group: "Québec" if group == "West" else group)
    decomposed = unicodedata.normalize("NFD", "QUÉBEC")
    node = {"survey": str(write_survey(rows)), "groups": decomposed}
    settings = node_settings(node)
    assert settings is not None
    config = own_config(load_config(["data=nodes"], None), settings)
    assert list(own_survey(config, settings).answers) == [decomposed]
    monkeypatch.setenv(registration.FOLDER, str(tmp_path))
    registration.bind(tmp_path, "7", ["Québec"])
    assert registration.unbound(7, [decomposed]) is None
    assert "'Nord'" in str(registration.unbound(7, [decomposed, "Nord"]))
    with pytest.raises(ConfigError, match="stand in one line"):
        node_settings(node | {"groups": "Great\nBritain"})


# Questions


def test_ids_of_two_files_are_one(write_survey: Write, tmp_path: Path) -> None:
    rows = [row | {"question_id": row["question_id"][1:]} for row in make_rows()]
    north = write_survey([row for row in rows if row["group"] == "North"], "North.csv")
    found = [read_survey(north, "custom")]
    east = [row for row in rows if row["group"] == "East"]
    for kind in (int, float):
        columns = {
            "question_id": [kind(row["question_id"]) for row in east],
            "question": [row["question"] for row in east],
            "options": [json.dumps(row["options"]) for row in east],
            "group": [row["group"] for row in east],
            "counts": [json.dumps(row["counts"]) for row in east],
        }
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "East.parquet")
        found.append(read_survey(tmp_path / "East.parquet", "custom"))
    assert found[0].questions == found[1].questions == found[2].questions
    for split_by in ("text", "id"):
        config = load_config([f"data.split_by={split_by}"], None)
        unseen = [which_unseen(survey, config) for survey in found]
        assert unseen[0] == unseen[1] == unseen[2]
        assert any(unseen[0])


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ways=st.lists(st.sampled_from(sorted(WAYS)), max_size=3), seed=st.integers(0, 99))
def test_waves_of_one_question_are_seen_or_unseen_together(
    ways: list[str], seed: int, write_survey: Write
) -> None:
    first = make_rows()
    second = [
        row
        | {
            "question_id": f"{row['question_id']}-wave2",
            "question": rewrite(row["question"], ways),
            "options": [rewrite(option, ways) for option in row["options"]][::-1],
        }
        for row in first
    ]
    survey = read_survey(write_survey([*first, *second]), "custom")
    assert len(survey.questions) == 80  # rows, ids and texts stay
    assert {question.text for question in survey.questions} >= {row["question"] for row in second}
    config = load_config([f"seed={seed}", "data.unseen_questions=0.3"], None)
    unseen = dict(zip((q.id for q in survey.questions), which_unseen(survey, config), strict=True))
    assert any(unseen.values())
    for name in (f"q{number}" for number in range(40)):
        assert unseen[name] == unseen[f"{name}-wave2"]


def test_options_of_one_question_are_never_joined() -> None:
    assert Question("q", "How many?", ("10²", "102")).options == ("10²", "102")


# Populations


def of_names(write_survey: Write, names: tuple[str, ...]) -> list[str]:
    four = dict(zip(("North", "East", "South", "West"), names, strict=True))
    path = write_survey(spelled(make_rows(), lambda _, group: four[group]))
    return [*RUN[:-3], "data=custom", f"data.path={path}", "data.held_out_fraction=0.5"]


AGES = ("Age (18-29)", "Age (30-49)", "Age (50-64)", "Age (65+)")
COUNTRIES = ("Congo (Brazzaville)", "Congo (Kinshasa)", "Togo", "Mali")


def test_names_in_parentheses_are_joined_where_it_is_said(write_survey: Write) -> None:
    config = load_config(of_names(write_survey, AGES), None)
    survey = load_survey(config.data)
    assert len(survey_roles(survey, config).train) == 2
    joined = replace(config, data=replace(config.data, join_parentheses=True))
    with pytest.raises(ConfigError, match="no training group is left"):
        survey_roles(survey, joined)
    assert population(AGES[0], config.data) == AGES[0]
    assert population(AGES[0], joined.data) == "Age"
    assert parentheses_joins(COUNTRIES) == {"Congo": list(COUNTRIES[:2])}
    assert load_config(["data=globalopinionqa"], None).data.join_parentheses
    for source in (["data=synthetic"], ["data=nodes"], ["data=custom", "data.path=/a.csv"]):
        assert not load_config(source, None).data.join_parentheses


def printed(config: Config) -> str:
    console = Console(width=200, record=True, quiet=False)
    print_inspection(config, console)
    return console.export_text()


def test_joins_are_named_with_their_key(
    write_survey: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    own = [*of_names(write_survey, COUNTRIES), "embedding.width=32", "federation.rounds=1"]
    named = "Congo (Brazzaville), Congo (Kinshasa)"
    for number, key in enumerate(("false", "true")):
        overrides = [*own, f"data.join_parentheses={key}"]
        told = printed(load_config(overrides, None))
        assert named in told
        assert "data.join_parentheses=true" in told
        folder = tmp_path / f"run{number}"
        run_in_process([*overrides, f"output_dir={folder}"])
        summary = json.loads((folder / "summary.json").read_text())
        for lines in (summary["populations"], notes(summary), caplog.messages):
            assert any(named in line and "data.join_parentheses=true" in line for line in lines)
        caplog.clear()


def test_a_misspelt_population_is_refused(write_survey: Write) -> None:
    own = [*of_names(write_survey, COUNTRIES), "data.populations=[[Togo,Malli]]"]
    config = load_config(own, None)
    with pytest.raises(ConfigError, match=r"data\.populations lists 'Malli'.*near it: Mali"):
        survey_roles(load_survey(config.data), config)
    assert "data.populations lists 'Malli'" in printed(config)
    right = replace(config, data=replace(config.data, populations=[["TOGO", "Mali"]]))
    roles = survey_roles(load_survey(right.data), right).by_group
    assert roles["Togo"] == roles["Mali"]


# Near copies


def test_near_copies_are_counted_and_scored_apart(write_survey: Write, tmp_path: Path) -> None:
    path = write_survey(make_rows())
    own = [*RUN, f"data.path={path}", "data.unseen_questions=0.4", "federation.rounds=1"]
    config = load_config([*own, "evaluation.near_copy=0.97"], None)
    survey = load_survey(config.data)
    table_RD = survey_table(survey, config)
    near_N = near_copies(survey, table_RD, config)
    # The slow form, question by question.
    row = 0
    means = []
    seen_rows: dict[tuple[str, str], int] = {}
    for question in survey.questions:
        for option in question.options:
            if (question.text, option) not in seen_rows:
                seen_rows[question.text, option] = row
                row += 1
        picked = [table_RD[seen_rows[question.text, option]] for option in question.options]
        mean_D = torch.stack(picked).double().mean(0)
        means.append(mean_D / mean_D.norm())
    unseen = which_unseen(survey, config)
    slow = [
        unseen[n] and max(float(means[n] @ means[m]) for m in range(40) if not unseen[m]) >= 0.97
        for n in range(40)
    ]
    assert near_N.tolist() == slow
    assert 0 < sum(slow) < sum(unseen)

    tasks = group_tasks(survey, list(survey.answers), config, table_RD)
    task = tasks["North"]

    def even(_: Any, target: Any) -> torch.Tensor:
        return target.mask_QO.double() / target.mask_QO.sum(-1, keepdim=True)

    score = score_group(task, even, config)
    (draw,) = predict_draws(task, even, config)
    asked = draw.target.question_Q.tolist()
    kept = [
        draw.distance_Q[place].item()
        for place in range(draw.seen_questions, len(asked))
        if not slow[asked[place]]
    ]
    assert score.novel_questions == len(kept)
    assert score.novel_distance == pytest.approx([np.mean(kept)])

    run_in_process([*own, "evaluation.near_copy=0.97", f"output_dir={tmp_path / 'run'}"])
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["near_copies"] == {"unseen": sum(unseen), "near": sum(slow), "cosine": 0.97}
    for cell in ("train_groups.unseen_questions", "held_out_groups.unseen_questions"):
        novel, every = summary["novel_cells"][cell], summary["cells"][cell]
        assert novel["questions"] < every["questions"]
        assert novel["alignment"] != every["alignment"]
    told = f"{sum(slow)} of {sum(unseen)} unseen questions have a near copy"
    assert any(told in line for line in notes(summary))
    assert told in printed(config)


def test_without_near_copies_there_is_no_second_score() -> None:
    alone = GroupScore((0.25,), (0.5,), 3, 2, (0.5,), 2)
    copied = GroupScore((0.25,), (0.5,), 3, 2, (0.75,), 1)
    roles = {"a": "train", "b": "train"}
    assert "novel_cells" not in summarize({"a": alone, "b": alone}, roles, "wasserstein")
    cells = summarize({"a": alone, "b": copied}, roles, "wasserstein")["novel_cells"]
    assert cells["train_groups.unseen_questions"]["alignment"] == pytest.approx(0.375)
    assert cells["train_groups.unseen_questions"]["questions"] == 3


def test_a_run_of_0_1_0_keeps_its_rules(write_survey: Write, tmp_path: Path) -> None:
    path = write_survey(make_rows())
    rules = ("data.split_by=id", "data.join_parentheses=true")
    folder = stopped(tmp_path / "run", f"data.path={path}", *rules)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for key in ("split_by", "join_parentheses"):
        del config["data"][key]
    del config["evaluation"]["near_copy"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    overrides = yaml.safe_load((folder / "overrides.yaml").read_text())
    kept = [text for text in overrides if "split_by" not in text and "parentheses" not in text]
    (folder / "overrides.yaml").write_text(yaml.safe_dump(kept))
    rewrite_checkpoint(folder, None)
    with pytest.raises(ConfigError, match=r"data\.split_by: 'id' -> 'text'"):
        run_in_process([f"resume={folder}", "data.split_by=text"])
    run_in_process([f"resume={folder}"])
    now = yaml.safe_load((folder / "config.yaml").read_text())
    assert (now["data"]["split_by"], now["data"]["join_parentheses"]) == ("id", True)
