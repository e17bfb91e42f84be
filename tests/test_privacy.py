"""Both kinds of differential privacy: the books, the noise, and that it is drawn once."""

import json
import logging
import math
import subprocess
import sys

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file
from scipy.stats import kstest, norm

from plurallm.config.compose import load_config
from plurallm.config.error import ConfigError
from plurallm.config.protection import CentralPrivacy, RespondentPrivacy
from plurallm.data.reading import read_survey
from plurallm.data.roles import Roles
from plurallm.data.synthetic import generate_survey
from plurallm.federate.aggregators.choice import make_aggregator
from plurallm.federate.in_process import run_in_process
from plurallm.federate.privacy.ledger import PrivacyBudgetError, PrivacyLedger, central_epsilon
from plurallm.federate.privacy.noise import gaussian_delta, gaussian_scale, os_normal
from plurallm.federate.privacy.respondent import noise_counts, protect_survey
from plurallm.federate.replies import Update
from plurallm.federate.round_report import FederationError
from plurallm.results.report.tables import print_result

ROLES = Roles(train=tuple("abcd"), held_out=(), dropped={})
RUN = [
    *tiny.TINY,
    *("data.num_groups=5", "model.layers=1", "training.steps_per_round=1", "evaluation.every=2"),
    *("federation.rounds=3", "federation.checkpoint_every=1", "threads=1"),
]
CENTRAL = ["personal=none", "privacy=central", "strategy.weighting=uniform"]


def central(z=1.0, norm=1.0, delta=1e-3, budget=None):
    return CentralPrivacy("central", z, norm, delta, budget)


def respondent(epsilon=4.0, delta=1e-6, questions=None, respondents=None):
    return RespondentPrivacy("respondent", epsilon, delta, questions, respondents, False)


def read_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# Noise


def test_noise_from_the_operating_system_is_standard_normal_and_never_the_same():
    draws = os_normal((401, 501))
    assert draws.shape == (401, 501)
    assert kstest(draws.ravel(), "norm").pvalue > 1e-6
    assert abs(np.corrcoef(draws.ravel()[:-1], draws.ravel()[1:])[0, 1]) < 0.02
    assert not np.array_equal(draws, os_normal((401, 501)))
    assert os_normal(()).shape == ()


def test_delta_of_one_release_equals_the_integral_of_its_definition():
    # delta = integral of max(0, p(x) - e^epsilon q(x)) for p = N(1, s^2), q = N(0, s^2)
    x = np.linspace(-40, 40, 2_000_001)
    for scale, epsilon in ((1.0, 1.0), (0.7, 3.0), (4.0, 0.5)):
        excess = norm.pdf(x, 1, scale) - np.exp(epsilon) * norm.pdf(x, 0, scale)
        expected = np.trapezoid(np.maximum(excess, 0), x)
        assert gaussian_delta(scale, epsilon) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-6), (1, 1e-3), (4, 1e-6), (100, 1e-9)])
def test_the_scale_is_the_smallest_that_keeps_the_guarantee(epsilon, delta):
    scale = gaussian_scale(epsilon, delta)
    assert gaussian_delta(scale, epsilon) <= delta
    assert gaussian_delta(scale * (1 - 1e-6), epsilon) > delta


# Central, over groups


def test_epsilon_of_the_accountant_lies_just_above_the_exact_one():
    # Releases with noise z are together one release with noise z / sqrt(their number).
    for z, releases in ((1.0, 1), (1.0, 3), (5.0, 50), (2.0, 100)):
        epsilon = central_epsilon(releases, central(z, delta=1e-5))
        assert gaussian_delta(z / math.sqrt(releases), epsilon) <= 1e-5
        assert gaussian_delta(z / math.sqrt(releases), 0.85 * epsilon) > 1e-5
    assert [round(central_epsilon(n, central()), 2) for n in (0, 1, 2, 3)] == [0, 3.54, 5.42, 7.0]


def noisy_round(tmp_path, monkeypatch, updates, order="abcd", overrides=()):
    """One round of a model of two weights, with noise of one standard deviation everywhere."""
    monkeypatch.setattr("plurallm.federate.aggregators.noisy.os_normal", np.ones)
    config = load_config([*overrides, *CENTRAL, "privacy.clipping_norm=5"], None)
    rule = make_aggregator(config, ROLES, tmp_path)
    rule.begin(list(order), {"w": np.zeros(1), "b": np.zeros(1)})
    for group in order:
        if group in updates:
            w, b = updates[group]
            arrays = {"w": np.array([float(w)]), "b": np.array([float(b)])}
            rule.add(group, Update(arrays, 99, 1.0))
        else:
            rule.skip(group)
    result = rule.finish()
    return (result["w"].item(), result["b"].item()), rule


def test_clipped_noisy_mean_equals_numbers_worked_by_hand(tmp_path, monkeypatch):
    # (6, 8) has norm 10 and becomes (3, 4); (3, 0) stays; zero stays; d brings nothing.
    # Sum (6, 4), noise 5 z, divided by the four that were asked.
    result, rule = noisy_round(tmp_path, monkeypatch, {"a": (6, 8), "b": (3, 0), "c": (0, 0)})
    assert result == pytest.approx(((6 + 5) / 4, (4 + 5) / 4))
    assert rule.report() == {"epsilon": pytest.approx(3.537, abs=1e-3)}


def test_whatever_one_group_sends_the_mean_moves_by_at_most_the_norm(tmp_path, monkeypatch):
    base, _ = noisy_round(tmp_path, monkeypatch, {"a": (1, 1), "b": (2, -1)})
    for number, sent in enumerate([(0, 0), (1e9, -1e9), (4, 3), (-1e-9, 1e-9)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        other, _ = noisy_round(folder, monkeypatch, {"a": (1, 1), "b": (2, -1), "c": sent})
        assert math.dist(base, other) * 4 <= 5 + 1e-9


def test_server_optimisers_work_on_the_noisy_mean(tmp_path, monkeypatch):
    result, rule = noisy_round(
        *(tmp_path, monkeypatch, {"a": (3, 4), "b": (0, 0)}, "ab"),
        overrides=["strategy=fedavgm", "strategy.server_learning_rate=0.5"],
    )
    assert result == pytest.approx(((3 + 5) / 4, (4 + 5) / 4))
    assert "epsilon" in rule.report()


def test_the_ledger_counts_by_group_survives_and_stops_before_it_overspends(tmp_path, caplog):
    path, privacy = tmp_path / "privacy.json", central(budget=5.5)
    ledger = PrivacyLedger(path, privacy)
    with caplog.at_level(logging.INFO, "plurallm"):
        ledger.enter(["a", "b"])
        ledger.enter(["b", "c"])
    assert caplog.messages[-1] == "privacy of groups: epsilon 5.42 at delta 0.001"
    assert json.loads(path.read_text())["releases"] == {"a": 1, "b": 2, "c": 1}
    again = PrivacyLedger(path, privacy)
    assert again.epsilon == ledger.epsilon == central_epsilon(2, privacy)
    again.enter(["a", "c"])
    with pytest.raises(PrivacyBudgetError, match=r"epsilon to 6.999, above privacy.max_epsilon"):
        again.enter(["a"])
    assert json.loads(path.read_text())["releases"] == {"a": 2, "b": 2, "c": 2}


def test_a_private_run_prints_epsilon_each_round_and_no_two_are_equal(tmp_path, caplog, capsys):
    models = []
    for name in ("one", "two"):
        with caplog.at_level(logging.INFO, "plurallm"):
            run_in_process(
                [*RUN, *CENTRAL, f"cache_dir={tmp_path}", f"output_dir={tmp_path / name}"]
            )
        models.append((tmp_path / name / "model/model.safetensors").read_bytes())
    assert models[0] != models[1]
    lines = read_lines(tmp_path / "one")
    spent = [central_epsilon(n, central()) for n in (1, 2, 3)]
    assert [line["strategy"]["epsilon"] for line in lines] == spent
    printed = [line for line in caplog.messages if line.startswith("privacy of groups: epsilon")]
    assert len(printed) == 6
    assert sum("times as long as the longest update" in line for line in caplog.messages) == 6
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary["privacy"] == {"protects": "groups", "epsilon": spent[-1], "delta": 1e-3}
    print_result(tmp_path / "one")
    assert "Privacy of groups: epsilon 6.999 at delta 0.001." in capsys.readouterr().out


def test_a_private_run_whose_last_round_failed_tells_its_epsilon(tmp_path):
    from test_strategy_runs import DiesInRound

    folder = tmp_path / "failed"
    overrides = [*RUN, *CENTRAL, "federation.failed_rounds=1", f"output_dir={folder}"]
    run_in_process([*overrides, f"cache_dir={tmp_path}"], client_app=DiesInRound(3))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["privacy"]["epsilon"] == central_epsilon(2, central())


def test_rounds_that_a_resumed_run_repeats_are_counted_twice(tmp_path):
    from test_strategy_runs import DiesInRound

    folder = tmp_path / "cut"
    every = [*RUN, "federation.checkpoint_every=2", "federation.rounds=4"]
    with pytest.raises(FederationError):
        run_in_process(
            [*every, *CENTRAL, f"cache_dir={tmp_path}", f"output_dir={folder}"],
            client_app=DiesInRound(4),
        )
    run_in_process([f"resume={folder}"])
    releases = json.loads((folder / "privacy.json").read_text())["releases"]
    assert set(releases.values()) == {5}  # rounds 1, 2, 3 and again 3, 4


# Respondent-level


def test_noised_counts_equal_numbers_worked_by_hand():
    mask = np.array([[True, True, False], [True, True, True], [True, True, True], [True] * 3])
    counts = np.array([[30.0, 10, 0], [5, 5, 0], [1, 1, 1], [2, 2, 2]])
    normal = np.array([[0.0, 0, 9], [0, 0, -2], [-9, -9, -9], [6, -1, 2]])
    shares = noise_counts(counts, mask, 1.0, normal)
    np.testing.assert_allclose(shares[0], [0.75, 0.25, 0])  # noise beyond the options is ignored
    # 5, 5, -2 over 8 is 0.625, 0.625, -0.25: nearest valid shares 0.5, 0.5, 0.
    np.testing.assert_allclose(shares[1], [0.5, 0.5, 0])
    np.testing.assert_allclose(shares[2], [1 / 3] * 3)  # nothing is left
    # 8, 1, 4 over 13
    np.testing.assert_allclose(shares[3], np.array([8, 1, 4]) / 13)


def test_shares_are_always_valid_and_nearest():
    draws = np.random.default_rng(0)
    counts = draws.integers(0, 9, (500, 6)).astype(float)
    mask = np.arange(6) < draws.integers(2, 7, 500)[:, None]
    counts[~mask] = 0
    normal = draws.normal(size=counts.shape)
    shares = noise_counts(counts, mask, 3.0, normal)
    assert (shares >= 0).all()
    assert not shares[~mask].any()
    np.testing.assert_allclose(shares.sum(1), 1)
    noised = np.where(mask, counts + 3.0 * normal, 0)
    for row in np.flatnonzero(noised.sum(1) > 1)[:50]:
        target = noised[row] / noised[row].sum()
        for _ in range(50):
            other = np.where(mask[row], draws.exponential(size=6), 0)
            other /= other.sum()
            assert np.square(shares[row] - target).sum() <= np.square(other - target).sum()


def test_noise_is_drawn_once_for_the_same_answers_and_anew_for_others(tmp_path, caplog):
    survey = generate_survey(num_groups=3, num_questions=40)
    groups = list(survey.answers)[:2]

    def protected(source=survey, **given):
        noised = protect_survey(source, groups, respondent(**given), tmp_path)
        assert list(noised.answers) == groups
        return np.concatenate([answers.share_QO.ravel() for answers in noised.answers.values()])

    first = protected()
    assert np.array_equal(first, protected())
    with caplog.at_level(logging.WARNING, "plurallm"):
        other = protected(epsilon=1.0)
    assert not np.array_equal(first, other)
    assert "noised before, 1 times, with other settings or from another survey" in caplog.text
    more = generate_survey(num_groups=3, num_questions=40, respondents=601)
    with caplog.at_level(logging.WARNING, "plurallm"):
        assert not np.array_equal(first, protected(source=more))
    assert "noised before, 2 times" in caplog.text
    assert np.array_equal(first, protected())


def test_the_noise_has_the_scale_of_its_guarantee(tmp_path):
    survey = generate_survey(num_groups=2, num_questions=3000, respondents=10**9)
    group = next(iter(survey.answers))
    answers = survey.answers[group]
    noised = protect_survey(survey, [group], respondent(questions=100), tmp_path).answers[group]
    options_Q = np.array([len(survey.questions[row].options) for row in answers.question_Q])
    off_QO = (noised.share_QO - answers.share_QO) * answers.respondents_Q[:, None]
    # A share is off by its own noise less its part of the sum's: (draw - share * sum of k draws).
    square_Q = options_Q - 2 + options_Q * np.square(answers.share_QO).sum(1)
    found = np.sqrt(np.square(off_QO).sum() / square_Q.sum())
    assert found == pytest.approx(math.sqrt(100) * gaussian_scale(4.0, 1e-6), rel=0.06)


def test_shares_without_counts_need_the_number_of_people(tmp_path, write_survey):
    rows = [
        {"question_id": "q", "question": "Well?", "options": ["yes", "no"], "group": "North"},
        {"question_id": "r", "question": "Why?", "options": ["so", "not so"], "group": "North"},
    ]
    shares = read_survey(write_survey([{**row, "shares": [0.25, 0.75]} for row in rows]), "custom")
    with pytest.raises(ConfigError, match=r"only shares of group 'North'.*privacy.respondents"):
        protect_survey(shares, ["North"], respondent(), tmp_path)
    protect_survey(shares, ["North"], respondent(respondents=100), tmp_path)
    whole = read_survey(write_survey([{**row, "counts": [1, 3]} for row in rows]), "custom")
    assert whole.answers["North"].respondents_Q.tolist() == [4, 4]
    protect_survey(whole, ["North"], respondent(), tmp_path)
    weighted = read_survey(write_survey([{**row, "counts": [1.5, 3]} for row in rows]), "custom")
    with pytest.raises(ConfigError, match="whole counts"):
        protect_survey(weighted, ["North"], respondent(), tmp_path)


def test_processes_that_start_together_share_one_draw(tmp_path):
    script = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from plurallm.federate.privacy.respondent import protect_survey\n"
        "from plurallm.data.synthetic import *\n"
        "from plurallm.config.protection import RespondentPrivacy\n"
        "survey = generate_survey(num_groups=2, num_questions=30)\n"
        "privacy = RespondentPrivacy('respondent', 4.0, 1e-6, None, None, False)\n"
        "noised = protect_survey(survey, ['Avaria'], privacy, Path(sys.argv[1]))\n"
        "print(noised.answers['Avaria'].share_QO.tobytes().hex())\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    printed = [process.communicate()[0] for process in started]
    assert printed[0] == printed[1] != b""


def test_a_run_learns_and_is_scored_from_noised_answers_alone(tmp_path):
    def run(name, *overrides):
        folders = [f"cache_dir={tmp_path}", f"state_dir={tmp_path / 'state'}"]
        run_in_process([*RUN, *folders, f"output_dir={tmp_path / name}", *overrides])
        last = read_lines(tmp_path / name)[-1]
        return last, load_file(tmp_path / name / "model/model.safetensors")

    private = ["privacy=respondent", "privacy.epsilon=0.5"]
    plain, one, again = run("plain"), run("one", *private), run("again", *private)
    assert one[0] == again[0]
    shown = run("shown", *private, "privacy.true_scores=true")
    other = run("elsewhere", *private, f"state_dir={tmp_path / 'other'}")
    assert all(np.array_equal(one[1][name], shown[1][name]) for name in one[1])
    assert one[1]["first.weight"].tobytes() != plain[1]["first.weight"].tobytes()
    cell = "train_groups.seen_questions"
    assert one[0]["cells"][cell]["alignment"] != shown[0]["cells"][cell]["alignment"]
    assert other[0] != one[0]
