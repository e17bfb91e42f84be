"""OpenRLHF: what its remote reward model protocol says, as items and back.

OpenRLHF posts ``{"query": [prompt + response, ...], "prompts": [...], "labels": [...]}`` and reads
``{"rewards": [...], "scores": [...], "extra_logs": {...}}``.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from plurallm.reward.scorer import Item, Score

# What tokenizers of common models put at the end: <|im_end|>, <|eot_id|>, </s>, <eos>, ...
_SPECIAL = re.compile(r"(?:<\|[\w-]{1,40}\|>|</s>|<s>|<(?:eos|bos|pad|end_of_turn)>)\Z")
_LONGEST_SPECIAL = 44


def read_items(query: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> list[Item]:
    """Read a request.

    Parameters
    ----------
    query : sequence of str
        Prompt and response, with special tokens.
    prompts : sequence of str
        The prompts; where a query does not start with its prompt, it is refused.
    labels : sequence of str
        From ``label_key`` of the data: JSON objects with ``question``, ``options`` and optionally
        ``group`` and ``ordinal``, as ``prompt_rows`` writes them.

    Returns
    -------
    list of Item
        None for empty lists.

    Raises
    ------
    ValueError
        Naming the position and what is wrong.
    """
    if not len(query) == len(prompts) == len(labels):
        raise ValueError(
            f"query, prompts and labels differ in length: {len(query)}, {len(prompts)}, "
            f"{len(labels)}"
        )
    items = []
    for number, (text, prompt, label) in enumerate(zip(query, prompts, labels, strict=True)):
        if not text.startswith(prompt):
            raise ValueError(f"query {number} does not start with its prompt")
        items.append(_item(text[len(prompt) :], label, number))
    return items


def write_reply(scores: Sequence[Score]) -> dict[str, Any]:
    """Write a reply.

    Returns
    -------
    dict
        ``rewards``; ``scores``, the same in [0, 1], by which OpenRLHF filters; ``extra_logs`` with
        ``parsed`` and, where all scores have the same groups, ``reward/GROUP``.
    """
    rewards = [score.reward for score in scores]
    logs = {"parsed": [float(score.parsed) for score in scores]}
    groups = {tuple(score.by_group) for score in scores}
    for group in next(iter(groups)) if len(groups) == 1 else ():
        logs[f"reward/{group}"] = [score.by_group[group] for score in scores]
    return {
        "rewards": rewards,
        "scores": [min(max(reward, 0.0), 1.0) for reward in rewards],
        "extra_logs": logs,
    }


def _item(response: str, label: str, number: int) -> Item:
    try:
        facts = json.loads(label)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"label {number} is not JSON") from error
    if not isinstance(facts, dict) or not {"question", "options"} <= set(facts):
        raise ValueError(f"label {number} is not a JSON object with question and options")
    question, options = facts["question"], facts["options"]
    group, ordinal = facts.get("group"), facts.get("ordinal")
    if not isinstance(question, str) or not _all(str, options):
        raise ValueError(f"label {number}: question is a text, options a list of texts")
    if not (group is None or isinstance(group, str)):
        raise ValueError(f"label {number}: group is a text")
    if not (ordinal is None or _all(int | float, ordinal)):
        raise ValueError(f"label {number}: ordinal is a list of numbers")
    try:
        scale = None if ordinal is None else tuple(map(float, ordinal))
    except OverflowError as error:
        raise ValueError(f"label {number}: ordinal holds a number that is too large") from error
    return Item(_without_ending(response), question, tuple(options), group or None, scale)


def _without_ending(text: str) -> str:
    """Cut special tokens and space off the end."""
    end = len(text)
    while end:
        tail = text[max(0, end - _LONGEST_SPECIAL) : end]
        special = _SPECIAL.search(tail)
        if special is None and not tail[-1].isspace():
            break
        end -= 1 if special is None else len(special[0])
    return text[:end]


def _all(kind: Any, values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, kind) and not isinstance(value, bool) for value in values
    )
