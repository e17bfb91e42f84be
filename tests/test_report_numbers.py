"""What a report says, worked by hand from small results; how its charts are drawn."""

import csv
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from plurallm.config.compose import load_config
from plurallm.config.digest import config_dict
from plurallm.config.error import ConfigError
from plurallm.evaluate.baseline import BASELINES
from plurallm.results.compare.convergence import convergence
from plurallm.results.compare.over_seeds import over_seeds
from plurallm.results.compare.verdicts import verdicts
from plurallm.results.report.charts import Line, Panel, dot_chart, line_chart
from plurallm.results.report.colours import COLOURS, Style, styles
from plurallm.results.report.comparison import (
    convergence_sheets,
    fairness_sheet,
    group_sheet,
    score_sheets,
    seconds_sheet,
)
from plurallm.results.report.csv_export import tidy, write_tables
from plurallm.results.report.figures import curve_charts, group_charts
from plurallm.results.report.images import inline_svg
from plurallm.results.report.names import TRAINED, cell_label, mean_std, number
from plurallm.results.report.page import changed_configuration, readable_command
from plurallm.results.report.report_folder import report_folder
from plurallm.results.report.tables import wide_console
from plurallm.results.report.verdict import (
    baseline_findings,
    best_findings,
    difference_sheet,
    outcome,
    verdict_sheet,
)

SEEN, UNSEEN = "held_out_groups.seen_questions", "held_out_groups.unseen_questions"


def point(rounds: int, steps: int, sent: int, **scores: float) -> dict[str, Any]:
    cost = {"rounds": rounds, "steps": steps, "episodes": 2 * steps, "bytes": sent}
    return {**cost, "train_loss": 1.5, "cells": scores}


def arm(
    kind: str,
    seen: dict[str, float],
    unseen: dict[str, float] | None = None,
    groups: dict[str, float] | None = None,
    curves: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """An arm with the scores of each seed; base e and fairness follow."""
    cells = {}
    for cell, values in ((SEEN, seen), (UNSEEN, unseen or {})):
        if values:
            cells[cell] = {
                "alignment": over_seeds(values),
                "alignment_e": over_seeds({seed: 1 - (1 - v) / 2 for seed, v in values.items()}),
                "worst": over_seeds({seed: v - 0.125 for seed, v in values.items()}),
                "fi": over_seeds(dict.fromkeys(values, 0.99875)),
            }
    return {
        "kind": kind,
        "overrides": [],
        "seeds": [int(seed) for seed in seen],
        "cells": cells,
        "variants": {},
        "groups": [
            {"group": name, "role": "held_out", "seen_questions": over_seeds({"1": value})}
            for name, value in (groups or {}).items()
        ],
        "curves": curves or {},
        "seconds": {} if kind == "baseline" else dict.fromkeys(seen, 12.4),
    }


def comparison(**arms: dict[str, Any]) -> dict[str, Any]:
    return {
        "seeds": [1, 2],
        "config": {"data": {"distance": "jensen_shannon"}},
        "arms": arms,
        "convergence": convergence(arms),
        "verdicts": verdicts(arms),
    }


@pytest.fixture
def results() -> dict[str, Any]:
    return comparison(
        federated=arm(
            "federated",
            {"1": 0.75, "2": 0.77},
            {"1": 0.70, "2": 0.71},
            {"Chad": 0.8, "Peru": 0.7},
            {
                "1": [
                    point(1, 6, 10**6, **{SEEN: 0.70}),
                    point(2, 12, 2 * 10**6, **{SEEN: 0.75}),
                ],
                "2": [
                    point(1, 6, 10**6, **{SEEN: 0.72}),
                    point(2, 12, 2 * 10**6, **{SEEN: 0.77}),
                ],
            },
        ),
        pooled_steps=arm(
            "pooled",
            {"1": 0.74, "2": 0.70},
            {"1": 0.71, "2": 0.70},
            {"Chad": 0.9},
            {
                "1": [point(1, 6, 0, **{SEEN: 0.745}), point(2, 12, 0, **{SEEN: 0.74})],
                "2": [point(1, 6, 0, **{SEEN: 0.6}), point(2, 12, 0, **{SEEN: 0.70})],
            },
        ),
        uniform=arm("baseline", {"1": 0.55, "2": 0.57}),
        mean=arm("baseline", {"1": 0.72, "2": 0.76}, {"1": 0.8, "2": 0.8}, {"Peru": 0.65}),
        neighbours=arm("baseline", {"1": 0.76}, {"1": 0.72, "2": 0.74}),
    )


# Numbers and words


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.8164, 3, "0.816"), (-0.0134, 4, "−0.0134"), (-0.0001, 3, "0.000"), (None, 3, "–")],
)
def test_a_number_has_fixed_digits_and_no_negative_zero(
    value: float | None, digits: int, text: str
) -> None:
    assert number(value, digits) == text


def test_a_mean_stands_with_its_spread_where_it_has_one() -> None:
    assert mean_std({"mean": 0.8164, "std": 0.0041}) == "0.816 ± 0.004"
    assert mean_std({"mean": 0.8164, "std": None}) == "0.816"
    assert mean_std({"mean": 0.02, "std": 0.01}, digits=2, signed=True) == "+0.02 ± 0.01"
    assert mean_std({"mean": -0.02, "std": None}, digits=2, signed=True) == "−0.02"
    assert mean_std({"mean": 0.001, "std": None}, digits=2, signed=True) == "0.00"
    assert mean_std(None) == "–"


# The verdict


@pytest.mark.parametrize(
    ("values", "word"),
    [
        # Mean 0.0295, deviation 0.00071: the interval is 12.706 x 0.00071 / sqrt(2) = 0.0064 wide.
        ((0.03, 0.029), "beats"),
        ((0.03, 0.01), "is level with"),  # ahead with both seeds, but 12.706 x 0.01 = 0.127
        ((-0.03, -0.029), "is beaten by"),
        # With three seeds 4.303 x 0.01 / sqrt(3) = 0.0248.
        ((0.04, 0.03, 0.02), "beats"),
        ((0.03, 0.02, 0.01), "is level with"),
        ((0.0, 0.0), "is level with"),
        ((0.3,), "is ahead of"),
        ((-0.3,), "is behind"),
    ],
)
def test_an_outcome_is_held_against_the_spread_over_seeds(
    values: tuple[float, ...], word: str
) -> None:
    assert outcome(over_seeds({str(n): value for n, value in enumerate(values)})) == word


def test_findings_say_whether_the_network_beats_what_it_has_to(results: dict[str, Any]) -> None:
    first, second = baseline_findings(results)  # there is no mixture, and no training groups' cell
    assert (first.where, first.arm, first.outcome, first.other) == (
        "held-out groups, seen questions",
        "federated",
        "is level with",
        "group mean",
    )
    assert first.scores == "0.760 ± 0.014 against 0.740 ± 0.028"
    assert first.difference == "+0.0200 ± 0.0141"  # 0.03 and 0.01
    assert first.ahead == "2 of 2 seeds"
    assert (second.outcome, second.other) == ("is level with", "neighbours")
    assert second.difference == "−0.0250 ± 0.0071"
    assert second.ahead == "0 of 2 seeds"


def test_differences_pair_seeds_and_mark_oracles(results: dict[str, Any]) -> None:
    sheet = difference_sheet(results)
    assert sheet is not None
    assert {row[0]: row[1:] for row in sheet.rows} == {
        "pooled, same steps": ("+0.0400 ± 0.0424 ≈", "0.0000 ± 0.0141 ≈"),
        "uniform": ("+0.2000 ± 0.0000 ▲", "–"),
        "group mean": ("+0.0200 ± 0.0141 ≈", "−0.0950 ± 0.0071 ▼ *"),
        "neighbours": ("−0.0100 ▽", "−0.0250 ± 0.0071 ≈"),  # one seed in common
    }
    assert "against an oracle" in sheet.note
    assert "▽ is behind" in sheet.note
    assert "△" not in sheet.note


def test_the_best_fair_predictor_is_no_oracle(results: dict[str, Any]) -> None:
    seen, unseen = best_findings(results)
    assert (seen.arm, seen.other) == ("federated", "neighbours")
    assert (unseen.arm, unseen.other) == ("federated", "neighbours")  # mean has 0.8, as an oracle


def test_a_comparison_without_a_network_has_no_verdict() -> None:
    alone = comparison(uniform=arm("baseline", {"1": 0.5}))
    assert verdict_sheet(alone) is None
    assert difference_sheet(alone) is None
    assert [sheet.rows[0][0] for sheet in score_sheets(alone)] == ["uniform (1 of 2 seeds)"] * 2


# Tables


def test_scores_stand_in_both_bases_with_seeds_and_oracles_told(results: dict[str, Any]) -> None:
    base_2, base_e = score_sheets(results)
    assert base_2.title == "AS base 2, mean over groups"
    assert base_2.rows[0] == ("federated", "0.760 ± 0.014", "0.705 ± 0.007")
    assert base_2.rows[2] == ("uniform", "0.560 ± 0.014", "–")
    assert base_2.rows[3] == ("group mean", "0.740 ± 0.028", "0.800 ± 0.000 *")
    assert base_2.rows[4] == ("neighbours (1 of 2 seeds)", "0.760", "0.730 ± 0.014")
    assert base_e.rows[0] == ("federated", "0.880 ± 0.007", "0.853 ± 0.004")
    assert base_2.strong == {0}
    assert "oracle" in base_2.note


def test_honest_groups_stand_under_the_arm_that_is_attacked(results: dict[str, Any]) -> None:
    honest = arm("federated", {"1": 0.5, "2": 0.625})["cells"]
    results["arms"]["pooled_steps"]["variants"] = {"honest": honest}
    for sheet in (score_sheets(results)[0], fairness_sheet(results, SEEN)):
        assert [row[0] for row in sheet.rows][1:3] == [
            *("pooled, same steps", "– its honest groups alone")
        ]
        assert "without those that attack" in sheet.note
        assert sheet.strong == {0}
    assert score_sheets(results)[0].rows[2][1] == "0.562 ± 0.088"
    values = [row["value"] for row in tidy(results)["cells"] if row["variant"] == "honest"]
    assert values[:2] == [0.5, 0.625]


def test_the_wasserstein_distance_has_no_base(results: dict[str, Any]) -> None:
    results["config"]["data"]["distance"] = "wasserstein"
    (sheet,) = score_sheets(results)
    assert sheet.title.startswith("1\N{NO-BREAK SPACE}−\N{NO-BREAK SPACE}WD")


def test_fairness_has_the_metrics_that_there_are(results: dict[str, Any]) -> None:
    sheet = fairness_sheet(results, UNSEEN)
    assert sheet.columns == ("predictor", "worst group", "FI")
    assert sheet.rows[0] == ("federated", "0.580 ± 0.007", "0.9988 ± 0.0000")
    assert [row[0] for row in sheet.rows] == [
        *("federated", "pooled, same steps", "group mean *", "neighbours")
    ]


def test_groups_are_sorted_by_what_the_network_predicts_worst(results: dict[str, Any]) -> None:
    sheet = group_sheet(results, "held_out", "seen_questions")
    assert sheet is not None
    assert sheet.columns == ("group", "federated", "pooled, same steps", "group mean")
    assert sheet.rows == (("Peru", "0.700", "–", "0.650"), ("Chad", "0.800", "0.900", "–"))
    assert group_sheet(results, "train", "seen_questions") is None


def test_convergence_tells_what_was_spent_and_who_never_got_there(results: dict[str, Any]) -> None:
    # Targets: 0.55 + 0.95 x 0.2 = 0.74 and 0.57 + 0.95 x 0.2 = 0.76.
    sheet, ratios = convergence_sheets(results)
    assert sheet.rows == (
        ("federated", "1", "0.740", "2", "12", "24", "2.0"),
        ("federated", "2", "0.760", "2", "12", "24", "2.0"),
        ("pooled, same steps", "1", "0.740", "1", "6", "12", "0.0"),
        ("pooled, same steps", "2", "0.760", "–", "–", "–", "–"),
    )
    assert ratios.rows == (("of pooled, same steps", "–", "–", "–", "–"),)


def test_ratios_are_told_for_every_seed(results: dict[str, Any]) -> None:
    results["arms"]["pooled_steps"]["curves"]["2"][0]["cells"][SEEN] = 0.765
    results["convergence"] = convergence(results["arms"])
    _, ratios = convergence_sheets(results)
    twice = "2.00 (2.00, 2.00)"
    assert ratios.rows == (("of pooled, same steps", twice, twice, twice, "–"),)


def test_seconds_are_those_of_arms_that_train(results: dict[str, Any]) -> None:
    sheet = seconds_sheet(results)
    assert sheet is not None
    assert sheet.columns == ("arm", "seed 1", "seed 2")
    assert sheet.rows == (("federated", "12", "12"), ("pooled, same steps", "12", "12"))


def test_a_terminal_cuts_no_number_off(
    results: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console = wide_console()
    console.width = 40
    sheet = score_sheets(results)[0]
    console.print(sheet.for_terminal())
    printed = Counter(re.findall(r"\d\.\d{3}\b", capsys.readouterr().out))
    assert printed == Counter(re.findall(r"\d\.\d{3}", " ".join(" ".join(r) for r in sheet.rows)))


# Files


def test_every_observation_is_a_row(results: dict[str, Any], tmp_path: Path) -> None:
    tables = tidy(results)
    assert tables["cells"][0] == {
        "arm": "federated",
        "variant": "",
        "kind": "federated",
        "cell": SEEN,
        "metric": "alignment",
        "seed": "1",
        "value": 0.75,
    }
    pairs = sum(
        len(arm["cells"][cell]["alignment"]["values"])
        for arm in results["arms"].values()
        for cell in arm["cells"]
    )
    assert len(tables["cells"]) == 4 * pairs
    assert [(row["arm"], row["group"], row["alignment"]) for row in tables["groups"]] == [
        ("federated", "Chad", 0.8),
        ("federated", "Peru", 0.7),
        ("pooled_steps", "Chad", 0.9),
        ("mean", "Peru", 0.65),
    ]
    assert len(tables["curves"]) == 8
    assert tables["convergence"][-1]["rounds"] is None
    write_tables(results, tmp_path)
    with (tmp_path / "convergence.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["arm"], rows[0]["bytes"]) == ("federated", "2000000")
    assert rows[-1]["rounds"] == ""


def test_only_what_differs_from_the_default_is_told() -> None:
    config = load_config(["training=gaussian", "seed=7", "output_dir=/tmp/here"], None)
    changed = {
        key: (value, default) for key, value, default in changed_configuration(config_dict(config))
    }
    assert changed["seed"] == ("7", "1")
    assert changed["training.loss"] == ("gaussian", "cross_entropy")
    assert changed["training.scale_floor"][1] == "–"  # a key that the default loss does not have
    assert not [key for key in changed if key.split(".")[0] not in ("seed", "training")]
    assert changed_configuration(config_dict(load_config([], None))) == []


def test_a_command_is_told_as_it_was_typed() -> None:
    command = (
        """plurallm compare 'output_dir='"'"'/tmp/here'"'"'' 'data.path='"'"'/a b'"'"'' seed=2"""
    )
    assert readable_command(command) == (
        """plurallm compare output_dir=/tmp/here 'data.path='"'"'/a b'"'"'' seed=2"""
    )


def test_a_folder_that_holds_nothing_to_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path} is the folder of no run"):
        report_folder(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 1")
    with pytest.raises(ConfigError, match=f"not finished; continue it with resume={tmp_path}"):
        report_folder(tmp_path)


# Charts


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_stand_out_from_the_page(scheme: int) -> None:
    page = luminance(COLOURS["page"][scheme])
    for name, colours in COLOURS.items():
        own = luminance(colours[scheme])
        contrast = (max(own, page) + 0.05) / (min(own, page) + 0.05)
        least = {"page": 1.0, "rule": 1.2}.get(name, 4.5)  # words are written in all the others
        assert contrast >= least, (name, contrast)


def test_no_two_arms_look_alike() -> None:
    names = [*({*TRAINED, *BASELINES.names} - {"model"}), *(f"seed={n}" for n in range(5))]
    drawn = styles(names)
    assert len({style.marker for style in drawn.values()}) == len(names)
    assert len({(style.colour, style.dash) for style in drawn.values()}) == len(names)


def test_curves_are_means_with_bands_and_only_weights_that_are_sent_cost(
    results: dict[str, Any],
) -> None:
    charts = curve_charts(results)
    assert list(charts) == [SEEN]
    figure = charts[SEEN].draw(False)
    rounds, _, sent = figure.axes
    assert (rounds.get_xlabel(), sent.get_xlabel()) == ("rounds", "MB of weights sent")
    drawn = [line for line in rounds.lines if len(line.get_xdata()) and line.get_marker() != "None"]
    assert [list(line.get_xdata()) for line in drawn] == [[1, 2], [1, 2]]
    assert list(drawn[0].get_ydata()) == pytest.approx([0.71, 0.76])
    (band, _) = rounds.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(0.76 + 0.02 / 2**0.5)  # of 0.75 and 0.77
    assert len(sent.collections) == 1  # pooled training sends none
    assert [list(line.get_xdata()) for line in sent.lines if line.get_marker() != "None"] == [
        [1.0, 2.0]
    ]
    assert "federated 0.760, pooled, same steps 0.720" in charts[SEEN].description
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["federated", "pooled, same steps", "uniform", "group mean", "neighbours"]


@pytest.mark.parametrize("narrow", [False, True])
def test_of_many_groups_a_chart_shows_both_ends(narrow: bool) -> None:
    scores = {f"group {n:03}": 0.5 + n / 1000 for n in range(129)}
    many = comparison(federated=arm("federated", {"1": 0.6}, groups=scores))
    chart = group_charts(many)[SEEN]
    assert "the 15 lowest and the 15 highest of 129" in chart.title
    (axes,) = chart.draw(narrow).axes
    texts = (
        [text.get_text() for text in axes.texts]
        if narrow
        else [text.get_text() for text in axes.get_yticklabels()]
    )
    assert len(texts) == 31
    assert (texts[0], texts[15], texts[-1]) == (
        "group 000",
        "… 99 groups between …",
        "group 128",
    )
    (dots,) = axes.lines
    assert list(dots.get_xdata()) == pytest.approx(
        [scores[f"group {n:03}"] for n in (*range(15), *range(114, 129))]
    )


WILD = ["$1 & <b>2</b>$", "日本", "_hidden", 'Côte d\'Ivoire "x"']


@pytest.mark.parametrize(
    "draw",
    [
        lambda narrow: dot_chart(
            [(name, {"a": 0.5}) for name in WILD],
            {"a": ("$a$", Style("series-0", "o"))},
            "AS",
            narrow,
        ),
        lambda narrow: line_chart(
            [Panel("x", [Line(name, Style("series-1", "s"), [1, 2], [3, 4]) for name in WILD], {})],
            "AS",
            narrow,
        ),
    ],
)
def test_a_chart_follows_the_pages_colours_and_keeps_any_name(
    draw: Callable[[bool], Any],
) -> None:
    found: Counter[str] = Counter()
    for narrow in (False, True):
        svg = inline_svg(draw(narrow), f"chart-{narrow}", 'a "chart" & more', "chart")
        root = ElementTree.fromstring(svg)
        assert root.attrib["aria-label"] == 'a "chart" & more'
        texts = [element.text for element in root.iter("text")]
        assert set(WILD) <= set(texts)
        for element in root.iter():
            assert not re.search(r"#[0-9a-f]{6}", element.attrib.get("style", ""))
            assert "font-family" not in element.attrib.get("style", "")
            found.update([element.attrib["id"]] if "id" in element.attrib else [])
        assert "var(--ink)" in svg
        assert inline_svg(draw(narrow), f"chart-{narrow}", 'a "chart" & more', "chart") == svg
    assert max(found.values()) == 1  # identities are the page's


def test_cells_are_told_in_words() -> None:
    assert cell_label("train_groups.unseen_questions") == "training groups, unseen questions"
