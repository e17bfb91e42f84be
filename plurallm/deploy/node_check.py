"""A node's settings, and whether its survey and machine are good for them.

The check loads torch, which a node that waits does not need: it has a process of its own, which
reads the settings as JSON.
"""

import csv
import io
import json
import shlex
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path


def node_config(folder: Path, options: Namespace) -> dict[str, str | int | float]:
    """Give the node's settings, as Flower hands them to the app."""
    if not all(map(str.strip, options.group)):
        raise ValueError("--group is empty: it must name a group of the survey")
    config: dict[str, str | int | float] = {
        "survey": str(options.survey.resolve()),
        "layout": options.layout,
        "groups": _csv_line(options.group),
        "role": options.role,
        "device": options.device,
        "cache-dir": str(folder / "cache"),
        "state-dir": str(folder / "state"),
        "allow": _csv_line(options.allow),
        "reader": shlex.join(_absolute(options.reader)),
    }
    further = {"threads": options.threads, "epsilon": options.epsilon}
    return config | {name: value for name, value in further.items() if value is not None}


def checked(config_of_node: Mapping[str, object]) -> int:
    """Check the survey; where that fails, say why, and give the script's exit status."""
    try:
        check(config_of_node)
    except (ValueError, OSError) as error:
        print(f"node: {error}", file=sys.stderr)
        return 2
    return 0


def check(config_of_node: Mapping[str, object]) -> None:
    """Read the survey and say what is there; raise what is wrong, or not to be had."""
    # Loads torch, which nothing else here needs.
    from plurallm.config.compose import load_config
    from plurallm.config.device import choose_device
    from plurallm.config.protection import RespondentPrivacy
    from plurallm.data.roles import count_seen, questions_needed
    from plurallm.federate.node.permission import own_config, own_survey
    from plurallm.federate.node.settings import node_settings
    from plurallm.federate.privacy.respondent import check_counts

    settings = node_settings(config_of_node)
    assert settings is not None
    # What a run with the default values would take; the run's own may differ a little.
    config = own_config(load_config(["data=nodes"], None), settings)
    choose_device(config.device)
    survey = own_survey(config, settings)
    if isinstance(config.privacy, RespondentPrivacy):
        check_counts(survey, settings.groups, config.privacy)
    for group, count in count_seen(survey, config).items():
        print(f"{group}: {len(survey.answers[group].question_Q)} questions")
        if count < questions_needed(config):
            print(f"{group}: fewer than the {questions_needed(config)} that runs usually take")
    for reason, count in survey.dropped.items():
        print(f"left out: {count} x {reason}")


def check_apart(config: Mapping[str, object]) -> int:
    """Check the survey in a process of its own, whose torch is gone with it; give its status."""
    command = [sys.executable, "-P", "-m", "plurallm.deploy.node_check"]
    return subprocess.run(command, input=json.dumps(config), text=True, check=False).returncode


def _absolute(reader: Sequence[str]) -> list[str]:
    if not reader:
        return []
    # Loads Hydra, 8 MB for as long as the node waits.
    from plurallm.config.overrides import absolute_overrides

    return absolute_overrides(reader, Path.cwd())


def _csv_line(names: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return line.getvalue()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback
    sys.exit(checked(json.load(sys.stdin)))
