"""veRL: ``reward.custom_reward_function.path=.../plurallm/reward/verl.py``.

``reward_kwargs`` names the bundle and may set what a ``Scorer`` takes::

    +reward.custom_reward_function.reward_kwargs.bundle=/path/to/bundle
    +reward.custom_reward_function.reward_kwargs.measure=kendall
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from plurallm.reward import Item, PreferenceRewardModel, Scorer
from plurallm.reward.forecast import option_texts


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    bundle: str,
    groups: Sequence[str] | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **settings: Any,
) -> dict[str, float]:
    """Reward one response.

    Parameters
    ----------
    data_source : str
        Not used.
    solution_str : str
        The response.
    ground_truth : object
        Not used.
    extra_info : mapping
        Of the data row: ``question``, ``options``, and optionally ``group`` and ``ordinal``.
    bundle : str
        Folder or repository of the reward model; loaded once a process.
    groups : sequence of str, optional
        Of the ``Scorer``.
    reward_router_address, reward_model_tokenizer : object
        Not used; veRL's reward loops pass them.
    **settings
        Others of the ``Scorer``: ``measure``, ``over_groups``, ``alpha``, ``unparsable``.

    Returns
    -------
    dict of str to float
        ``score`` and ``parsed`` (0 or 1); veRL wants the same keys for every response.

    Raises
    ------
    ValueError
        When the row has no question or options.
    """
    row = extra_info or {}
    if "question" not in row or "options" not in row:
        raise ValueError(
            f"the row of {data_source!r} needs question and options in extra_info; "
            f"it has {', '.join(row) or 'nothing'}"
        )
    ordinal = row.get("ordinal")
    item = Item(
        solution_str,
        row["question"],
        option_texts(row["options"]),
        row.get("group") or None,
        None if ordinal is None else tuple(ordinal),
    )
    scorer = _scorer(bundle, groups=None if groups is None else tuple(groups), **settings)
    (score,) = scorer.score([item])
    return {"score": score.reward, "parsed": float(score.parsed)}


@lru_cache
def _scorer(bundle: str, **settings: Any) -> Scorer:
    return Scorer(PreferenceRewardModel.from_pretrained(bundle), **settings)
