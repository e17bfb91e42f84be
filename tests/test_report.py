"""The page and the files of a comparison and of a run, from whole small runs."""

import csv
import json
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY

from plurallm.cli import compare, report, train
from plurallm.config.compose import load_config
from plurallm.config.error import ConfigError
from plurallm.data.roles import assign_roles, count_seen
from plurallm.data.tasks import load_survey
from plurallm.results.report.page import write_page
from plurallm.results.report.report_folder import report_folder

SMALL = [
    *TINY,
    *("federation.rounds=2", "training.steps_per_round=2", "evaluation.every=1", "threads=1"),
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
VOID = {"br", "hr", "img", "input", "link", "meta", "col", "path", "use", "rect", "circle", "line"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that is tracked offline, with its report."""
    path = tmp_path_factory.mktemp("report") / "small"
    arms = "compare.arms=[federated,pooled_steps,uniform,mean,neighbours]"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "CACHE", "DATA"):
            patch.setenv(f"WANDB_{name}_DIR", str(path.parent / name))
        patch.setenv("NETRC", str(path.parent / "no-netrc"))
        compare(
            [
                *SMALL,
                *(arms, "compare.seeds=[1,2]", "compare.jobs=2", f"output_dir={path}"),
                *("tracking=wandb", "tracking.mode=offline"),
            ]
        )
    return path


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    return loaded


class Page(HTMLParser):
    """Collects texts and addresses, and checks that elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_stands_alone_and_says_what_was_compared(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [address for address in page.addresses if not address.startswith("#")] == []
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)
    for words in (
        "Verdict",
        "held-out groups",
        "pooled, same steps",
        "oracle",
        "base e",
        "plurallm",
    ):
        assert words in page.words, words


def test_the_page_escapes_what_surveys_and_users_wrote(
    results: dict[str, Any], tmp_path: Path
) -> None:
    wild = deepcopy(results)
    wild["examples"][0]["question"] = "<script>alert(1)</script>?"
    wild["missing"] = ["<b>mean</b>, seed 3"]
    write_page(wild, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<b>mean</b>" not in text
    assert "<b>mean</b>, seed 3" in Page(text).words


def test_a_comparison_with_private_arms_says_what_they_guarantee(
    results: dict[str, Any], tmp_path: Path
) -> None:
    assert results["arms"]["federated"]["privacy"] is None
    private = deepcopy(results)
    guarantee = {"protects": "respondents", "epsilon": 4.0, "delta": 1e-6}
    private["arms"]["federated"]["privacy"] = guarantee
    write_page(private, tmp_path / "page.html")
    words = Page((tmp_path / "page.html").read_text(encoding="utf-8")).words
    assert re.search(r"federated\S*\s*respondents\s*4\s*1e-06", words)


def test_files_hold_every_score(folder: Path, results: dict[str, Any]) -> None:
    with (folder / "cells.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    stat = results["arms"]["federated"]["cells"]["train_groups.seen_questions"]["alignment"]
    found = {
        row["seed"]: float(row["value"])
        for row in rows
        if (row["arm"], row["cell"], row["metric"])
        == ("federated", "train_groups.seen_questions", "alignment")
    }
    assert found == stat["values"]
    assert {row["arm"] for row in rows} == set(results["arms"])
    for name in ("groups", "curves", "convergence"):
        assert (folder / f"{name}.csv").read_text(encoding="utf-8").count("\n") > 2


def test_a_comparison_with_a_failed_arm_is_reported_and_ends_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["compare.seeds=[1]", f"output_dir={tmp_path / 'failing'}"]
    with pytest.raises(RuntimeError, match="1 of 2 arms and seeds failed"):
        compare([*SMALL, 'compare.arms=[uniform,"federation.min_groups=50"]', *where])
    reason = "federation.min_groups=50, seed 1 (failed: federation.min_groups is 50"
    assert reason in re.sub(r"\s+", " ", capsys.readouterr().out)
    assert reason in (tmp_path / "failing" / "report.html").read_text(encoding="utf-8")
    none = ['compare.arms=["federation.min_groups=50"]', f"output_dir={tmp_path / 'none'}"]
    with pytest.raises(RuntimeError, match="1 of 1 arms and seeds failed"):
        compare([*SMALL, *none, "compare.seeds=[1]"])


def test_an_interrupted_comparison_names_what_is_missing(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "interrupted"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("wandb"))
    (copy / "neighbours" / "seed-2" / "pairs.npz").unlink()
    results = report_folder(copy)
    assert results["missing"] == ["neighbours, seed 2"]
    assert "neighbours, seed 2" in Page((copy / "report.html").read_text(encoding="utf-8")).words


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "run"
    train([*SMALL, f"output_dir={path}"])
    return path


def words_of_report(folder: Path) -> str:
    report_folder(folder)
    return Page((folder / "report.html").read_text(encoding="utf-8")).words


def test_a_run_has_a_page_of_its_own(run: Path) -> None:
    words = words_of_report(run)
    for part in ("trained model", "group mixture", "Training loss", "Notes of the run"):
        assert part in words
    assert "Convergence" not in words
    assert "is ahead of" in words or "is behind" in words  # one seed proves nothing
    with (run / "curves.csv").open(encoding="utf-8") as file:
        assert {row["arm"] for row in csv.DictReader(file)} == {"model"}


def test_a_deployments_page_shows_what_a_server_knows(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deployment"
    shutil.copytree(run, folder)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    del summary["survey"], summary["baselines"]
    summary["participation"] = {"North\u2028East": {"trained": "1, 3", "missed": "2"}}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    first = json.loads(lines[0]) | {"train_loss": None, "losses": {}, "groups_trained": []}
    first["failed"] = "no update of North\u2028East came"
    lines[0] = json.dumps(first, ensure_ascii=False)
    (folder / "metrics.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")
    words = words_of_report(folder)
    assert "trained in rounds 1, 3, missed 2." in words
    assert "no update of North" in words
    assert "Rows of the survey" not in words
    assert "Verdict" not in words  # there is nothing to hold the model against
    assert "questions of" not in words.partition("How to read it")[0]


def test_personal_models_stand_beside_the_common_one(tmp_path: Path) -> None:
    path = tmp_path / "personal"
    train([*SMALL, "personal=ditto", f"output_dir={path}", f"state_dir={tmp_path / 'state'}"])
    words = words_of_report(path)
    assert "personal models" in words
    with (path / "cells.csv").open(encoding="utf-8") as file:
        assert {row["arm"] for row in csv.DictReader(file)} > {"model", "personal", "uniform"}


def test_the_command_takes_a_folder_and_no_more(run: Path) -> None:
    for arguments in ([], ["seed=2"], [f"output_dir={run}", "seed=2"]):
        with pytest.raises(ConfigError, match="folder of a run or a comparison, and no more"):
            report(arguments)


def test_runs_of_a_comparison_belong_together_in_weights_and_biases(folder: Path) -> None:
    from test_tracking import kind, values, wandb_records

    jobs = {}
    for part in (
        folder,
        *(folder / arm / "seed-2" for arm in ("federated", "pooled_steps", "mean")),
    ):
        records = wandb_records(part)
        (run,) = (record.run for record in records if kind(record) == "run")
        assert run.run_group == "small"
        jobs[run.job_type] = records
    assert set(jobs) == {"comparison", "federated", "pooled_steps", "mean"}
    history = {
        job: {
            key: value
            for record in records
            if kind(record) == "history"
            for key, value in values(record.history.item).items()
        }
        for job, records in jobs.items()
    }
    assert any(key.startswith("losses/") for key in history["federated"])
    assert any(
        key.startswith("groups/") and key.endswith("/alignment") for key in history["federated"]
    )
    kinds = {
        key.removesuffix("/_type"): value
        for key, value in history["comparison"].items()
        if key.endswith("/_type")
    }
    tables = {name for name, value in kinds.items() if value == "table-file"}
    assert tables == {"cells", "plurality", "groups", "curves", "convergence"}
    assert {name for name, value in kinds.items() if value == "image-file"} == {
        f"{chart}-{row}-groups-{column}-questions"
        for chart in ("curves", "groups")
        for row in ("train", "held-out")
        for column in ("seen", "unseen")
    }


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_the_window_in_a_browser(
    folder: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    # A frame is as narrow as a phone, which a window of a headless browser need not be.
    page = (folder / "report.html").read_text(encoding="utf-8")
    probe = (
        "<script>addEventListener('load', () => parent.postMessage("
        "[document.documentElement.scrollWidth, getComputedStyle(document.body).color,"
        " ...['.wide', '.narrow'].map("
        "name => getComputedStyle(document.querySelector(name)).display)], '*'))"
        "</script></body>"
    )
    (tmp_path / "page.html").write_text(page.replace("</body>", probe), encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        f"<iframe src=page.html style='width:{width}px;height:900px;border:0;"
        f"color-scheme:{scheme}'></iframe>"
        "<script>onmessage = e => { document.title = e.data.join('|') }</script>",
        encoding="utf-8",
    )
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, "--allow-file-access-from-files", "--virtual-time-budget=8000"]
    command += [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--dump-dom"]
    dom = subprocess.run(
        [*command, (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    found = re.search(r"<title>(\d+)\|rgba?\((\d+).*\|(\w+)\|(\w+)</title>", dom)
    assert found is not None, (dom[:300], sys.platform)
    assert int(found[1]) <= width
    assert (int(found[2]) > 128) == (scheme == "dark")  # light letters on dark ground
    assert found.group(3, 4) == (("none", "block") if width == 360 else ("block", "none"))


def test_a_comparison_shows_personal_models_and_honest_groups(tmp_path: Path) -> None:
    first = load_config(SMALL, None)
    attacker = assign_roles(count_seen(load_survey(first.data), first), first).train[0]
    arms = f'[uniform,"personal=ditto","attack=flipped attack.groups=[{attacker}]"]'
    compare(
        [
            *(*SMALL, f"compare.arms={arms}", "compare.seeds=[1]", "compare.jobs=1"),
            *(f"output_dir={tmp_path / 'c'}", f"state_dir={tmp_path / 'state'}"),
        ]
    )
    results = json.loads((tmp_path / "c" / "comparison.json").read_text(encoding="utf-8"))
    variants = {name: set(arm["variants"]) for name, arm in results["arms"].items()}
    assert list(variants.values()) == [set(), {"personal"}, {"honest"}]
    words = words_of_report(tmp_path / "c")
    assert "its honest groups alone" in words
    assert "its personal models" in words
