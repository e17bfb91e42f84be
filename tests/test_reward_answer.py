"""What a policy may write, and nothing else."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plurallm.reward.answer import parse_distribution, parse_option, parse_ranking

OPTIONS = ("Yes", "No", "Don't know: unsure")


@pytest.mark.parametrize(
    "text", ["No", " no\n", "B", "b.", "(B)", "B)", "B: No", "(B) no", "B. NO"]
)
def test_an_option_is_its_text_its_letter_or_both(text):
    assert parse_option(text, OPTIONS) == (0, 1, 0)


@pytest.mark.parametrize("text", ["", "D", "B. Yes", "No, I think", "A B", "Maybe", "2", "é"])
def test_anything_else_is_no_option(text):
    assert parse_option(text, OPTIONS) is None


def test_an_option_that_is_a_letter_means_itself():
    assert parse_option("A", ("B", "A")) == (0, 1)
    assert parse_option("B", ("B", "A")) == (1, 0)


def test_options_that_differ_in_case_only_are_named_by_letter():
    assert parse_option("yes", ("Yes", "yes")) is None
    assert parse_option("B", ("Yes", "yes")) == (0, 1)


@pytest.mark.parametrize(
    "text",
    [
        "[0.2, 0.5, 0.3]",
        '{"Yes": 0.2, "No": 0.5, "Don\'t know: unsure": 0.3}',
        '{"C": 0.3, "A": 0.2, "B": 0.5}',
        "A: 20%\nB: 50%\nC: 30%",
        "Yes: 20 %\n\nDon't know: unsure: 30%\nno = 50%\n",
        "A. Yes: 0.2\nB. No: .5\nC. Don't know: unsure: 0.30",
    ],
)
def test_a_distribution_is_a_list_an_object_or_lines(text):
    assert parse_distribution(text, OPTIONS) == pytest.approx((0.2, 0.5, 0.3))


def test_a_distribution_is_scaled_to_sum_to_one():
    assert parse_distribution("A: 33%\nB: 33%\nC: 33%", OPTIONS) == pytest.approx((1 / 3,) * 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[0.2, 0.5]",
        "[0.2, 0.5, 0.2]",  # sums to 0.9
        "[20, 50, 30]",  # percent only with its sign
        "[-0.2, 0.9, 0.3]",
        "[NaN, 0.5, 0.5]",
        "[1e999, 0, 0]",
        "[true, 0, 0]",
        '["0.2", 0.5, 0.3]',
        "[[0.2, 0.5, 0.3]]",
        "Answer: [0.2, 0.5, 0.3]",
        "[0.2, 0.5, 0.3] I hope.",
        '{"A": 0.2, "B": 0.8}',
        '{"A": 0.2, "Yes": 0.2, "B": 0.6}',
        '{"A": 0.2, "A": 0.2, "B": 0.3, "C": 0.3}',
        '{"A": 0.2, "B": 0.5, "C": 0.3, "D": 0}',
        "A: 20%\nB: 50%\nC: 0.3",
        "A: 20%\nA: 50%\nC: 30%",
        "A: 20%\nB: 50%",
        "A: 20%, B: 50%, C: 30%",
        "A: 1e1%\nB: 60%\nC: 30%",
        ": 20%\nB: 50%\nC: 30%",
        "[" * 10_000,
    ],
)
def test_anything_else_is_no_distribution(text):
    assert parse_distribution(text, OPTIONS) is None


@pytest.mark.parametrize(
    "text",
    [
        "C > A > B",
        "(C)>a>B.",
        '["Don\'t know: unsure", "Yes", "No"]',
        '["C", "A", "B"]',
        "1. Don't know: unsure\n2. Yes\n3. No",
        "C\nA\n\nB",
        "1) C. Don't know: unsure\n2) A\n3) B",
    ],
)
def test_a_ranking_names_every_option_once_best_first(text):
    assert parse_ranking(text, OPTIONS) == (1, 2, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A > B",
        "A > B > B",
        "A > B > C > A",
        "A, B, C",
        "[0, 1, 2]",
        "A > B > D",
        "A\nB",
        "3. A\n1. B\n2. C",  # the lines' order or their numbers'?
        "0. A\n0. B\n9. C",
        "1. A\n2. B\nC",
    ],
)
def test_anything_else_is_no_ranking(text):
    assert parse_ranking(text, OPTIONS) is None


@pytest.mark.parametrize(
    ("text", "options", "places"),
    [
        ("1. Very\n2. Little", ("1. Very", "2. Little"), (0, 1)),
        ("2. Little\n1. Very", ("1. Very", "2. Little"), (1, 0)),
        ("1. 2. Little\n2. 1. Very", ("1. Very", "2. Little"), (1, 0)),
        ("2.5\n1.5", ("1.5", "2.5"), (1, 0)),
        (">50% > <50%", (">50%", "<50%"), (0, 1)),
        ("<50% > >50%", (">50%", "<50%"), (1, 0)),
    ],
)
def test_options_that_look_like_numbering_are_ranked_by_their_text(text, options, places):
    assert parse_ranking(text, options) == places


def test_long_lists_of_options_are_read_in_no_time():
    options = tuple(f"{number} {'x' * 400}" for number in range(2_000))
    begun = time.process_time()
    assert parse_ranking("\n".join("ABCDEFGH" * 250), options) is None
    assert parse_distribution("\n".join(f"a{n}: 0" for n in range(2_000)), options) is None
    assert time.process_time() - begun < 0.5


@given(st.text() | st.text("ABC[]{}:>%=.,0123456789\n \"'", max_size=60))
def test_no_text_breaks_the_parsers(text):
    for parse in (parse_option, parse_distribution, parse_ranking):
        values = parse(text, OPTIONS)
        assert values is None or len(values) == 3
    shares = parse_distribution(text, OPTIONS)
    assert shares is None or (sum(shares) == pytest.approx(1) and min(shares) >= 0)


@pytest.mark.parametrize("text", ["A:" + " " * 200_000 + "x", "=" * 200_000, ">" * 200_000])
def test_hostile_texts_are_read_in_no_time(text):
    for parse in (parse_option, parse_distribution, parse_ranking):
        assert parse(text, OPTIONS) is None


@pytest.mark.parametrize(
    "text",
    ["Don't know", "Don’t know", "don`t  know", "Don\u02bct\u00a0know", "C. Don't know", "(C)"],
)
def test_either_kind_of_quotes_and_spaces_names_an_option(text):
    options = ["Yes", "No", "Don’t know"]
    assert parse_option(text, options) == (0, 0, 1)
    assert parse_ranking(f"{text} > No > Yes", options) == (2, 1, 0)
    shares = json.dumps({text: 0.5, "Yes": 0.5, "No": 0})
    assert parse_distribution(shares, options) == (0.5, 0, 0.5)


def test_forms_that_options_share_name_none_of_them():
    options = ["10²", "102", "x"]
    assert parse_option("10²", options) == (1, 0, 0)
    assert parse_option("102", options) == (0, 1, 0)
    assert parse_option("１０２", options) is None
