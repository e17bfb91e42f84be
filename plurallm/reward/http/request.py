"""From requests to what the reward model takes, within limits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from plurallm.data.context import AnsweredQuestion, Context, Group
from plurallm.reward import Item, PreferenceRewardModel, Query, Scorer
from plurallm.reward.http import openapi as schema


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes
    ----------
    max_items : int
        Queries or items.
    max_options : int
        Options to predict, times the groups they are predicted for.
    max_contexts : int
        Different contexts that the request brings along: each is encoded by itself.
    max_context_options : int
        Options of all of them.
    """

    max_items: int
    max_options: int
    max_contexts: int
    max_context_options: int

    def check(self, asked: Sequence[Query | Item], groups: int) -> None:
        """Refuse a request that asks for too much.

        Parameters
        ----------
        asked : sequence of Query or Item
            All of the request.
        groups : int
            Groups that an item without one is scored for.

        Raises
        ------
        ValueError
            Naming the limit.
        """
        if len(asked) > self.max_items:
            raise ValueError(
                f"{len(asked)} items, more than the server's max_items, {self.max_items}"
            )
        options = sum(
            max(1, len(one.options)) * (groups if one.group is None else 1) for one in asked
        )
        if options > self.max_options:
            raise ValueError(
                f"{options} options to predict over all groups, more than the server's "
                f"max_options, {self.max_options}"
            )
        self.check_contexts([one.group for one in asked if isinstance(one.group, tuple)])

    def check_contexts(self, contexts: Sequence[Context]) -> None:
        """Refuse contexts that are too many or too large together; equal ones count once."""
        distinct = set(contexts)
        if len(distinct) > self.max_contexts:
            raise ValueError(
                f"{len(distinct)} contexts, more than the server's max_contexts, "
                f"{self.max_contexts}"
            )
        options = sum(len(a.options) for context in distinct for a in context)
        if options > self.max_context_options:
            raise ValueError(
                f"contexts with {options} options, more than the server's max_context_options, "
                f"{self.max_context_options}"
            )


@contextmanager
def refusing() -> Iterator[None]:
    """Answer a ValueError about what a client sent with a 422 that says why."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(422, reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Say what is wrong and where, without repeating what was sent."""
    reason = str(error)
    if isinstance(error, ValidationError | RequestValidationError):
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    # Half a surrogate pair is a legal JSON string, but no legal UTF-8.
    return reason.encode("utf-8", "replace").decode()


def to_queries(
    queries: Sequence[schema.Query], model: PreferenceRewardModel, limits: Limits
) -> list[Query]:
    """Check and convert the queries of a request.

    Raises
    ------
    ValueError
        Naming the query and what is wrong.
    """
    converted = []
    for number, query in enumerate(queries):
        group = _group(query, f"query {number}")
        if group is None:
            raise ValueError(f"query {number} has neither group nor context")
        model.context_of(group)
        try:
            model.pairs_of(query.question, query.options)
        except ValueError as error:
            raise ValueError(f"query {number}: {error}") from error
        converted.append(Query(query.question, tuple(query.options), group))
    limits.check(converted, 1)
    return converted


def to_items(items: Sequence[schema.Item], scorer: Scorer, limits: Limits) -> list[Item]:
    """Check and convert the items of a request.

    Raises
    ------
    ValueError
        Naming the item and what is wrong.
    """
    converted = []
    for number, item in enumerate(items):
        ordinal = None if item.ordinal is None else tuple(item.ordinal)
        group = _group(item, f"item {number}")
        one = Item(item.completion, item.question, tuple(item.options), group, ordinal)
        try:
            scorer.check(one)
        except ValueError as error:
            raise ValueError(f"item {number}: {error}") from error
        converted.append(one)
    limits.check(converted, len(scorer.groups))
    return converted


def _group(asked: schema.Query | schema.Item, name: str) -> Group | None:
    if asked.context is None:
        return asked.group
    if asked.group is not None:
        raise ValueError(f"{name} has both a group and a context")
    return tuple(
        AnsweredQuestion(answer.question, tuple(answer.options), tuple(answer.shares))
        for answer in asked.context
    )
