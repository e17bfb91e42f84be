"""Our own layout: one row for each question and group, lists as JSON."""

from plurallm.data.builder import Builder
from plurallm.data.formats.cells import filled, json_list, texts
from plurallm.data.identity import label


def read_custom(survey: Builder) -> None:
    """Read rows with ``shares`` or ``counts``, and ``ordinal`` and ``effective`` if there."""
    for cells in survey.rows():
        kinds = [kind for kind in ("shares", "counts") if filled(cells.get(kind))]
        if len(kinds) != 1:
            raise survey.refuse("exactly one of the columns 'shares' and 'counts' must be filled")
        group = label(cells["group"])
        if not group:
            raise survey.refuse("no group")
        options = texts(json_list(cells["options"], "options"))
        ordinal = json_list(cells["ordinal"], "ordinal") if filled(cells.get("ordinal")) else None
        text = str(cells["question"] or "").strip()
        position = survey.add_question(cells["question_id"], text, options, ordinal)
        values = json_list(cells[kinds[0]], kinds[0])
        total = survey.shares_sum if kinds[0] == "shares" else None
        shares = survey.shares(group, position, values, total)
        people = sum(values) if total is None else None
        effective = cells.get("effective")
        survey.add_answer(group, position, shares, people, effective if filled(effective) else None)
