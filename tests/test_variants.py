"""Variants: found by their names, here and in an installed package; unknown ones are errors."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml
from tiny import TINY

from plurallm.config.compose import load_config, without_folder
from plurallm.config.error import ConfigError
from plurallm.config.overrides import absolute_overrides, config_directory
from plurallm.config.schema import KINDS
from plurallm.evaluate.baseline import BASELINES
from plurallm.results.report.names import arm_explanation, arm_label
from plurallm.results.run import selection_score

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLE = PROJECT / "tests" / "example_variants"


@pytest.mark.parametrize("section", KINDS)
def test_every_variant_has_a_file_of_the_tree_that_chooses_it(section):
    chosen = set()
    for file in sorted((config_directory() / section).glob("*.yaml")):
        missing = [
            f"{section}.{key}=/a"
            for key in ("path", "model", "group_by")
            if "???" in file.read_text()
        ]
        fits = [
            text for text in missing if f"\n{text.split('.')[1].split('=')[0]}:" in file.read_text()
        ]
        own = getattr(load_config([f"{section}={file.stem}", *fits], None), section)
        chosen.add(getattr(own, KINDS[section].field))
    assert chosen == set(KINDS[section].names)


def test_an_unknown_variant_names_the_nearest():
    with pytest.raises(
        ConfigError, match=r"strategy.name must be one of .*, but is 'therm'; did you mean term"
    ):
        load_config(["strategy.name=therm"], None)


def test_an_arm_that_nobody_knows_is_an_error_and_no_label():
    assert arm_label("strategy=term") == "strategy=term"
    assert [arm_label(name) for name in BASELINES.names][:2] == ["uniform", "own context"]
    for told in (arm_label, arm_explanation):
        with pytest.raises(ConfigError, match=r"baseline.name must be one of .*'gone'"):
            told("gone")


def test_variants_are_cheap_to_import():
    heavy = ("torch", "numpy", "flwr", "sklearn", "transformers", "matplotlib")
    code = (
        "import sys; from plurallm.config.compose import load_config; load_config([], None)\n"
        "from plurallm.config.schema import KINDS\n"
        "from plurallm.evaluate.baseline import BASELINES\n"
        "[kind.all for kind in (*KINDS.values(), BASELINES)]\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_mistake_is_told_before_anything_heavy_is_imported():
    code = (
        "import sys; from plurallm.cli import main\n"
        "sys.argv = ['plurallm', 'train', 'datta.path=x']\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    print(end.code, [name for name in ('torch', 'numpy', 'flwr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"
    assert "datta.path is not a key of the configuration; did you mean data.path?" in done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Python of an environment that sees ours, with the example package installed in it."""
    pytest.importorskip("hatchling", reason="the example is built: pip install '.[dev]'")
    place = tmp_path_factory.mktemp("environment")
    source = shutil.copytree(EXAMPLE, place / "source")
    venv.create(place / "venv", with_pip=False, symlinks=True)
    python = place / "venv" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout
    ours = [path for path in sys.path if path.endswith("site-packages")]
    Path(own.strip(), "ours.pth").write_text("\n".join([str(PROJECT), *ours]))
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "-e", source)
    subprocess.run([python, *install], check=True)
    return python


def run(python, folder, *arguments):
    code = "import sys; from plurallm.cli import main; sys.argv[0] = 'plurallm'; main()"
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    return subprocess.run(
        [python, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


OTHERS = ("strategy=root_mean", "strategy.power=0.25", "training=brier", "embedding=lengths")


def test_a_package_from_outside_brings_one_variant_of_each_kind(installed, tmp_path):
    own = [text for text in TINY if not text.startswith("embedding")]
    small = (*own, "federation.rounds=1", "threads=1")
    done = run(installed, tmp_path, "train", *small, *OTHERS, "output_dir=run")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "first_option" in summary["baselines"]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["strategy"] == {"name": "root_mean", "power": 0.25}
    assert (config["training"]["loss"], config["embedding"]["width"]) == ("brier", 16)
    done = run(installed, tmp_path, "report", "run")
    assert done.returncode == 0, done.stderr
    assert "first option" in (tmp_path / "run" / "report.html").read_text()
    polls = [f"Claim {n},{group},{n},{40 - n}" for n in range(1, 40) for group in ("A", "B")]
    (tmp_path / "polls.csv").write_text("\n".join(["claim,group,yes,no", *polls]))
    done = run(installed, tmp_path, "check-data", "polls.csv", "data=yes_no", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["questions"]) == 39
    done = run(installed, tmp_path, "train", *OTHERS, "strategy.power=1.5")
    assert "strategy.power must be at least 0, below 1, but is 1.5" in done.stderr
    # Here, where it is not installed, nothing of it is known.
    with pytest.raises(ConfigError, match=r"Could not find 'strategy/root_mean'"):
        load_config(OTHERS, None)
    with pytest.raises(ConfigError, match=r"baseline.name must be one of .*'first_option'"):
        arm_label("first_option")


def test_the_guide_shows_the_example_as_it_is():
    guide = (PROJECT / "CONTRIBUTING.md").read_text()
    shown = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", guide, re.DOTALL)
    assert len(shown) == 6
    for name, text in shown:
        assert text == (EXAMPLE / "example_variants" / name).read_text(), name


# Folders and sweeps of the user's own


@pytest.fixture
def mine(tmp_path):
    """A folder of config groups."""
    for name, text in {
        "strategy/mine": "defaults:\n  - term\n  - _self_\ntilt: 3.5\n",
        "experiment/small": "# @package _global_\ndefaults:\n  - override /strategy: mine\n"
        "  - override /training: paper\nfederation:\n  rounds: 7\n",
    }.items():
        file = tmp_path / "mine" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "mine"


def test_a_folder_of_the_users_own_becomes_overrides_of_ours(mine):
    poison = ["attack=scaled", "attack.groups=['a, b',c]", "data=custom", "data.path='/x y.csv'"]
    plain = without_folder(["experiment=small", "seed=5", *poison], mine)
    config = load_config(plain, None)
    assert (config.strategy.name, config.strategy.tilt) == ("term", 3.5)
    assert (config.training.loss, config.training.learning_rate) == ("gaussian", 3e-4)
    assert (config.federation.rounds, config.seed, config.data.path) == (7, 5, "/x y.csv")
    assert config.attack.groups == ["a, b", "c"]
    with pytest.raises(ConfigError, match=r"Could not find 'strategy/mein'.*mine"):
        without_folder(["strategy=mein"], mine)
    with pytest.raises(ConfigError, match=r"--config-dir=.*nowhere is no folder"):
        without_folder([], mine / "nowhere")


def test_a_run_and_its_resumption_need_the_folder_once(mine, tmp_path):
    small = (*TINY, "federation.rounds=1", "threads=1")
    folder = ("--config-dir", str(mine))
    done = run(sys.executable, tmp_path, "train", *folder, "strategy=mine", *small, "output_dir=a")
    assert done.returncode == 0, done.stderr
    again = absolute_overrides([f"resume={tmp_path}/a"], None)
    assert load_config(again, None).strategy.tilt == 3.5


def test_a_sweep_has_its_folder_and_jobs_return_their_scores(tmp_path):
    small = (*TINY, "federation.rounds=1", "threads=1", "seed=1,2")
    done = run(sys.executable, tmp_path, "train", "-m", *small, "hydra.sweep.dir=both")
    assert done.returncode == 0, done.stderr
    for number in ("0", "1"):
        summary = json.loads((tmp_path / "both" / number / "summary.json").read_text())
        cell = "train_groups.unseen_questions"
        score = selection_score(tmp_path / "both" / number)
        assert score == summary["cells"][cell]["alignment"]
    done = run(sys.executable, tmp_path, "train", "hydra.sweep.dir=both")
    assert done.returncode == 2
    assert "Hydra's own settings have a meaning with -m alone" in done.stderr
