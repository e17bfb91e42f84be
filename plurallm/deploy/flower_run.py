"""What ``flwr run`` is given, and what of a run can be read while it goes on."""

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import plurallm
from plurallm.config.overrides import config_directory


def copy_app(folder: Path) -> Path:
    """Copy the app into a new folder: Flower walks the whole tree, and refuses some folder names.

    Returns
    -------
    Path
        The folder.
    """
    package = Path(plurallm.__file__).resolve().parent
    packed = package / "pyproject.toml"  # in a wheel; beside the package in a checkout
    no_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, folder / "plurallm", ignore=no_caches)
    shutil.copytree(config_directory(), folder / "conf", dirs_exist_ok=True)
    shutil.copy2(packed if packed.exists() else package.parent / packed.name, folder)
    return folder


def run_config(overrides: Sequence[str]) -> str:
    """TOML of the app's run configuration: one text, for ``shlex.split`` to take apart."""
    # JSON's strings are TOML's, except that TOML wants DEL escaped.
    text = json.dumps(shlex.join(overrides), ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"overrides = {text}\n"


def complete_lines(file: Path) -> list[str]:
    """Give the lines that are written to their end."""
    return file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []


def last_lines(log: Path, count: int = 15) -> str:
    """Give the end of the log, without what only tells that all goes its way."""
    noise = re.compile(r"^\s*$|INFO |Exit Code: |An unhandled exception occ|For more information,")
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join([line for line in lines if not noise.search(line)][-count:])
