"""What a survey is: questions, and how the groups answered them.

Dimension letters: ``N`` questions of the survey, ``Q`` questions of a group, ``O`` options (padded
to the longest list).
"""

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from plurallm.data.identity import question_identity


@dataclass(frozen=True)
class Question:
    """One survey question.

    Attributes
    ----------
    id : str
        Identity of the question, equal wherever the same question is held: the split into seen
        and unseen questions depends on it.
    text : str
        The question as asked.
    options : tuple of str
        The answers to choose from, at least two, all different.
    ordinal : tuple of float, optional
        Position of each option on a scale, where the options have one.
    """

    id: str
    text: str
    options: tuple[str, ...]
    ordinal: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.options, str):
            raise ValueError(
                f"the options of question {self.id!r} are the text {self.options[:60]!r}, not a "
                "list of texts"
            )
        if not self.text.strip():
            raise ValueError(f"question {self.id!r} has no text")
        if len(self.options) < 2:
            raise ValueError(f"question {self.id!r} has fewer than two options")
        if len(set(self.options)) < len(self.options):
            raise ValueError(f"question {self.id!r} lists an option twice")
        if any(not option.strip() for option in self.options):
            raise ValueError(f"question {self.id!r} has an option without text")
        if self.ordinal is not None and len(self.ordinal) != len(self.options):
            raise ValueError(
                f"question {self.id!r} has {len(self.options)} options "
                f"but {len(self.ordinal)} ordinal values"
            )
        if self.ordinal is not None and not _spans(self.ordinal):
            raise ValueError(f"question {self.id!r} has the ordinal values {self.ordinal}")

    @property
    def position(self) -> tuple[float, ...] | None:
        """Place of each option on a scale from 0 to 1; None without ordinal values that differ.

        Examples
        --------
        >>> Question("q", "Safer?", ("Safer", "Less safe", "Neither"), (1, 2, 1.5)).position
        (0.0, 1.0, 0.5)
        """
        if self.ordinal is None or min(self.ordinal) == max(self.ordinal):
            return None
        least, span = min(self.ordinal), max(self.ordinal) - min(self.ordinal)
        return tuple((value - least) / span for value in self.ordinal)


def _spans(values: tuple[float, ...]) -> bool:
    """Whether the values and the distance between them are finite."""
    return bool(np.isfinite(values).all()) and math.isfinite(max(values) - min(values))


@dataclass(frozen=True)
class Answers:
    """How one group answered.

    Attributes
    ----------
    question_Q : ndarray of shape (Q,), int64
        Positions in ``Survey.questions``, strictly increasing.
    share_QO : ndarray of shape (Q, O), float64
        Share of the group that chose each option: in [0, 1], each row sums to 1, zero beyond the
        question's own options.
    respondents_Q : ndarray of shape (Q,), float64, optional
        People behind each row, where the survey says; times the shares they give the counts.
    effective_Q : ndarray of shape (Q,), float64, optional
        Effective number of these people where they are weighted (Kish 1965):
        ``(sum w)^2 / sum w^2``.
    """

    question_Q: npt.NDArray[np.int64]
    share_QO: npt.NDArray[np.float64]
    respondents_Q: npt.NDArray[np.float64] | None = None
    effective_Q: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.share_QO.shape[:1] != self.question_Q.shape or self.share_QO.ndim != 2:
            raise ValueError(
                f"answers to {self.question_Q.shape} questions have shares of shape "
                f"{self.share_QO.shape}"
            )
        if np.any(np.diff(self.question_Q) <= 0):
            raise ValueError("question positions must increase")


@dataclass(frozen=True)
class Survey:
    """Questions and the answers of every group.

    Attributes
    ----------
    source : str
        Where it came from: a path, or the name of a generator.
    questions : tuple of Question
        Distinct questions.
    answers : mapping of str to Answers
        Answers by group name.
    dropped : mapping of str to int
        What was left out, counted by reason; the reason says of what: rows, questions, ...
    layout : str
        How the file is laid out and what the answers in it are, in words.
    joined : mapping of str to tuple of str
        Spellings that were taken for one group, by the group's name.
    doubts : tuple of str
        What is read as it stands and is seldom meant so, with its row and what to do.
    rows : mapping of str to int
        First row of each question in the file, by id; empty where there was none.
    populations : tuple of tuple of str
        Groups that hold the same people: they share a role, unless the configuration lists theirs.
    """

    source: str
    questions: tuple[Question, ...]
    answers: Mapping[str, Answers]
    dropped: Mapping[str, int] = field(default_factory=dict)
    layout: str = ""
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    populations: tuple[tuple[str, ...], ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def from_frame(frame: Any) -> "Survey":
        """Read a pandas or polars frame in our own format: see ``plurallm.data.frames``."""
        from plurallm.data.frames import frame_survey

        return frame_survey(frame)

    @cached_property
    def identities(self) -> tuple[str, ...]:
        """``question_identity`` of each question: equal ones are seen or unseen together."""
        return tuple(
            question_identity(question.text, question.options) for question in self.questions
        )

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Digest of each group's answers and of the questions behind them.

        Equal for equal content, whatever the file's path and the order of its rows. Who knows all
        but a few of a group's answers could guess the rest from it: a data holder's node keeps it.
        """
        digest_N = np.array([_question_digest(question) for question in self.questions], "S32")
        width_N = np.array([len(question.options) for question in self.questions])
        found = {}
        for group, own in self.answers.items():
            digest_Q = digest_N[own.question_Q]
            order_Q = np.argsort(digest_Q)
            real_QO = np.arange(own.share_QO.shape[1]) < width_N[own.question_Q, None]
            share_QO = np.ascontiguousarray(own.share_QO[order_Q])
            digest = hashlib.sha256(digest_Q[order_Q].tobytes())
            digest.update(share_QO[real_QO[order_Q]].tobytes())
            for people_Q in (own.respondents_Q, own.effective_Q):
                if people_Q is not None:
                    digest.update(np.ascontiguousarray(people_Q[order_Q]).tobytes())
            found[group] = digest.hexdigest()[:32]
        return found

    @property
    def fingerprint(self) -> str:
        """Digest of all questions that were answered and of all answers; as ``fingerprints``."""
        content = json.dumps(sorted(self.fingerprints.items()))
        return hashlib.sha256(content.encode()).hexdigest()[:32]


def _question_digest(question: Question) -> bytes:
    content = [question.id, question.text, question.options, question.ordinal]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32].encode()


def drop_questions(survey: Survey, reasons: Mapping[int, str]) -> Survey:
    """Leave questions out of a survey.

    Parameters
    ----------
    survey : Survey
        The whole survey.
    reasons : mapping of int to str
        Why, by position in ``survey.questions``; counted in ``Survey.dropped``.

    Returns
    -------
    Survey
        Without these questions and the answers to them. A group without any answer left stays.
    """
    keep_N = np.array([number not in reasons for number in range(len(survey.questions))], bool)
    questions = tuple(itertools.compress(survey.questions, keep_N))
    widest = max((len(question.options) for question in questions), default=0)
    position_N = keep_N.cumsum() - 1
    answers = {
        group: Answers(
            position_N[own.question_Q[kept_Q]],
            own.share_QO[kept_Q, :widest],
            None if own.respondents_Q is None else own.respondents_Q[kept_Q],
            None if own.effective_Q is None else own.effective_Q[kept_Q],
        )
        for group, own in survey.answers.items()
        for kept_Q in [keep_N[own.question_Q]]
    }
    return replace(
        survey,
        questions=questions,
        answers=answers,
        dropped=dict(Counter(survey.dropped) + Counter(reasons.values())),
    )
