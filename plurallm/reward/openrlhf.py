"""OpenRLHF: what its remote reward model protocol says, as items and back.

OpenRLHF posts ``{"query": [prompt + response, ...], "prompts": [...], "labels": [...]}`` and reads
``{"rewards": [...], "scores": [...], "extra_logs": {...}}``.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import Any

from plurallm.reward.scorer import Item, Score

# What tokenizers of common models put at the end: <|im_end|>, <turn|>, </s>, <eos>, [EOS], ...
_SPECIAL = re.compile(
    r"(?:<[|｜]?[\w▁-]{1,40}[|｜]>|</s>|<(?:s|eos|bos|pad|unk|end_of_turn)>|\[(?:EOS|BOS|PAD|SEP)\])\Z"
)
_LONGEST_SPECIAL = 44

_QUERY_START = 100
_MOST_CUTS = 50  # places of the query's start in the prompt, such as its examples, that are tried
_MOST_OPTIONS = 100


def read_items(query: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> list[Item]:
    """Read a request.

    Parameters
    ----------
    query : sequence of str
        Prompt and response, with special tokens.
    prompts : sequence of str
        The prompts, without which a response cannot be told. The front of one may be missing in the
        query, where OpenRLHF cuts long ones, but not more than leaves 100 characters; space at both
        ends does not count.
    labels : sequence of str
        From ``label_key`` of the data: JSON objects with ``question``, at most 100 ``options`` and
        optionally ``group`` and ``ordinal``, as ``prompt_rows`` writes them.

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
        items.append(_item(_response(text, prompt, number), label, number))
    return items


def write_reply(scores: Sequence[Score]) -> dict[str, Any]:
    """Write a reply.

    Returns
    -------
    dict
        ``rewards``; ``scores``, the same in [0, 1], by which OpenRLHF filters; ``extra_logs`` with
        ``parsed``, and nothing that some samples lack: OpenRLHF joins them by key.
    """
    rewards = [score.reward for score in scores]
    return {
        "rewards": rewards,
        "scores": [min(max(reward, 0.0), 1.0) for reward in rewards],
        "extra_logs": {"parsed": [float(score.parsed) for score in scores]},
    }


def _response(text: str, prompt: str, number: int) -> str:
    """What follows the prompt, or what is left of it."""
    text, prompt = text.lstrip(), prompt.strip()
    places = re.finditer(f"(?={re.escape(text[:_QUERY_START])})", prompt)
    cuts = (place.start() for place in islice(places, _MOST_CUTS))
    for cut in chain([0], cuts):
        if text.startswith(prompt[cut:]):
            return text[len(prompt) - cut :].lstrip()
    raise ValueError(f"query {number} does not start with its prompt, nor with the end of it")


def _item(response: str, label: str, number: int) -> Item:
    try:
        facts = json.loads(label)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"label {number} is not JSON") from error
    if not isinstance(facts, dict) or not {"question", "options"} <= set(facts):
        raise ValueError(f"label {number} is not a JSON object with question and options")
    question, options = facts["question"], facts["options"]
    group, ordinal = facts.get("group"), facts.get("ordinal")
    if not _is_text(question) or not _is_list(options, _is_text):
        raise ValueError(f"label {number}: question is a text, options a list of texts, in Unicode")
    if len(options) > _MOST_OPTIONS:
        raise ValueError(f"label {number} has {len(options)} options, more than {_MOST_OPTIONS}")
    if not (group is None or _is_text(group)):
        raise ValueError(f"label {number}: group is a text, in Unicode")
    if not (ordinal is None or _is_list(ordinal, _is_finite)):
        raise ValueError(f"label {number}: ordinal is a list of finite numbers")
    scale = None if ordinal is None else tuple(map(float, ordinal))
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


def _is_list(value: object, is_one: Callable[[object], bool]) -> bool:
    return isinstance(value, list) and all(map(is_one, value))


def _is_text(value: object) -> bool:
    """Whether it is a text that can be written: JSON may hold half of a surrogate pair."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False
