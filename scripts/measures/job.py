"""The full job: load, 100 rounds of 8 groups, an evaluation of 14 groups every 10 rounds."""

import os
from collections.abc import Iterator
from statistics import mean

from measures.bench import Bench, Row, medians, show
from measures.data import load_anew
from measures.federation import run_command
from plurallm.config.compose import load_config
from plurallm.config.schema import Config
from plurallm.data.roles import count_seen
from plurallm.data.tasks import group_tasks, survey_table
from plurallm.learn.draws import draw_round

# Seconds of the published code (github.com/MoSrewa/PluralLLM, arXiv 2503.09925), moved to the CPU
# and otherwise unchanged: on 2 cores of another machine, embedding width 4096, GlobalOpinionQA with
# 2,532 questions, 14 groups.
PUBLISHED = {"load": 107.0, "round": 4.7, "evaluation": 60.0}
PUBLISHED_QUESTIONS = 2532
PUBLISHED_POINTS = 411
"""Options of one step, as the published clients drew them."""

ROUNDS, EVERY = 100, 10

# Each client of the published code draws 9 to 90 context and as many target questions.
SAME_WORK = (
    *("training=paper", "training.context_questions=[9,90]", "training.target_questions=[9,90]"),
    *(f"evaluation.every={EVERY}", "evaluation.draws=1"),
)


def job(bench: Bench) -> Iterator[Row]:
    """The whole command, against the published seconds scaled to the same work."""
    rounds = EVERY if bench.quick else ROUNDS
    config, groups = bench.config, bench.local.roles.groups

    def load() -> None:
        survey = load_anew(config.data)
        count_seen(survey, config)
        group_tasks(survey, groups, config)
        survey_table(survey, config)

    loaded = medians(bench, load)[0]
    threads = str(config.threads or os.cpu_count())
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    overrides = [*bench.overrides, *SAME_WORK, f"federation.rounds={rounds}"]
    run = run_command("in one process", overrides, environment)
    trained, scored = run.total("train"), run.total("evaluate")
    whole_rounds, alone = map(sum, zip(*run.rounds(), strict=True))
    evaluations = rounds / EVERY
    # Loading and evaluation go through all questions, a round draws as many from any survey.
    share = len(bench.survey.questions) / PUBLISHED_QUESTIONS
    published = {
        "load": PUBLISHED["load"] * share,
        "rounds": PUBLISHED["round"] * rounds,
        "evaluations": PUBLISHED["evaluation"] * share * evaluations,
    }
    own = {"load": loaded, "rounds": trained, "evaluations": scored}
    least = {"load": "at least 20", "evaluations": "at least 40"}
    whole = sum(published.values())
    against = f"published: {show(whole)} s"
    yield Row("the whole job", run.seconds, "s", against, whole / run.seconds, "at least 4.5")
    for part, seconds in own.items():
        against = f"published: {show(published[part])} s"
        ratio = published[part] / seconds
        yield Row(f"of it {part}", seconds, "s", against, ratio, least.get(part, ""))
    rest = run.seconds - trained - scored - loaded
    yield Row("of it the rest", rest, "s")
    against = f"training alone: {show(alone)} s"
    ratio = whole_rounds / alone
    yield Row("its rounds but the last", whole_rounds, "s", against, ratio, "at most 1.05")
    points = _points(bench, load_config(overrides, None), rounds)
    against = f"published: {PUBLISHED_POINTS}"
    yield Row("points of a step", points, "", against, points / PUBLISHED_POINTS)
    if run.memory:
        yield Row("peak memory of the process", run.memory, "MB")


def _points(bench: Bench, config: Config, rounds: int) -> float:
    """Mean number of options of a step: what they cost follows from it."""
    tasks = [bench.local.tasks[group] for group in bench.local.roles.train]
    return mean(
        len(draw.point_P)
        for number in range(1, rounds + 1)
        for step in draw_round(tasks, config, number)
        for draw in step
    )
