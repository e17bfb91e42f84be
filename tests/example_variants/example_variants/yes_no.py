"""A reader of polls with yes and no alone."""

from typing import Literal

from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION
from plurallm.data.sources.table_files import CustomData


@dataclass(frozen=True, config=SECTION)
class YesNoData(CustomData):
    """A table with the columns ``claim``, ``group``, ``yes`` and ``no``, numbers of people."""

    source: Literal["yes_no"]

    @classmethod
    def layouts(cls):
        """The one layout; a file may have more columns."""
        from plurallm.data.layout import Layout

        return (Layout("polls of yes and no", ("claim", "group", "yes", "no"), read_yes_no),)


def read_yes_no(survey):
    """Put the rows into a survey."""
    for cells in survey.rows():
        claim, group = cells["claim"], cells["group"]
        position = survey.add_question(claim, claim, ("Yes", "No"), None)
        counts = [float(cells["yes"]), float(cells["no"])]
        shares = survey.shares(group, position, counts, None)
        survey.add_answer(group, position, shares, sum(counts), None)
