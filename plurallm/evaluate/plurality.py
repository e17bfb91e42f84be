"""Plurality: whether predictions depend on the group, and whether they do so rightly.

Two groups of one role are taken at a time. Each is asked questions that both answered and that
neither shows as context. A predictor that tells groups apart predicts a group better from its own
context than from the other's, and its predictions differ where the answers do. An alignment score
shows neither: a predictor that gives every group the population's mean can have a high one.

Dimension letters: ``N`` compared answers (a group, another one and a question), ``Q`` questions,
``O`` options (padded), ``S`` samples of the bootstrap.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from plurallm.config.randomness import generator
from plurallm.config.schema import Config
from plurallm.data.preferences import Preferences, split_context
from plurallm.data.roles import Roles
from plurallm.data.tasks import GroupTask
from plurallm.evaluate.scores import ROLES, Predictor
from plurallm.learn.divergence import jensen_shannon_distance

LEAST_GAIN = 0.005
"""Predictions tell groups apart when the lower limit of the gain is above it ..."""

LEAST_BETWEEN = 0.25
"""... and they lie at least so far apart, as a share of the distance between the answers."""

DIFFERENT = 0.1
"""Two groups differ on a question where the shares of some option lie so far apart."""

PARTNERS = 3
"""Each group is paired with so many groups after it in its role, in a ring."""

QUESTIONS = 100
"""Most questions drawn for a pair of groups, of the seen ones and of the unseen ones."""

_BRIEF = (1, 20)
"""Partners and questions between two rounds: a hundredth of the whole score's work."""

_SAMPLES = 1000


@dataclass(frozen=True)
class Plurality:
    """How well predictions tell the groups of one cell apart; distances are base 2.

    Attributes
    ----------
    own : float
        Mean alignment of a group's predictions from its own context, in [0, 1].
    swapped : float
        The same from the other group's context.
    gain, low, high : float
        ``own - swapped``, and its 95 % interval by a bootstrap over questions.
    correlation : float
        Of predicted with true differences between two groups' shares, uncentred, in [-1, 1]; 0
        where predictions never differ.
    slope : float
        Predicted difference for each unit of true difference, by least squares.
    between, true_between : float
        Mean distance between the predictions, and between the answers, of two groups.
    assigned : float or None
        Where two groups differ (``DIFFERENT``), how often the prediction from the own context lies
        nearer to a group's answers than the other one, in [0, 1]: 1/2 where predictions do not
        depend on the group. None where no two groups differ.
    pairs, questions : int
        Pairs of groups, and distinct questions, that it comes from.
    tells_apart : bool
        Whether ``low`` is above ``LEAST_GAIN``, ``between`` at least ``LEAST_BETWEEN`` of
        ``true_between``, and ``correlation`` positive: differences of the right sign.
    """

    own: float
    swapped: float
    gain: float
    low: float
    high: float
    correlation: float
    slope: float
    between: float
    true_between: float
    assigned: float | None
    pairs: int
    questions: int
    tells_apart: bool


@dataclass(frozen=True)
class _Pair:
    """Answers of two groups to the same questions, and what is predicted of them."""

    question_Q: Tensor
    true_2QO: Tensor
    own_2QO: Tensor
    swapped_2QO: Tensor


def score_plurality(
    tasks: Mapping[str, GroupTask],
    roles: Roles,
    predictors: Mapping[str, Predictor],
    config: Config,
    brief: bool = False,
    by_name: bool = False,
) -> dict[str, dict[str, Any]]:
    """Score how well predictors tell groups apart, cell by cell.

    Parameters
    ----------
    tasks : mapping of str to GroupTask
        All groups of one survey.
    roles : Roles
        Their roles: groups are compared within a role.
    predictors : mapping of str to Predictor
        Of each group that can be predicted.
    config : Config
        The run's configuration; contexts are those of ``predict_draws``, the first of each.
    brief : bool
        Whether one partner and 20 questions will do, as between two rounds; by default
        ``PARTNERS`` and ``QUESTIONS``.
    by_name : bool
        Whether a predictor knows its group by name, so that what is swapped in is the other
        group's predictor with the other group's context; by default only the context is.

    Returns
    -------
    dict
        A ``Plurality`` as a dictionary, by cell as ``scores.summarize`` names them. A cell
        without two groups that answered the same question is left out.
    """
    partners, questions = _BRIEF if brief else (PARTNERS, QUESTIONS)
    scores = {}
    for role, row in ROLES.items():
        names = [name for name in getattr(roles, role) if name in predictors]
        contexts = {name: _context(tasks[name], config) for name in names}
        pairs = _pairs(names, partners)
        for column in ("seen", "unseen"):
            compared = []
            for first, second in pairs:
                both = (tasks[first], tasks[second])
                drawn = _draw(both, (contexts[first], contexts[second]), column, questions, config)
                if len(drawn[0]):
                    shown = (contexts[first], contexts[second])
                    compared.append(
                        _predict(drawn, shown, (predictors[first], predictors[second]), by_name)
                    )
            if compared:
                draws = generator(config.seed, "plurality", f"{row} {column}")
                scores[f"{row}.{column}_questions"] = asdict(_score(compared, draws))
    return scores


def _pairs(names: Sequence[str], partners: int) -> list[tuple[str, str]]:
    """Pair each with some that follow it, in a ring; no pair twice."""
    count = len(names)
    found = {
        tuple(sorted((first, (first + step) % count)))
        for step in range(1, min(partners, count - 1) + 1)
        for first in range(count)
    }
    return [(names[first], names[second]) for first, second in sorted(found)]


def _context(task: GroupTask, config: Config) -> Preferences:
    draws = generator(config.seed, "evaluation", task.name, 0)
    return split_context(task.seen, config.evaluation.context_questions, draws)[0]


def _draw(
    tasks: tuple[GroupTask, GroupTask],
    contexts: tuple[Preferences, Preferences],
    column: str,
    most: int,
    config: Config,
) -> tuple[Preferences, Preferences]:
    """Draw questions that both groups answered and neither shows."""
    first, second = (getattr(task, column) for task in tasks)
    asked_Q = first.question_Q[torch.isin(first.question_Q, second.question_Q)]
    shown = torch.cat([context.question_Q for context in contexts])
    asked_Q = asked_Q[~torch.isin(asked_Q, shown)]
    draws = generator(config.seed, "plurality", repr((column, *(task.name for task in tasks))))
    asked_Q = asked_Q[torch.randperm(len(asked_Q), generator=draws)[:most]].sort().values
    return (
        first.take(torch.searchsorted(first.question_Q, asked_Q)),
        second.take(torch.searchsorted(second.question_Q, asked_Q)),
    )


def _predict(
    targets: tuple[Preferences, Preferences],
    contexts: tuple[Preferences, Preferences],
    predictors: tuple[Predictor, Predictor],
    by_name: bool,
) -> _Pair:
    asked = [target.without_shares() for target in targets]
    own = [
        predict(context, target).double().cpu()
        for predict, context, target in zip(predictors, contexts, asked, strict=True)
    ]
    if by_name or predictors[0] is predictors[1]:
        swapped = own[::-1]
    else:
        swapped = [
            predict(context, target).double().cpu()
            for predict, context, target in zip(predictors, contexts[::-1], asked, strict=True)
        ]
    true_2QO = torch.stack([target.share_QO.double() for target in targets])
    return _Pair(targets[0].question_Q, true_2QO, torch.stack(own), torch.stack(swapped))


def _score(pairs: Sequence[_Pair], draws: torch.Generator) -> Plurality:
    own_N = torch.cat([1 - jensen_shannon_distance(p.true_2QO, p.own_2QO).flatten() for p in pairs])
    swapped_N = torch.cat(
        [1 - jensen_shannon_distance(p.true_2QO, p.swapped_2QO).flatten() for p in pairs]
    )
    question_N = torch.cat([pair.question_Q.repeat(2) for pair in pairs])
    low, high = _interval(own_N - swapped_N, question_N, draws)
    true = torch.cat([(p.true_2QO[0] - p.true_2QO[1]).flatten() for p in pairs])
    told = torch.cat([(p.own_2QO[0] - p.own_2QO[1]).flatten() for p in pairs])
    both, square, told_square = (true @ told).item(), (true @ true).item(), (told @ told).item()
    between, true_between = (
        torch.cat([jensen_shannon_distance(*part_2QO) for part_2QO in parts]).mean().item()
        for parts in ([p.own_2QO for p in pairs], [p.true_2QO for p in pairs])
    )
    differs_N = torch.cat(
        [((p.true_2QO[0] - p.true_2QO[1]).abs().amax(-1) >= DIFFERENT).repeat(2) for p in pairs]
    )
    nearer_N = ((own_N > swapped_N).double() + (own_N >= swapped_N).double()) / 2
    own, swapped = own_N.mean().item(), swapped_N.mean().item()
    correlation = both / (square * told_square) ** 0.5 if square * told_square > 0 else 0.0
    return Plurality(
        own=own,
        swapped=swapped,
        gain=own - swapped,
        low=low,
        high=high,
        correlation=correlation,
        slope=both / square if square > 0 else 0.0,
        between=between,
        true_between=true_between,
        assigned=nearer_N[differs_N].mean().item() if differs_N.any() else None,
        pairs=len(pairs),
        questions=len(set(question_N.tolist())),
        tells_apart=low > LEAST_GAIN
        and between >= LEAST_BETWEEN * true_between
        and correlation > 0,
    )


def _interval(value_N: Tensor, question_N: Tensor, draws: torch.Generator) -> tuple[float, float]:
    """95 % interval of a mean: whole questions are drawn, whose answers are alike."""
    place_N = torch.unique(question_N, return_inverse=True)[1]
    count_Q = torch.bincount(place_N).double()
    sum_Q = torch.zeros_like(count_Q).index_add_(0, place_N, value_N)
    drawn_SQ = torch.randint(len(count_Q), (_SAMPLES, len(count_Q)), generator=draws)
    mean_S = sum_Q[drawn_SQ].sum(1) / count_Q[drawn_SQ].sum(1)
    low, high = mean_S.quantile(torch.tensor([0.025, 0.975], dtype=mean_S.dtype)).tolist()
    return low, high


def plurality_lines(
    scores: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]
) -> Iterator[str]:
    """Tell the verdict of each cell in a line.

    Parameters
    ----------
    scores : mapping
        What ``score_plurality`` gives.
    names : mapping of str to str
        What to call a cell.
    """
    for cell, score in scores.items():
        verdict = "tells groups apart" if score["tells_apart"] else "does not tell groups apart"
        yield (
            f"{names.get(cell, cell)}: {verdict}. Alignment from the own context "
            f"{score['own']:.4f}, from another group's {score['swapped']:.4f}: gain "
            f"{score['gain']:.4f} (95 % {score['low']:.4f} to {score['high']:.4f}); differences "
            f"between groups: correlation {score['correlation']:.2f}, slope {score['slope']:.2f}, "
            f"distance {score['between']:.3f} of a true {score['true_between']:.3f}."
        )
