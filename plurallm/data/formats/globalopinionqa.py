"""GlobalOpinionQA's own layout: one row for each question, with the answers of every country.

Known to hold rows without a country, without text or with shares that sum to zero; those are
dropped and counted by reason.
"""

import hashlib
import json
import re
from typing import Any

from plurallm.data.builder import Builder
from plurallm.data.formats.cells import literal, texts
from plurallm.data.identity import label


def read_globalopinionqa(survey: Builder) -> None:
    """Read ``global_opinions.csv``; a question's identity is its text with its options."""
    for cells in survey.rows():
        text = str(cells["question"] or "").strip()
        if not text:
            survey.dropped["row without question text"] += 1
            continue
        selections = _selections(survey, cells["selections"])
        if not selections:
            survey.dropped["row without a country"] += 1
            continue
        options = texts(literal(cells["options"], list, "options"))
        position = survey.add_question(_text_id(text, options), text, options, None)
        for group, values in selections:
            if isinstance(values, list) and values and not any(values):
                survey.dropped["country whose shares sum to zero"] += 1
            elif survey.answer(group, position) is not None:
                survey.dropped["country that already answered the question"] += 1
            else:
                survey.add_answer(group, position, survey.shares(group, position, values, 1.0))


def _selections(survey: Builder, cell: str) -> list[tuple[str, Any]]:
    """Read ``defaultdict(<class 'list'>, {...})``, or the plain dictionary in it."""
    wrapped = re.fullmatch(r"defaultdict\(<class 'list'>, (\{.*\})\)", cell.strip(), re.DOTALL)
    countries = literal(wrapped[1] if wrapped else cell, dict, "selections")
    named = [(label(name), values) for name, values in countries.items()]
    if not all(name for name, _ in named):
        raise survey.refuse("no group: a country without a name")
    return named


def _text_id(text: str, options: tuple[str, ...]) -> str:
    content = json.dumps([text, options], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
