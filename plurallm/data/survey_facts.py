"""What is in a survey, as JSON: the figures of ``plurallm check-data --json``."""

from typing import Any

from plurallm.config.schema import Config
from plurallm.config.surveys import RespondentData
from plurallm.data.inspection import expected_roles
from plurallm.data.respondents.tally import read_respondents, settings_text
from plurallm.data.roles import count_seen, with_populations
from plurallm.data.tasks import data_state, load_survey


def survey_facts(config: Config) -> dict[str, Any]:
    """Read the survey that the configuration names and say what is in it.

    Parameters
    ----------
    config : Config
        With the file as ``data.path``.

    Returns
    -------
    dict
        ``source, layout, fingerprint, groups, questions, left_out, doubts, joined, problem``; of a
        file of persons ``respondents`` too.

    Raises
    ------
    SurveyError
        Naming file, row and reason.
    """
    survey = load_survey(config.data)
    seen = count_seen(survey, config)
    roles, problem = expected_roles(seen, with_populations(survey, config))
    facts: dict[str, Any] = {
        "source": survey.source,
        "layout": survey.layout,
        "fingerprint": survey.fingerprint,
        "groups": {
            name: {"questions": len(own.question_Q), "seen": seen[name], "role": roles[name]}
            for name, own in survey.answers.items()
        },
        "questions": {
            question.id: {
                "text": question.text,
                "options": list(question.options),
                "ordinal": None if question.ordinal is None else list(question.ordinal),
            }
            for question in survey.questions
        },
        "left_out": dict(survey.dropped),
        "doubts": list(survey.doubts),
        "joined": {name: list(own) for name, own in survey.joined.items()},
        "problem": problem,
    }
    if isinstance(config.data, RespondentData):
        _, census = read_respondents(settings_text(config.data), data_state(config.data))
        facts["respondents"] = census.as_json()
    return facts
