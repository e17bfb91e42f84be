"""Variants: found by their names, here and in an installed package; unknown ones are errors."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from plurallm.config.compose import load_config
from plurallm.config.error import ConfigError
from plurallm.config.overrides import config_directory
from plurallm.config.schema import KINDS
from plurallm.evaluate.baseline import BASELINES
from plurallm.results.report.names import arm_explanation, arm_label

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLE = PROJECT / "tests" / "example_variants"


@pytest.mark.parametrize("section", KINDS)
def test_every_variant_has_a_file_of_the_tree_that_chooses_it(section):
    chosen = set()
    for file in sorted((config_directory() / section).glob("*.yaml")):
        missing = [f"{section}.{key}=/a" for key in ("path", "model") if "???" in file.read_text()]
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
    environment = os.environ | {"PYTHONPATH": ""}
    return subprocess.run(
        [python, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


OTHERS = ("strategy=root_mean", "strategy.power=0.25", "training=brier", "embedding=lengths")


@pytest.mark.slow
def test_a_package_from_outside_brings_one_variant_of_each_kind(installed, tmp_path):
    quick = ("experiment=quick", "federation.rounds=2", "threads=1")
    done = run(installed, tmp_path, "train", *quick, *OTHERS, "output_dir=run")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "first_option" in summary["baselines"]
    arms = "compare.arms=[first_option,uniform]"
    done = run(installed, tmp_path, "compare", *quick, arms, "compare.seeds=[1]", "output_dir=both")
    assert done.returncode == 0, done.stderr
    assert "first option" in (tmp_path / "both" / "report.html").read_text()
    done = run(installed, tmp_path, "train", *OTHERS, "strategy.power=1.5")
    assert "strategy.power must be at least 0, below 1, but is 1.5" in done.stderr
    # Here, where it is not installed, nothing of it is known.
    with pytest.raises(ConfigError, match=r"Could not find 'strategy/root_mean'"):
        load_config(OTHERS, None)
    with pytest.raises(ConfigError, match=r"baseline.name must be one of .*'first_option'"):
        arm_label("first_option")
