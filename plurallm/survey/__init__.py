"""Surveys: questions, how the groups answered them, and the files that hold both."""

from plurallm.survey.hub import download_globalopinionqa
from plurallm.survey.identity import normal_form, question_identity
from plurallm.survey.non_answers import drop_non_answers
from plurallm.survey.opinionqa import with_ordinals
from plurallm.survey.read import FORMATS, read_survey
from plurallm.survey.table import SurveyError, file_state
from plurallm.survey.types import Answers, Question, Survey, drop_questions

__all__ = [
    "FORMATS",
    "Answers",
    "Question",
    "Survey",
    "SurveyError",
    "download_globalopinionqa",
    "drop_non_answers",
    "drop_questions",
    "file_state",
    "normal_form",
    "question_identity",
    "read_survey",
    "with_ordinals",
]
