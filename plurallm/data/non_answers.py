"""Options that are no answers: don't know, refused, no answer, not applicable.

Dimension letters: ``N`` questions of the survey, ``Q`` questions of a group, ``O`` options.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from plurallm.data.identity import normal_form
from plurallm.data.survey import Answers, Question, Survey, drop_questions

_NON_ANSWERS = frozenset(
    normal_form(text)
    for text in """
    dk; don't know; dont know; do not know; d.k.; don't remember; not sure; unsure; uncertain
    don't recall; cannot recall; can't recall; do not remember; don't know enough
    no idea; hard to say; difficult to say
    refused; refusal; refuse; refuses; refused to answer; refuse to answer; refused to say
    declined; declined to answer; decline to answer; decline to state; rf; refusal to answer
    no answer; no response; no reply; not answered; did not answer; no opinion; no reply given
    no answer given; not reported; not provided; undisclosed; question skipped; skip
    skipped on web; web blank; not selected for this question; answer not given
    prefer not to say; prefer not to answer; prefer not to respond; prefer not to disclose
    rather not say; would rather not say; choose not to answer; choose not to say; cannot say
    can't say; can't choose; cannot choose; unable to answer; can't answer; cannot answer
    not applicable; inapplicable; n/a; na; n.a.; nap; does not apply; doesn't apply; inap
    not applicable for other reasons; missing; other missing; not available; not asked; not stated
    question not asked; not asked in survey; system missing; missing value; unanswered
    not ascertained; not determined; no data; nan; none given; null
    unknown; skipped; blank; invalid; multiple answers; multiple answers mail; item nonresponse
    nonresponse; non-response; item non-response; dk ref; dk na; dk-ref; dk-na; dkna
    dkref; ref; iap; idk
    """.replace("\n", ";").split(";")
    if text.strip()
)

_ASIDE = re.compile(
    r"[(\[](?:vol|volunteered|volunteered only|do not read|do not read out|dnr|don't read"
    r"|only if volunteered|evs|spontaneous|not read)\.?[)\]]"
)
_BETWEEN = re.compile(r"\s*(?:/|;|,|\||&|\+| - |\bor\b|\band\b)\s*")
_AROUND = " .:()[]<>*-_"
_CODE = re.compile(r"^-?\d{1,4}\s*[.:)=-]\s*|\s*[(\[=]\s*-?\d{1,4}\s*[)\]]?$")
_WHO = re.compile(r"^(?:i|i'm|i am|i'd|i would)\s+")

REASON = "option that is no answer (data.non_answers=keep keeps it)"


@lru_cache(maxsize=2**14)
def is_non_answer(option: str) -> bool:
    """Tell whether an option says that nothing was answered.

    Examples
    --------
    >>> [is_non_answer(text) for text in ("DK/Refused", "No answer (VOL)", "None", "Neither")]
    [True, True, False, False]
    """
    text = _bare(_ASIDE.sub("", normal_form(option)))
    if text in _NON_ANSWERS:
        return True
    parts = [_bare(part) for part in _BETWEEN.split(text)]
    return len(parts) > 1 and all(part in _NON_ANSWERS for part in parts)


def _bare(text: str) -> str:
    """Without brackets and full stops around it, a code before or behind it, and who says it."""
    text = _CODE.sub("", text.strip(_AROUND)).strip(_AROUND)
    return _WHO.sub("", text)


def non_answers(question: Question) -> list[str]:
    """Options of a question that are no answers."""
    return [option for option in question.options if is_non_answer(option)]


def drop_non_answers(survey: Survey) -> Survey:
    """Leave out options that are no answers; the shares of the others sum to 1.

    Parameters
    ----------
    survey : Survey
        As a file holds it.

    Returns
    -------
    Survey
        Where people are counted, those who answered. What was left out is counted in ``dropped``:
        options, answers of a group that chose nothing else, and questions with fewer than two
        options that are answers.
    """
    keep = [[not is_non_answer(option) for option in q.options] for q in survey.questions]
    if all(map(all, keep)):
        return survey
    widest = max(map(len, keep))
    keep_NO = np.array([own + [False] * (widest - len(own)) for own in keep], bool)
    order_NO = np.argsort(~keep_NO, axis=1, kind="stable")
    kept_NO = np.take_along_axis(keep_NO, order_NO, 1)
    asked_N = keep_NO.sum(1) >= 2
    dropped: Counter[str] = Counter()
    answers = {}
    for group, own in survey.answers.items():
        share_QO = np.zeros((len(own.question_Q), widest))
        share_QO[:, : own.share_QO.shape[1]] = own.share_QO
        share_QO = np.take_along_axis(share_QO, order_NO[own.question_Q], 1)
        share_QO *= kept_NO[own.question_Q]
        whole_Q = share_QO.sum(1)
        answered_Q = whole_Q > 0
        silent = int((~answered_Q & asked_N[own.question_Q]).sum())
        if silent:
            dropped["answer of a group that chose only options that are no answers"] += silent
        # What no option was taken from stays as it is, to the bit.
        share_QO[answered_Q] /= np.where(np.abs(whole_Q - 1) < 1e-12, 1, whole_Q)[answered_Q, None]
        people_Q = own.respondents_Q
        if people_Q is not None:
            people_Q = _counted(people_Q * whole_Q)[answered_Q]
        effective_Q = own.effective_Q
        if effective_Q is not None:
            effective_Q = (effective_Q * whole_Q)[answered_Q]
        answers[group] = Answers(
            own.question_Q[answered_Q], share_QO[answered_Q], people_Q, effective_Q
        )
    questions = tuple(
        _with_options(question, own) if sum(own) >= 2 else question
        for question, own in zip(survey.questions, keep, strict=True)
    )
    dropped[REASON] = sum(
        own.count(False) for own, asked in zip(keep, asked_N, strict=True) if asked
    )
    left = replace(
        survey,
        questions=questions,
        answers=answers,
        dropped=dict(Counter(survey.dropped) + dropped),
    )
    reasons = {
        int(number): "question with fewer than two options that are answers"
        for number in np.flatnonzero(~asked_N)
    }
    return drop_questions(left, reasons)


def _counted(people_Q: np.ndarray) -> np.ndarray:
    """Whole people, where a product of shares is nearly that."""
    whole_Q = people_Q.round()
    return np.where(np.abs(people_Q - whole_Q) < 1e-6 * np.maximum(1, whole_Q), whole_Q, people_Q)


def _with_options(question: Question, keep: Iterable[bool]) -> Question:
    kept = [number for number, own in enumerate(keep) if own]
    ordinal = question.ordinal
    return replace(
        question,
        options=tuple(question.options[number] for number in kept),
        ordinal=None if ordinal is None else tuple(ordinal[number] for number in kept),
    )
