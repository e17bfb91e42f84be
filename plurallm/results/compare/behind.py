"""The survey and the embedders behind a comparison: one survey for all its arms and seeds."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from plurallm.config.error import ConfigError
from plurallm.data.content import Content, check_embedder, check_format, check_survey, content_dict
from plurallm.data.survey import Survey

_FILE = "content.json"


def keep_content(folder: Path, contents: Mapping[str, Content]) -> None:
    """Write down what a comparison works on, or refuse to go on with something else.

    Parameters
    ----------
    folder : Path
        Of the comparison.
    contents : mapping of str to Content
        By arm, which may have embedders of their own.

    Raises
    ------
    ConfigError
        When the survey, or an arm's embedder, is not what the comparison began with.
    """
    survey = next(iter(contents.values()))
    embedders = {arm: own.embedder for arm, own in contents.items()}
    if (folder / "compare.yaml").exists():
        known = _read(folder)
        check_survey(known, survey.survey, str(folder))
        for arm, embedder in embedders.items():
            if arm in known["embedders"]:
                check_embedder({"embedder": known["embedders"][arm]}, embedder, f"{folder}, {arm}")
        embedders = known["embedders"] | embedders
    folder.mkdir(parents=True, exist_ok=True)
    content = content_dict(replace(survey, probe=[])) | {"embedders": embedders}
    part = folder / f"{_FILE}.part"
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, folder / _FILE)


def check_comparison(folder: Path, survey: Survey) -> None:
    """Refuse a survey that is not the one that a comparison began with.

    A comparison of 0.1.0, which recorded none, is warned of.

    Raises
    ------
    ConfigError
        Naming the groups that differ.
    """
    if of_0_1_0(folder):
        check_format(None, str(folder))
    else:
        check_survey(_read(folder), survey.fingerprints, str(folder))


def of_0_1_0(folder: Path) -> bool:
    """Whether a version made a comparison that did not record what it works on."""
    return (folder / "compare.yaml").exists() and not (folder / _FILE).exists()


def places_now(folder: Path, survey: Survey) -> list[int] | None:
    """Where the questions stand now that 0.1.0 named by their place in the file; else None."""
    if not of_0_1_0(folder):
        return None
    questions = survey.questions
    return sorted(range(len(questions)), key=lambda place: survey.rows.get(questions[place].id, 0))


def _read(folder: Path) -> dict[str, Any]:
    if not (folder / _FILE).exists():
        raise ConfigError(
            f"{folder} is a comparison of plurallm 0.1.0, which drew other unseen questions and "
            "did not record its survey: plurallm report still reads it, but it cannot go on; "
            "compare anew in another folder"
        )
    known: dict[str, Any] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    check_format(known, str(folder))
    return known
