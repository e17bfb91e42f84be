"""``plurallm predict``: how groups answer a question, from the shell."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from plurallm.data.context import Context
from plurallm.results.rows import Rows
from plurallm.results.run import Run
from plurallm.reward.forecast import Forecast, Query
from plurallm.reward.model import PreferenceRewardModel


def predict(arguments: Sequence[str]) -> None:
    """Print the predicted shares of a question's options, for each group asked for.

    Parameters
    ----------
    arguments : sequence of str
        Of ``plurallm predict``; ``--help`` lists them.

    Raises
    ------
    ValueError
        For a group that the run or bundle does not know, or a question without two options.
    OSError
        When there is no such run or bundle.
    """
    args = _parser().parse_args(arguments)
    model, groups = _model(args.place, args.group, args.weights)
    who: dict[str, str | Context] = {name: name for name in groups}
    if args.context is not None:
        who[str(args.context)] = model.read_context(args.context)
    if not who:
        raise ValueError(
            f"{args.place} releases no group's context: name one with --context FILE "
            "(a few answered questions of one group)"
        )
    queries = [Query(args.question, tuple(args.options), group) for group in who.values()]
    forecasts = dict(zip(who, model.predict_batch(queries), strict=True))
    if args.json:
        print(json.dumps(_as_json(args.options, forecasts), ensure_ascii=False))
        return
    print(args.question)
    rows = (
        {"group": name, **dict(zip(args.options, forecast.shares, strict=True))}
        for name, forecast in forecasts.items()
    )
    print(repr(Rows(rows)))


def _model(
    place: str, groups: Sequence[str], weights: str
) -> tuple[PreferenceRewardModel, Sequence[str]]:
    """Load a run or a bundle, and say for which groups."""
    if (Path(place) / "overrides.yaml").is_file():
        run = Run(place)
        groups = groups or run.study.roles.groups
        return run.reward_model(groups, weights), groups
    model = PreferenceRewardModel.from_pretrained(place)
    return model, groups or model.groups


def _as_json(options: Sequence[str], forecasts: dict[str, Forecast]) -> list[dict[str, object]]:
    return [
        {
            "group": name,
            "shares": dict(zip(options, forecast.shares, strict=True)),
            "spread": None
            if forecast.spread is None
            else dict(zip(options, forecast.spread, strict=True)),
        }
        for name, forecast in forecasts.items()
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plurallm predict", description="Predict how groups answer a question."
    )
    parser.add_argument("place", metavar="RUN_OR_BUNDLE", help="folder of a run or a reward bundle")
    parser.add_argument("--question", required=True, help="its text")
    parser.add_argument(
        "--options", required=True, nargs="+", metavar="OPTION", help="two or more answers"
    )
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        help="a group of the run's survey, or whose context the bundle holds; give it again for "
        "more (default: all)",
    )
    parser.add_argument(
        "--context",
        type=Path,
        metavar="FILE",
        help="a new group's answered questions, in our own format",
    )
    parser.add_argument(
        "--weights", choices=("last", "best"), default="last", help="of a run (default: last)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with uncertainty")
    return parser
