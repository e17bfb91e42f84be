"""TRL: a reward function for ``GRPOTrainer`` and ``RLOOTrainer``."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from plurallm.reward.scorer import Item, Scorer

Completion = str | Sequence[dict[str, Any]]
"""A text, or the messages of a conversation, whose last one counts."""


def trl_reward(scorer: Scorer) -> Callable[..., list[float]]:
    """Make a reward function for ``reward_funcs`` of a TRL trainer.

    The data set has the columns ``question`` and ``options``, and may have ``group`` (a name, or
    nothing for all groups aggregated) and ``ordinal``. Through ``log_metric`` it logs the mean
    reward of each group, ``reward/GROUP``, and the share of answers that could be parsed.

    Parameters
    ----------
    scorer : Scorer
        Measure and aggregation.

    Returns
    -------
    callable
        ``f(completions, question, options, group, ordinal, log_metric, **other columns)``, one
        reward for each completion. Its name, ``plurallm_MEASURE``, is what TRL logs it by.

    Examples
    --------
    >>> GRPOTrainer(policy, reward_funcs=trl_reward(scorer), train_dataset=rows)  # doctest: +SKIP
    """

    def reward(
        completions: Sequence[Completion],
        question: Sequence[str],
        options: Sequence[Sequence[str]],
        group: Sequence[str | None] | None = None,
        ordinal: Sequence[Sequence[float] | None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float]:
        nothing = [None] * len(completions)
        items = [
            Item(_text(c), q, tuple(o), g or None, None if scale is None else tuple(scale))
            for c, q, o, g, scale in zip(
                completions, question, options, group or nothing, ordinal or nothing, strict=True
            )
        ]
        scores = scorer.score(items)
        if log_metric is not None and scores:
            log_metric("reward/parsed", fmean(score.parsed for score in scores))
            by_group = defaultdict(list)
            for item, score in zip(items, scores, strict=True):
                for name in score.by_group or ((item.group,) if item.group else scorer.groups):
                    by_group[name].append(score.by_group.get(str(name), score.reward))
            for name, rewards in by_group.items():
                log_metric(f"reward/{name}", fmean(rewards))
        return [score.reward for score in scores]

    reward.__name__ = f"plurallm_{scorer.measure}"
    return reward


def _text(completion: Completion) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
