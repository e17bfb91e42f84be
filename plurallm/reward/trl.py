"""TRL: a reward function for ``GRPOTrainer`` and ``RLOOTrainer``."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from plurallm.reward.agreement import RAW_MEAN
from plurallm.reward.forecast import option_texts
from plurallm.reward.scorer import Item, Score, Scorer

Completion = str | Sequence[dict[str, Any]]
"""A text, or the messages of a conversation, whose last one counts."""


def trl_reward(scorer: Scorer) -> Callable[..., list[float]]:
    """Make a reward function for ``reward_funcs`` of a TRL trainer.

    The data set has the columns ``question`` and ``options`` (the latter not for ``raw_mean``), and
    may have ``group`` (a name, or nothing for all groups aggregated) and ``ordinal``. Through
    ``log_metric`` it logs the mean reward of each group, ``reward/MEASURE/GROUP``, and the share of
    answers that could be parsed, ``parsed/MEASURE``.

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
        question: Sequence[str] | None = None,
        options: Sequence[Sequence[str]] | None = None,
        group: Sequence[str | None] | None = None,
        ordinal: Sequence[Sequence[float] | None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **others: Any,
    ) -> list[float]:
        if options is None and scorer.measure == RAW_MEAN:
            options = [()] * len(completions)
        if question is None or options is None:
            raise ValueError(
                "the data set needs the columns question and options; beside them there are "
                f"{', '.join(sorted(others)) or 'none'}"
            )
        nothing = [None] * len(completions)
        items = [
            Item(_text(c), q, option_texts(o), g or None, None if scale is None else tuple(scale))
            for c, q, o, g, scale in zip(
                completions, question, options, group or nothing, ordinal or nothing, strict=True
            )
        ]
        scores = scorer.score(items)
        if log_metric is not None and scores:
            log_metric(f"parsed/{scorer.measure}", fmean(score.parsed for score in scores))
            for name, rewards in _by_group(items, scores, scorer.groups).items():
                log_metric(f"reward/{scorer.measure}/{name}", fmean(rewards))
        return [score.reward for score in scores]

    reward.__name__ = f"plurallm_{scorer.measure}"
    return reward


def _by_group(
    items: Sequence[Item], scores: Sequence[Score], everyone: Sequence[str]
) -> dict[str, list[float]]:
    """Rewards of each group; an answer that cannot be parsed counts for all groups of its row."""
    by_group = defaultdict(list)
    for item, score in zip(items, scores, strict=True):
        own = everyone if item.group is None else (str(item.group),)
        for name in own:
            by_group[name].append(score.by_group[name] if score.parsed else score.reward)
    return by_group


def _text(completion: Completion) -> str:
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content")  # None where the message only calls a tool
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())
