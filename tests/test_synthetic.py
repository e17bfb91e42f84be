"""Tests of the synthetic survey.

Dimension letters: ``G`` groups, ``Q`` questions, ``O`` options, ``I`` options of all questions,
``K`` values, ``F`` text features.
"""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.distance import jensenshannon
from sklearn.feature_extraction.text import HashingVectorizer

from plurallm.data.survey import Survey
from plurallm.data.synthetic import VALUES, generate_survey, group_values

Array = npt.NDArray[np.float64]


def table(survey: Survey) -> tuple[Array, npt.NDArray[np.bool_], Array]:
    """Shares of all groups (NaN where not asked), who was asked what, and uniform shares."""
    width = max(len(question.options) for question in survey.questions)
    share_GQO = np.full((len(survey.answers), len(survey.questions), width), np.nan)
    for share_QO, answers in zip(share_GQO, survey.answers.values(), strict=True):
        share_QO[answers.question_Q] = answers.share_QO
    num_options_Q = np.array([len(question.options) for question in survey.questions])
    uniform_QO = (np.arange(width) < num_options_Q[:, None]) / num_options_Q[:, None]
    return share_GQO, ~np.isnan(share_GQO[..., 0]), uniform_QO


def alignment(predicted: Array, actual: Array) -> float:
    """Mean of 1 - Jensen-Shannon distance, base e."""
    return float(np.mean(1 - jensenshannon(predicted, actual, axis=-1)))


def same(a: Survey, b: Survey, group: str) -> bool:
    return np.array_equal(a.answers[group].question_Q, b.answers[group].question_Q) and (
        np.array_equal(a.answers[group].share_QO, b.answers[group].share_QO)
    )


def test_same_arguments_give_the_same_survey() -> None:
    a, b = generate_survey(seed=3), generate_survey(seed=3)
    assert a.source == b.source
    assert a.questions == b.questions
    assert list(a.answers) == list(b.answers)
    assert all(same(a, b, group) for group in a.answers)


def test_seed_decides_questions_answers_and_values() -> None:
    a, b = generate_survey(seed=0), generate_survey(seed=1)
    assert a.questions != b.questions
    assert not any(same(a, b, group) for group in a.answers)
    assert not np.any(group_values(14, 0) == group_values(14, 1))


def test_names_and_ids_do_not_depend_on_the_seed() -> None:
    a, b = generate_survey(seed=0, num_questions=2000), generate_survey(seed=1, num_questions=2000)
    assert list(a.answers) == list(b.answers)
    asked_a, asked_b = ({q.id: q for q in survey.questions} for survey in (a, b))
    shared = asked_a.keys() & asked_b.keys()
    assert len(shared) > 500
    assert all(asked_a[id] == asked_b[id] for id in shared)


def test_more_groups_keep_the_first() -> None:
    few, many = generate_survey(num_groups=3), generate_survey(num_groups=30)
    assert few.questions == many.questions
    assert list(few.answers) == list(many.answers)[:3]
    assert all(same(few, many, group) for group in few.answers)
    np.testing.assert_array_equal(group_values(3), group_values(30)[:3])


def test_every_group_has_a_name_of_its_own() -> None:
    names = list(generate_survey(num_groups=2500, num_questions=2).answers)
    assert len(names) == 2500
    assert all(name.isalpha() and name.istitle() for name in names)


@pytest.mark.parametrize(
    ("num_groups", "num_questions", "respondents"),
    [(2, 1, 600), (2, 20, 1), (14, 400, 600), (300, 60, 7), (3, 3000, 10**6)],
)
def test_shares_are_distributions_over_the_questions_options(
    num_groups: int, num_questions: int, respondents: int
) -> None:
    survey = generate_survey(num_groups, num_questions, respondents)
    assert len(survey.answers) == num_groups
    assert len(survey.questions) == num_questions
    num_options_Q = np.array([len(question.options) for question in survey.questions])
    for answers in survey.answers.values():
        assert answers.question_Q.dtype == np.int64
        assert answers.share_QO.dtype == np.float64
        assert answers.share_QO.shape == (len(answers.question_Q), num_options_Q.max())
        assert answers.share_QO.min() >= 0
        np.testing.assert_allclose(answers.share_QO.sum(axis=1), 1, rtol=0, atol=1e-12)
        padding_QO = np.arange(num_options_Q.max()) >= num_options_Q[answers.question_Q][:, None]
        assert not answers.share_QO[padding_QO].any()


def test_a_single_respondent_chooses_one_option() -> None:
    for answers in generate_survey(respondents=1).answers.values():
        assert np.array_equal(answers.share_QO.max(axis=1), np.ones(len(answers.question_Q)))


@pytest.mark.parametrize("num_groups", [2, 14])
@pytest.mark.parametrize("num_questions", [20, 400])
@pytest.mark.parametrize("seed", range(10))
def test_groups_were_asked_a_part_and_together_everything(
    num_groups: int, num_questions: int, seed: int
) -> None:
    _, asked_GQ, _ = table(generate_survey(num_groups, num_questions, seed=seed))
    assert np.all((asked_GQ.mean(axis=1) >= 0.55) & (asked_GQ.mean(axis=1) <= 0.85))
    assert np.all(asked_GQ.any(axis=0))


def test_questions_are_distinct_and_of_many_formats() -> None:
    questions = generate_survey(num_groups=2, num_questions=3260).questions
    assert len({question.id for question in questions}) == 3260
    assert len({question.text for question in questions}) == 3260
    assert {len(question.options) for question in questions} == {2, 3, 4, 5, 6}
    assert all(text == text.strip() and text[0].isupper() for q in questions for text in q.options)
    assert not any(mark in q.text + "".join(q.options) for q in questions for mark in "{}|;")
    scales = [question for question in questions if question.ordinal is not None]
    assert 0.3 < len(scales) / 3260 < 0.9
    for question in scales:
        assert question.ordinal == tuple(range(len(question.options), 0, -1))
        assert not {"Don't know", "Cannot say", "None of them"} & set(question.options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_groups", 1),
        ("num_questions", 0),
        ("num_questions", 3261),
        ("respondents", 0),
        ("seed", -1),
    ],
)
def test_an_argument_out_of_range_is_named(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} must lie between .* not {value}$"):
        generate_survey(**{name: value})


@pytest.mark.parametrize("seed", range(4))
def test_difficulty_is_that_of_a_real_survey(seed: int) -> None:
    share_GQO, asked_GQ, uniform_QO = table(generate_survey(seed=seed))
    large_GQO, _, _ = table(generate_survey(respondents=10**6, seed=seed))
    total_QO, count_Q = np.nansum(share_GQO, axis=0), asked_GQ.sum(axis=0)
    usable_GQ = asked_GQ & (count_Q > 1)
    others_GQO = (total_QO - share_GQO)[usable_GQ] / (count_Q - 1)[np.nonzero(usable_GQ)[1], None]
    uniform_GQO = np.broadcast_to(uniform_QO, share_GQO.shape)
    assert 0.60 < alignment(uniform_GQO[asked_GQ], share_GQO[asked_GQ]) < 0.75
    assert 0.80 < alignment(others_GQO, share_GQO[usable_GQ]) < 0.86
    assert alignment(large_GQO[asked_GQ], share_GQO[asked_GQ]) > 0.95


def test_groups_differ_more_than_chance_and_as_their_values_do() -> None:
    share_GQO, asked_GQ, _ = table(generate_survey(num_groups=80, num_questions=100))
    value_GK = np.column_stack([np.ones(80), group_values(80)])
    chance, spread, unexplained = 0.0, 0.0, 0.0
    for q in range(100):
        known = asked_GQ[:, q] & (np.arange(80) % 4 > 0)
        new = asked_GQ[:, q] & (np.arange(80) % 4 == 0)
        line_KO, *_ = np.linalg.lstsq(value_GK[known], share_GQO[known, q])
        mean_O = share_GQO[known, q].mean(axis=0)
        chance += np.sum(mean_O * (1 - mean_O) / 300)  # the smallest sample there is
        spread += np.mean(np.sum((share_GQO[new, q] - mean_O) ** 2, axis=1))
        residual_GO = share_GQO[new, q] - value_GK[new] @ line_KO
        unexplained += np.mean(np.sum(residual_GO**2, axis=1))
    assert value_GK.shape == (80, 1 + len(VALUES))
    assert spread > 10 * chance
    assert unexplained < 0.35 * spread


def test_who_supports_something_opposes_its_opposite() -> None:
    survey = generate_survey(num_groups=40, num_questions=3260, seed=1)
    share_GQO, _, _ = table(survey)
    support = {
        question.text: share_GQO[:, q, 0] + share_GQO[:, q, 1]
        for q, question in enumerate(survey.questions)
        if question.options[0] == "Strongly support"
    }
    correlations = []
    for question in survey.questions:
        if question.text.startswith("Which is closer"):
            one, other = (f"Do you support or oppose {o.lower()}?" for o in question.options)
            both_G = np.isfinite(support[one] + support[other])
            correlations.append(np.corrcoef(support[one][both_G], support[other][both_G])[0, 1])
    assert len(correlations) > 50
    assert max(correlations) < -0.5


def test_words_tell_how_an_unseen_question_is_answered() -> None:
    survey = generate_survey()
    share_GQO, _, uniform_QO = table(survey)
    real_QO = uniform_QO > 0
    unseen_Q = np.arange(400) % 10 == 0
    question_I = np.nonzero(real_QO)[0]
    hashing = HashingVectorizer(n_features=256, ngram_range=(1, 2))
    asked_IF = hashing.transform([survey.questions[q].text for q in question_I]).toarray()
    option_IF = hashing.transform([o for q in survey.questions for o in q.options]).toarray()
    # Ridge regression on products of a question's and an option's features, in its kernel form.
    kernel_II = (1 + asked_IF @ asked_IF.T) * (0.2 + option_IF @ option_IF.T)
    train_I, test_I = ~unseen_Q[question_I], unseen_Q[question_I]
    surplus_I = (np.nanmean(share_GQO, axis=0) - uniform_QO)[real_QO]
    inner_II = kernel_II[np.ix_(train_I, train_I)] + 0.3 * np.eye(train_I.sum())
    dual_I = np.linalg.solve(inner_II, surplus_I[train_I])
    predicted_QO = np.zeros_like(uniform_QO)
    predicted_QO[real_QO & unseen_Q[:, None]] = kernel_II[np.ix_(test_I, train_I)] @ dual_I
    predicted_QO = np.where(real_QO, np.maximum(uniform_QO + predicted_QO, 0.01), 0)
    actual_QO = np.nanmean(share_GQO, axis=0)[unseen_Q]
    gain = alignment(predicted_QO[unseen_Q], actual_QO) - alignment(uniform_QO[unseen_Q], actual_QO)
    assert gain > 0.04
