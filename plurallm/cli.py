"""The ``plurallm`` command: each verb a few lines over Hydra.

A verb checks the configuration before it imports what works: a mistake is told at once.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.logging import RichHandler

from plurallm.config.compose import load_config, load_tool_config, without_folder
from plurallm.config.error import ConfigError
from plurallm.config.overrides import absolute_overrides, config_directory, hydra_quote
from plurallm.config.schema import WandbTracking
from plurallm.config.services import ExportConfig, ServeConfig

USAGE = """usage: plurallm VERB [overrides]

verbs:
  train              train a federation in this process, without Ray, and print its result
  embed              embed all texts of a survey into the cache, for the runs that follow
  texts OUT.csv      write all texts of a survey, for vectors of your own (embedding=table)
  compare            compare federated, central and local training with baselines, over seeds
  report FOLDER      print the tables of a run or a comparison, and write its report.html
  check-data FILE    say what is in a survey file, data=custom unless data=... is given; --json
  import FILE OUT    write people's answers (SPSS, Stata, Excel, CSV) as a survey of groups
  import FILE --draft-codebook OUT
                     write a draft of a file's codebook, with what looks suspicious in it
  export RUN FOLDER  write a run's model as a self-contained reward bundle
  predict RUN_OR_BUNDLE --question TEXT --options A B ...
                     print how groups answer a question
  serve BUNDLE       answer HTTP requests with a reward bundle

of a deployment (docs/deployment.md), each with its own --help:
  certificates       make what TLS needs: an authority, and the server's certificate
  server FOLDER      run the operator's server; register, bind, list and unregister nodes
  submit FOLDER      submit a run to the server, and follow it
  node FOLDER        run a data holder's node; make its key; check its survey

Overrides are Hydra's: training.learning_rate=1e-3, data=custom data.path=answers.csv, ...
`plurallm VERB --help` lists the configuration, `-m seed=1,2,3` runs one after the other,
`--config-dir DIR` takes files of your own beside conf/: strategy=mine is DIR/strategy/mine.yaml.
"""


def main() -> None:
    """Run the command line."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        sys.exit(0 if arguments else 2)
    if arguments[0] in PROGRAMS:
        # A program of its own: it stays for months, without what this one has imported.
        program = [sys.executable, "-P", "-m", PROGRAMS[arguments[0]]]
        os.execv(program[0], [*program, *arguments[1:]])
    if arguments[0] in PARSED:
        _report_errors(PARSED[arguments[0]], arguments[1:])
        return
    if arguments[0] in TOOLS:
        _run_tool(arguments[0], arguments[1:])
        return
    if arguments[0] not in VERBS:
        print(f"plurallm: unknown verb {arguments[0]!r}\n\n{USAGE}", end="", file=sys.stderr)
        sys.exit(2)
    verb = VERBS[arguments[0]]
    if arguments[0] == "check-data" and "--json" in arguments:
        verb = check_data_json
        arguments.remove("--json")
    if arguments[0] in PATH_VERBS:
        arguments[1:] = _name_path(arguments[0], arguments[1:])
    folder, arguments[1:] = _config_dir(arguments[1:])
    flags = [argument for argument in arguments[1:] if argument.startswith("-")]
    if not flags:
        _report_errors(verb, arguments[1:], folder)
        return
    # Hydra's own: -m, --help, --cfg job, ... It wants -m before the overrides.
    multirun = [flag for flag in flags if flag in ("-m", "--multirun")]
    rest = [argument for argument in arguments[1:] if argument not in multirun]
    own = [] if folder is None else ["--config-dir", str(folder)]
    sys.argv = [f"plurallm {arguments[0]}", *multirun[:1], *own, *rest]

    def job(_: DictConfig) -> object:
        overrides = [*HydraConfig.get().overrides.task, *_sweep_folder()]
        print(f"\n{' '.join(overrides)}")
        return _report_errors(verb, overrides, folder)

    hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="config")(job)()


def train(overrides: Sequence[str]) -> float:
    """Train in this process, print the result, and give the score that choices are made by."""
    load_config(overrides, None)

    from plurallm.federate.in_process import run_here
    from plurallm.results.report.tables import print_result
    from plurallm.results.run import selection_score

    folder = run_here(overrides)
    print_result(folder)
    print(f"\nThe run's folder: {folder}")
    return selection_score(folder)


def compare(overrides: Sequence[str]) -> None:
    """Run what is missing of a comparison, and report it."""
    config = load_config(overrides, None)
    if config.resume is not None:
        raise ConfigError("a comparison goes on by itself: give its output_dir again, not resume")

    from plurallm.record.run_folder import new_run_folder
    from plurallm.record.wandb_tracker import log_tables
    from plurallm.results.compare.run_comparison import compare_here, tables_config
    from plurallm.results.report.csv_export import tidy
    from plurallm.results.report.figures import pictures
    from plurallm.results.report.report_folder import report_folder

    folder = Path(config.output_dir or new_run_folder(Path.cwd() / "outputs", "compare-"))
    failure = compare_here(overrides, folder)
    results = report_folder(folder)
    if isinstance(config.tracking, WandbTracking):
        own = tables_config(overrides, folder)
        log_tables(own, folder, tidy(results), pictures(results))
    print(f"\nThe comparison's folder: {folder}")
    if failure is not None:
        raise failure


def report(overrides: Sequence[str]) -> None:
    """Print the tables of a run or a comparison, and write its report."""
    folder = load_config(overrides, None).output_dir
    if folder is None or len(overrides) != 1:
        raise ConfigError("plurallm report takes the folder of a run or a comparison, and no more")

    from plurallm.results.report.report_folder import report_folder

    report_folder(Path(folder))
    print(f"\nThe report: {folder}/report.html")


def embed(overrides: Sequence[str]) -> None:
    """Make the embedding table of a survey, and print its size and speed."""
    config = load_config(overrides, None)

    from plurallm.config.directories import cache_directory
    from plurallm.data.embedding.pairs import distinct_pairs
    from plurallm.data.embedding.table import table_path
    from plurallm.data.tasks import load_survey, survey_table

    survey = load_survey(config.data)
    pairs = list(distinct_pairs(survey, config.embedding))
    path = table_path(pairs, config.embedding, cache_directory(config))
    known = path.exists()
    begun = time.monotonic()
    rows, width = survey_table(survey, config).shape
    seconds = time.monotonic() - begun
    speed = "out of the cache" if known else f"{rows / seconds:.0f} texts/s"
    print(f"embedding  {config.embedding.name}, of {len(survey.questions)} questions")
    print(f"texts      {rows}, each a question with one of its options")
    print(f"width      {width}")
    print(f"size       {path.stat().st_size / 1e6:.1f} MB")
    print(f"time       {seconds:.1f} s, {speed}")
    print(f"table      {path}")


def texts(overrides: Sequence[str]) -> None:
    """Write the texts of a survey that embedding=table looks up."""
    from plurallm.data.embedders.lookup import write_texts
    from plurallm.data.embedding.pairs import distinct_pairs
    from plurallm.data.tasks import load_survey

    config = load_config(overrides, None)
    if config.output_dir is None:
        raise ConfigError("plurallm texts takes the CSV file to write: plurallm texts OUT.csv ...")
    out = Path(config.output_dir)
    pairs = list(distinct_pairs(load_survey(config.data), config.embedding))
    write_texts(out, pairs)
    print(f"{len(pairs)} texts, each a question with one of its options: {out}")
    print("their vectors: an .npz file with question, option and vector (docs/embeddings.md)")


def check_data(overrides: Sequence[str]) -> None:
    """Say what is in a survey file."""
    config = load_config(overrides, None)

    from plurallm.data.inspection import print_inspection
    from plurallm.results.report.tables import wide_console

    print_inspection(config, wide_console())


def check_data_json(overrides: Sequence[str]) -> None:
    """Say what is in a survey file, as JSON."""
    config = load_config(overrides, None)

    import json

    from plurallm.data.survey_facts import survey_facts

    print(json.dumps(survey_facts(config), ensure_ascii=False, indent=1))


def export(overrides: Sequence[str]) -> None:
    """Write a run's model as a reward bundle."""
    config = load_tool_config("export", overrides, ExportConfig)

    from plurallm.reward.export import export_bundle

    model = export_bundle(config)
    released = ", ".join(model.groups) or "no group's"
    print(f"The reward bundle: {config.folder}, with the context of {released}")


def predict(arguments: Sequence[str]) -> None:
    """Print how groups answer a question."""
    from plurallm.results.prediction import predict as predict_shares

    predict_shares(arguments)


def import_survey(arguments: Sequence[str]) -> None:
    """Write people's answers as a survey of groups, or a draft of their codebook."""
    from plurallm.data.respondents.importing import import_survey as write_survey

    write_survey(arguments)


def serve(overrides: Sequence[str]) -> None:
    """Answer HTTP requests with a reward bundle until SIGINT or SIGTERM."""
    config = load_tool_config("serve", overrides, ServeConfig)

    from plurallm.reward.http.server import run_server

    run_server(config)


PROGRAMS = {
    "certificates": "plurallm.deploy.certificates",
    "server": "plurallm.deploy.operator",
    "submit": "plurallm.deploy.submit",
    "node": "plurallm.deploy.node",
}
"""Verbs of a deployment: modules that are programs of their own."""

PARSED: dict[str, Callable[[Sequence[str]], None]] = {
    "predict": predict,
    "import": import_survey,
}
"""Verbs that read their own arguments."""

TOOLS: dict[str, tuple[Callable[[Sequence[str]], None], tuple[str, ...]]] = {
    "export": (export, ("run", "folder")),
    "serve": (serve, ("bundle",)),
}
"""Verbs with a file of their own in ``conf/``, and its keys that may stand without a name."""

VERBS: dict[str, Callable[[Sequence[str]], object]] = {
    "train": train,
    "embed": embed,
    "texts": texts,
    "compare": compare,
    "report": report,
    "check-data": check_data,
}

PATH_VERBS = {
    "check-data": ("data.path", ("data=custom",)),
    "report": ("output_dir", ()),
    "texts": ("output_dir", ("embedding=table", "embedding.path=''")),
}
"""Verbs whose first argument is a path: the key that it is the value of, and overrides that go
without saying."""


def _run_tool(name: str, arguments: Sequence[str]) -> None:
    """Run a verb that has a configuration file of its own; its ``--help`` is that file."""
    tool, positional = TOOLS[name]
    if {"-h", "--help"} & set(arguments):
        print((config_directory() / f"{name}.yaml").read_text(encoding="utf-8"), end="")
        return
    # A folder's name may hold an equals sign: those of a comparison's arms do.
    values = [each for each in arguments if "=" not in each or Path(each).exists()]
    if len(values) > len(positional):
        _fail(ValueError(f"{values[-1]!r} is one value too many: see plurallm {name} --help"), 2)
    named = [f"{key}={hydra_quote(value)}" for key, value in zip(positional, values, strict=False)]
    _report_errors(tool, [*named, *(each for each in arguments if each not in values)])


def _name_path(verb: str, arguments: list[str]) -> list[str]:
    """Turn a leading path into an override, and add the choice that goes without saying."""
    key, unsaid = PATH_VERBS[verb]
    if arguments and "=" not in arguments[0] and not arguments[0].startswith("-"):
        arguments = [f"{key}={hydra_quote(arguments[0])}", *arguments[1:]]
    said = {argument.partition("=")[0] for argument in arguments}
    return [*(own for own in unsaid if own.partition("=")[0] not in said), *arguments]


def _config_dir(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Take Hydra's --config-dir out of the arguments: a folder of the user's own files."""
    rest, folder = [], None
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            folder = Path(value if equals else next(words, "")).expanduser().absolute()
        else:
            rest.append(word)
    return folder, rest


def _sweep_folder() -> list[str]:
    """With -m and hydra.sweep.dir=..., where this run's folder is: one for each job."""
    own = HydraConfig.get()
    given = any(text.startswith("hydra.sweep.") for text in own.overrides.hydra)
    if not given or any(text.startswith("output_dir=") for text in own.overrides.task):
        return []
    subdir = str(own.job.num) if own.sweep.subdir == "." else own.sweep.subdir
    return [f"output_dir={hydra_quote(str(Path(own.sweep.dir, subdir).absolute()))}"]


def _report_errors(
    verb: Callable[[Sequence[str]], object],
    overrides: Sequence[str],
    config_dir: Path | None = None,
) -> object:
    """Run a verb; an error that the user can mend becomes one line."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, show_level=False)],
    )
    try:
        if verb in PARSED.values():
            return verb(overrides)
        overrides = absolute_overrides(overrides, Path.cwd())
        if config_dir is not None:
            overrides = absolute_overrides(without_folder(overrides, config_dir), Path.cwd())
        return verb(overrides)
    except (ValueError, OSError) as error:
        _fail(error, 2)
    except RuntimeError as error:
        no_home = "determine home directory" in str(error)  # of a library, by way of pathlib
        _fail(ConfigError(NO_HOME) if no_home else error, 2 if no_home else 1)
    except KeyboardInterrupt:
        print("plurallm: interrupted", file=sys.stderr)
        sys.exit(130)


NO_HOME = (
    "no home folder: HOME is not set, and the system does not know this user: set HOME to a folder "
    "that can be written"
)


def _fail(error: Exception, status: int) -> NoReturn:
    logging.getLogger("plurallm").debug("failed", exc_info=error)
    print(f"plurallm: {error}", file=sys.stderr)
    sys.exit(status)
