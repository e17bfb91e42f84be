"""From overrides to a checked configuration, and what each mistake is told."""

import copy
import math
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from plurallm.config.compose import load_config, typed_config
from plurallm.config.digest import changed_on_resume, config_dict
from plurallm.config.directories import cache_directory, state_directory
from plurallm.config.error import ConfigError
from plurallm.config.overrides import (
    absolute_overrides,
    config_directory,
    hydra_quote,
    split_overrides,
)
from plurallm.config.schema import Config, WandbTracking
from plurallm.config.surveys import FileData
from plurallm.data.sources.made_up import SyntheticData
from plurallm.learn.objectives.gaussian import GaussianTraining
from plurallm.record.run_folder import RunFolder

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def widest() -> DictConfig:
    """A composed configuration that has every key of every type."""
    return OmegaConf.create(config_dict(load_config(["training=gaussian", "tracking=wandb"], None)))


def with_value(composed: DictConfig, key: str, value: Any) -> Config:
    changed = copy.deepcopy(composed)
    OmegaConf.update(changed, key, value, merge=False)
    return typed_config(changed)


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_the_default_needs_nothing() -> None:
    config = load_config([], None)
    assert isinstance(config.data, SyntheticData)
    assert config.data.groups == "all"
    assert (config.embedding.name, config.training.loss) == ("hashing", "cross_entropy")
    assert config.seed == 1
    assert config.resume is None


def test_overrides_reach_their_keys() -> None:
    config = load_config(
        ["seed=7", "training.learning_rate=3e-4", "data.train_groups=[a,'b (c)']", "threads=2"],
        None,
    )
    assert (config.seed, config.training.learning_rate, config.threads) == (7, 3e-4, 2)
    assert config.data.train_groups == ["a", "b (c)"]


CHOICES = sorted(
    f"{file.parent.name}={file.stem}"
    for file in config_directory().glob("*/*.yaml")
    if file.parent.name != "hydra"
)


def test_every_config_group_has_files() -> None:
    groups = ("data", "embedding", "model", "training", "federation", "strategy", "evaluation")
    assert {*groups, "tracking", "experiment"} <= {choice.partition("=")[0] for choice in CHOICES}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_of_the_tree_composes_and_type_checks(choice: str) -> None:
    group, _, name = choice.partition("=")
    tree = yaml.safe_load((config_directory() / group / f"{name}.yaml").read_text())
    value = "[a]" if group == "attack" else "/a"
    missing = [f"{group}.{key}={value}" for key, given in tree.items() if given == "???"]
    needed = []
    if choice == "privacy=central":
        needed = ["strategy.weighting=uniform", "personal=none"]
    config = load_config([choice, *missing, *needed], None)
    named = ("data", "embedding", "strategy", "privacy", "personal", "tracking")
    if group in named or choice == "training=gaussian":
        own = config_dict(config)[group]
        assert name in (own.get("source"), own.get("name"), own.get("loss"))


def test_a_model_is_a_path_where_it_looks_like_one_or_is_there(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    for value, kept in (
        ("models/mine", f"{tmp_path}/models/mine"),
        ("./absent", f"{tmp_path}/absent"),
        ("/absent", "/absent"),
        ("owner/model", "owner/model"),
    ):
        config = load_config(
            ["embedding=sentence_transformer", f"embedding.model={value}"], tmp_path
        )
        assert getattr(config.embedding, "model") == kept  # noqa: B009
    with pytest.raises(ConfigError, match=r"embedding.model=\./mine is a relative path"):
        load_config(["embedding=sentence_transformer", "embedding.model=./mine"], None)


def test_the_variant_decides_the_type() -> None:
    config = load_config(
        ["data=custom", "data.path=/a.csv", "training=paper", "tracking=wandb"], None
    )
    assert isinstance(config.data, FileData)
    assert isinstance(config.training, GaussianTraining)
    assert isinstance(config.tracking, WandbTracking)


# Unknown keys


@pytest.mark.parametrize(
    ("override", "wrong", "near"),
    [
        ("training.learning_rat=1", "training.learning_rat", "training.learning_rate"),
        ("model.widht=64", "model.widht", "model.width"),
        ("modle.width=64", "modle.width", "model.width"),
        ("sead=2", "sead", "seed"),
        ("evaluation.context_question=5", "evaluation.context_question", "evaluation.context_qu"),
        ("training.scale_flor=0.1", "training.scale_flor", "training.scale_floor"),
    ],
)
def test_a_misspelled_key_is_named_with_the_nearest(override: str, wrong: str, near: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config([override], None)
    message = str(error.value)
    assert message.startswith(f"{wrong} is not a key of the configuration; did you mean {near}")
    assert "\n" not in message


def test_a_key_that_is_like_no_other_is_named_alone() -> None:
    with pytest.raises(ConfigError, match=r"^zzzzqqqq is not a key of the configuration$"):
        load_config(["zzzzqqqq=1"], None)


def test_a_key_cannot_be_added() -> None:
    with pytest.raises(ConfigError, match=r"model\.widht"):
        load_config(["+model.widht=3"], None)


@pytest.mark.parametrize(
    ("override", "variant"), [("data.path=/a.csv", "data="), ("training.scale_floor=1", "gaussian")]
)
def test_a_key_of_another_variant_is_not_called_a_typo_of_itself(
    override: str, variant: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_config([override], None)
    key = override.partition("=")[0]
    assert key in str(error.value)
    assert f"did you mean {key}" not in str(error.value)
    assert variant in str(error.value)


def test_an_unknown_choice_names_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"training/crossentropy.*cross_entropy gaussian"):
        load_config(["training=crossentropy"], None)
    with pytest.raises(ConfigError, match=r"experiment/papre.*paper quick"):
        load_config(["experiment=papre"], None)


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("data.source", "synthetic"),
        ("embedding.name", "hashing"),
        ("training.loss", "gaussian"),
        ("strategy.name", "fedavg"),
        ("tracking.name", "wandb"),
    ],
)
def test_an_unknown_variant_names_the_variants(widest: DictConfig, key: str, known: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} must be one of .*{known}.*, but is 'nope'"):
        with_value(widest, key, "nope")


def test_a_missing_path_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"^data\.path has no value: give data\.path=\.\.\.$"):
        load_config(["data=custom"], None)


@pytest.mark.parametrize("override", ["seed", "=1", "seed=[1", "data.path=a'b", "model=null"])
def test_what_is_no_override_is_quoted_back(override: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config([override], None)
    assert override in str(error.value) or override.partition("=")[0] in str(error.value)
    assert "\n" not in str(error.value)


# Types and ranges


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "one"),
        ("seed", 1.5),
        ("seed", True),
        ("seed", None),
        ("model.width", "abc"),
        ("model.width", 3.5),
        ("training.learning_rate", "fast"),
        ("training.learning_rate", None),
        ("training.context_questions", 5),
        ("training.context_questions", ["a", "b"]),
        ("data.train_groups", "Nigeria"),
        ("data.train_groups", None),
        ("federation.rounds", [1]),
        ("device", None),
        ("model", 3),
    ],
)
def test_a_value_of_the_wrong_type_names_its_key(
    widest: DictConfig, key: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=f"^{key}") as error:
        with_value(widest, key, value)
    assert "\n" not in str(error.value)


def test_a_value_of_the_wrong_type_on_the_command_line() -> None:
    with pytest.raises(ConfigError, match=r"^training\.learning_rate must be a number.*'abc'"):
        load_config(["training.learning_rate=abc"], None)


# Key, what is refused, what is accepted at the very ends.
RANGES: dict[str, tuple[list[Any], list[Any]]] = {
    "data.groups": (["some", "Nigeria", "none", [None], 3], [None, "all", [], ["a", "b"]]),
    "data.distance": (["cosine", ""], ["jensen_shannon", "wasserstein"]),
    "data.num_groups": ([1, 0], [2]),
    "data.num_questions": ([0], [1]),
    "data.respondents": ([0], [1]),
    "data.survey_seed": ([-1], [0]),
    "data.held_out_fraction": ([-0.1, 1.0, math.nan], [0.0, 0.999]),
    "data.unseen_questions": ([-0.1, 1.0, math.nan], [0.0, 0.999]),
    "embedding.width": ([0, 1, 3, -2], [2, 512]),
    "model.width": ([0, -4, 6], [4]),  # of 4 heads
    "model.layers": ([0], [1]),
    "model.heads": ([0, 3], [1, 128]),  # of width 128
    "model.feedforward": ([0], [1]),
    "model.embedder_layers": ([1, 0], [2]),
    "training.learning_rate": ([0.0, -1e-3, math.nan, math.inf], [1e-9, 10.0]),
    "training.warmup": ([-0.1, 1.0, math.nan], [0.0, 0.99]),
    "training.steps_per_round": ([0, -1], [1]),
    "training.groups_at_once": ([0, -1], [1, None]),
    "training.context_questions": ([[], [5], [5, 4], [0, 5], [1, 2, 3], [-5, 5]], [[1, 1]]),
    "training.target_questions": ([[], [5], [5, 4], [0, 5], [1, 2, 3], [-5, 5]], [[1, 1]]),
    "training.scale_floor": ([0.0, -0.1, math.nan], [1e-9]),
    "federation.rounds": ([0, -1], [1]),
    "federation.nodes": ([0, -1], [1, None]),
    "federation.fraction": ([0.0, 1.1, -1.0, math.nan], [0.001, 1.0]),
    "federation.min_groups": ([0, -1], [1, None]),
    "federation.wait_seconds": ([0, -1, math.nan], [0.1]),
    "federation.round_timeout": ([0, -1, math.nan], [0.1]),
    "federation.failed_rounds": ([-1], [0]),
    "federation.max_update_norm": ([0, -1, math.nan], [0.1, None]),
    "federation.checkpoint_every": ([0, -1], [1]),
    "strategy.weighting": (["answers", ""], ["questions", "uniform"]),
    "evaluation.every": ([0, -1], [1]),
    "evaluation.context_questions": ([0, -1], [1]),
    "evaluation.draws": ([0, -1], [1]),
    "evaluation.near_copy": ([0, 1.5], [1, 0.5]),
    "tracking.mode": (["on", "disabled"], ["auto", "online", "offline"]),
    "compare.jobs": ([0], [1, None]),
    "personal.max_experts": ([0, -1], [1]),
    "personal.steps": ([0, -1], [1, None]),
    "personal.learning_rate": ([0.0, math.inf], [1e-3]),
    "seed": ([-1], [0, 2**40]),
    "threads": ([0, -1], [1, None]),
    "precision": (["float16", "double"], ["float32", "float64"]),
}


@pytest.mark.parametrize("key", RANGES)
def test_a_value_out_of_range_names_key_and_value(widest: DictConfig, key: str) -> None:
    refused, accepted = RANGES[key]
    for value in refused:
        with pytest.raises(ConfigError) as error:
            with_value(widest, key, value)
        message = str(error.value)
        # Heads that do not divide the width are told of as a width.
        assert message.startswith((f"{key} must be ", "model.width must be a multiple"))
        assert repr(value) in message or "model.width" in message
    for value in accepted:
        assert dict(leaves(config_dict(with_value(widest, key, value))))[key] == value


def test_every_number_has_a_range(widest: DictConfig) -> None:
    plain = OmegaConf.to_container(widest)
    assert isinstance(plain, dict)
    numbers = {
        key
        for key, value in leaves({str(name): part for name, part in plain.items()})
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    assert numbers <= set(RANGES)


def test_a_value_out_of_range_on_the_command_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^federation\.fraction must be above 0, at most 1.*is 1\.5$"
    ):
        load_config(["federation.fraction=1.5"], None)


@pytest.mark.parametrize("key", ["data.groups", "data.train_groups", "data.held_out_groups"])
def test_a_group_listed_twice_is_named(widest: DictConfig, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} lists 'Egypt' twice$"):
        with_value(widest, key, ["Chad", "Egypt", "India", "Egypt"])


def test_a_label_is_of_one_population() -> None:
    config = load_config(["data.populations=[[North,'North (old)'],[South]]"], None)
    assert config.data.populations == [["North", "North (old)"], ["South"]]
    with pytest.raises(ConfigError, match=r"^data\.populations lists 'North' twice$"):
        load_config(["data.populations=[[North,South],[North]]"], None)


def test_only_globalopinionqa_does_without_a_path() -> None:
    assert load_config(["data=globalopinionqa"], None).data.path is None
    for source in ("custom", "opinionqa"):
        for path in ([], ["data.path=null"]):
            with pytest.raises(ConfigError, match=r"^data\.path has no value: give data\.path"):
                load_config([f"data={source}", *path], None)


def test_all_replaces_a_list_of_groups_and_a_list_replaces_all() -> None:
    opinions = ["data=opinionqa", "data.path=/a.csv"]
    assert "Muslim" in load_config(opinions, None).data.groups
    assert load_config([*opinions, "data.groups=all"], None).data.groups == "all"
    assert load_config(["data.groups=[b,a]"], None).data.groups == ["b", "a"]


def test_a_group_in_both_roles_is_named(widest: DictConfig) -> None:
    trained = copy.deepcopy(widest)
    trained.data.train_groups = ["Chad", "Egypt"]
    with pytest.raises(ConfigError, match=r"'Egypt' is in data.train_groups and in data.held_out"):
        with_value(trained, "data.held_out_groups", ["India", "Egypt"])


# Which override wins


@pytest.mark.parametrize("order", [1, -1])
def test_an_experiment_never_beats_an_explicit_choice(order: int) -> None:
    config = load_config(["experiment=paper", "training=cross_entropy"][::order], None)
    assert config.training.loss == "cross_entropy"
    assert config.training.learning_rate == 1e-3


@pytest.mark.parametrize("order", [1, -1])
def test_an_experiment_never_beats_an_explicit_value(order: int) -> None:
    overrides = ["experiment=paper", "training.learning_rate=0.5", "federation.rounds=7"]
    config = load_config(overrides[::order], None)
    assert (config.training.learning_rate, config.federation.rounds) == (0.5, 7)
    assert config.training.loss == "gaussian"  # the rest is the experiment's


def test_an_experiment_beats_the_defaults() -> None:
    assert load_config(["experiment=quick"], None).federation.rounds == 20
    assert load_config(["experiment=paper"], None).training.learning_rate == 3e-4


def test_no_experiment_sets_a_value() -> None:
    # A value in an experiment file would beat an explicit choice of a file.
    for file in config_directory().glob("experiment/*.yaml"):
        assert set(yaml.safe_load(file.read_text())) == {"defaults"}, file


def test_the_later_of_two_overrides_of_a_key_wins() -> None:
    assert load_config(["seed=1", "threads=1", "seed=2"], None).seed == 2
    assert load_config(["training=paper", "training=jensen_shannon"], None).training.loss == (
        "jensen_shannon"
    )
    assert absolute_overrides(["seed=1", "threads=1", "seed=2"], None) == ["threads=1", "seed=2"]


# Paths


@pytest.mark.parametrize("key", ["data.path", "data.ordinals", "output_dir", "cache_dir", "resume"])
@pytest.mark.parametrize("value", ["runs/a", "./a", "a.csv", "'it is here/a, b'"])
def test_a_relative_path_needs_a_place_to_start_from(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}=.* is a relative path"):
        absolute_overrides([f"{key}={value}"], None)
    (override,) = absolute_overrides([f"{key}={value}"], tmp_path)
    read = OverridesParser.create().parse_override(override)
    assert read.key_or_group == key
    assert read.value() == str(tmp_path / value.strip("'"))


@pytest.mark.parametrize("value", ["2024", "1e3", "true", "007", "1.50"])
def test_a_path_that_reads_like_a_number_is_a_path(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"^output_dir=.* is a relative path"):
        load_config([f"output_dir={value}"], None)
    assert load_config([f"output_dir={value}"], tmp_path).output_dir == str(tmp_path / value)


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    overrides = ["data=custom", f"data.path={tmp_path}/a.csv", "output_dir=/b", "cache_dir=null"]
    config = load_config(overrides, None)
    assert isinstance(config.data, FileData)
    assert (config.data.path, config.output_dir) == (f"{tmp_path}/a.csv", "/b")
    assert config.cache_dir is None
    assert load_config(overrides, Path("/elsewhere")) == config


def test_the_home_directory_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config(["output_dir='~/runs'"], None).output_dir == str(tmp_path / "runs")


def test_absolute_overrides_are_a_fixed_point(tmp_path: Path) -> None:
    overrides = ["output_dir='a b'", "seed=3", "data=custom", "data.path=x.csv"]
    once = absolute_overrides(overrides, tmp_path)
    assert absolute_overrides(once, None) == once
    assert load_config(once, None) == load_config(overrides, tmp_path)


# Quoting

spoken = st.text(st.characters(exclude_characters="\x00\n", exclude_categories=["Cs"]))
hostile = st.text(st.sampled_from("'\"\\,{}[]()$=: #~a"))


@given(spoken | hostile)
@example("a\\'b")
@example("ends in \\")
@example("it's \\\\ here\\\\")
@example("")
def test_quoting_survives_hydras_grammar(text: str) -> None:
    override = f"output_dir={hydra_quote(text)}"
    assert OverridesParser.create().parse_override(override).value() == text


@given(st.lists(spoken | hostile))
def test_overrides_survive_the_one_string_of_a_run_configuration(texts: list[str]) -> None:
    overrides = [f"output_dir={hydra_quote(text)}" for text in texts]
    assert split_overrides(shlex.join(overrides)) == overrides


@pytest.mark.parametrize("name", ["it's {a}, [b]", "back\\slash\\", '"quoted"', "a=b", "日本 🎉"])
def test_a_quoted_path_comes_out_of_composition_as_it_went_in(name: str) -> None:
    assert load_config([f"output_dir={hydra_quote('/' + name)}"], None).output_dir == "/" + name


def test_overrides_that_cannot_be_split_are_quoted_back() -> None:
    with pytest.raises(ConfigError, match="cannot be split"):
        split_overrides("output_dir='a")


# Resuming


@pytest.fixture
def saved_run(tmp_path: Path) -> tuple[Path, list[str]]:
    """A run's folder, with the overrides that it was started with."""
    folder = tmp_path / "run, the 'first'"
    overrides = ["experiment=paper", "seed=5", f"output_dir={hydra_quote(str(folder))}"]
    RunFolder(folder).save_config(load_config(overrides, None), overrides)
    return folder, overrides


def test_resume_joins_the_overrides_of_the_run(saved_run: tuple[Path, list[str]]) -> None:
    folder, overrides = saved_run
    resume = f"resume={hydra_quote(str(folder))}"
    assert absolute_overrides([resume], None) == [*overrides, resume]
    config = load_config([resume], None)
    assert (config.seed, config.training.loss, config.resume) == (5, "gaussian", str(folder))
    relative = f"resume={hydra_quote(folder.name)}"
    assert load_config([relative], folder.parent) == config
    assert changed_on_resume(config, folder / "config.yaml") == []


def test_what_is_given_with_resume_wins_and_is_seen(saved_run: tuple[Path, list[str]]) -> None:
    folder, _ = saved_run
    resume = f"resume={hydra_quote(str(folder))}"
    config = load_config([resume, "training.learning_rate=0.5", "seed=6"], None)
    assert (config.training.learning_rate, config.seed) == (0.5, 6)
    assert changed_on_resume(config, folder / "config.yaml") == [
        "seed: 5 -> 6",
        "training.learning_rate: 0.0003 -> 0.5",
    ]


def test_what_touches_no_number_may_change(saved_run: tuple[Path, list[str]]) -> None:
    folder, _ = saved_run
    free = ["tracking=wandb", "tracking.project=other", "output_dir=/b", "cache_dir=/c"]
    config = load_config([f"resume={hydra_quote(str(folder))}", *free], None)
    assert isinstance(config.tracking, WandbTracking)
    assert changed_on_resume(config, folder / "config.yaml") == []


def test_a_key_that_comes_or_goes_is_a_change(saved_run: tuple[Path, list[str]]) -> None:
    folder, _ = saved_run
    config = load_config([f"resume={hydra_quote(str(folder))}", "training=cross_entropy"], None)
    changed = changed_on_resume(config, folder / "config.yaml")
    assert "training.scale_floor: 0.01 -> None" in changed
    assert "training.loss: 'gaussian' -> 'cross_entropy'" in changed


def test_a_saved_configuration_says_all(saved_run: tuple[Path, list[str]]) -> None:
    folder, overrides = saved_run
    config = load_config(overrides, None)
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved == config_dict(config)
    assert typed_config(OmegaConf.create(saved)) == config
    assert config_dict(replace(config, seed=6)) != saved


# Where it is composed


def test_composing_leaves_an_application_of_hydra_as_it_was() -> None:
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        before = compose("config", overrides=["seed=3"])
        assert load_config(["seed=4"], None).seed == 4
        with pytest.raises(ConfigError):
            load_config(["sead=4"], None)
        assert GlobalHydra.instance().is_initialized()
        assert compose("config", overrides=["seed=3"]) == before
    assert not GlobalHydra.instance().is_initialized()


def test_composing_in_several_threads() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads do come between each other
    try:
        with ThreadPoolExecutor(8) as pool:
            configs = list(pool.map(lambda seed: load_config([f"seed={seed}"], None), range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert [config.seed for config in configs] == list(range(8))


APPLICATION = """
import sys
from concurrent.futures import ThreadPoolExecutor
import hydra
from hydra.core.hydra_config import HydraConfig
from plurallm.config.overrides import config_directory
from plurallm.config.compose import load_config

@hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="config")
def main(config):
    with ThreadPoolExecutor(2) as pool:
        seeds = list(pool.map(lambda n: load_config([f"seed={n}"], None).seed, range(4)))
    print(config.seed, seeds, list(HydraConfig.get().overrides.task))

main()
"""


def run_python(*arguments: str, cwd: Path, path: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(path)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_composing_in_threads_of_a_running_application(tmp_path: Path) -> None:
    printed = run_python("-c", APPLICATION, "seed=7", cwd=tmp_path, path=PROJECT)
    assert printed == "7 [0, 1, 2, 3] ['seed=7']"
    assert list(tmp_path.iterdir()) == []  # Hydra's own folders are off


FIND = """
from plurallm.config.overrides import config_directory
from plurallm.config.compose import load_config
print(config_directory(), load_config(["experiment=paper"], None).training.loss)
"""


def test_a_checkout_finds_its_tree() -> None:
    assert config_directory() == PROJECT / "conf"


def test_an_installed_package_finds_its_tree(tmp_path: Path) -> None:
    # As pyproject.toml lays a wheel out.
    with (PROJECT / "pyproject.toml").open("rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    site = tmp_path / "site-packages"
    for source, target in {**{p: p for p in wheel["packages"]}, **wheel["force-include"]}.items():
        if (PROJECT / source).is_dir():
            shutil.copytree(PROJECT / source, site / target, dirs_exist_ok=True)
        else:
            shutil.copy2(PROJECT / source, site / target)
    printed = run_python("-c", FIND, cwd=tmp_path, path=site)
    assert printed == f"{site / 'plurallm' / 'conf'} gaussian"


@pytest.mark.slow
def test_a_built_wheel_finds_its_tree(tmp_path: Path) -> None:
    # Fetches the build backend: needs a network.
    run_python(
        *("-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(PROJECT)),
        cwd=tmp_path,
        path=tmp_path,
    )
    (wheel,) = tmp_path.glob("plurallm-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        pinned = archive.getinfo("plurallm/deploy/pinned/flwr-clientapp")
    assert pinned.external_attr >> 16 & 0o100  # a command that Flower starts
    assert (tmp_path / "site/plurallm/pyproject.toml").is_file()
    packed = sorted(path.name for path in (tmp_path / "site/plurallm/conf").rglob("*.yaml"))
    assert packed == sorted(path.name for path in (PROJECT / "conf").rglob("*.yaml"))
    for template in (PROJECT / "plurallm").rglob("*.j2"):
        assert (tmp_path / "site" / template.relative_to(PROJECT)).is_file()
    printed = run_python("-c", FIND, cwd=tmp_path, path=tmp_path / "site")
    assert printed == f"{tmp_path / 'site/plurallm/conf'} gaussian"


def test_without_a_home_folder_the_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)  # a user of a container whom nobody has named
    config = load_config([], None)
    for folder, key in ((cache_directory, "cache_dir"), (state_directory, "state_dir")):
        with pytest.raises(ConfigError, match=rf"no home folder.*give {key}=\.\.\., or set HOME"):
            folder(config)
    with pytest.raises(ConfigError, match=r"output_dir=~/run: .*without ~"):
        load_config(["output_dir='~/run'"], None)
