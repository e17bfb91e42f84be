"""A question to predict, and the prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from plurallm.data.context import Group


@dataclass(frozen=True)
class Query:
    """A question to predict for a group.

    Attributes
    ----------
    question : str
        Its text.
    options : tuple of str
        The answers to choose from.
    group : str or Context
        Who answers.
    """

    question: str
    options: tuple[str, ...]
    group: Group


@dataclass(frozen=True)
class Forecast:
    """Predicted answers of a group to a question.

    Attributes
    ----------
    shares : tuple of float
        Predicted share of each option; they sum to 1.
    spread : tuple of float, optional
        Uncertainty: standard deviation of each true share around the predicted one, as
        cross-validation on the group's own context estimates it (``dispersion``). None for a
        context of a single question.
    """

    shares: tuple[float, ...]
    spread: tuple[float, ...] | None


def make_forecast(mean_O: Tensor, dispersion: float | None) -> Forecast:
    """Turn a question's unnormalised means into shares and their uncertainty.

    Parameters
    ----------
    mean_O : Tensor of shape (O,)
        The network's means, one for each option.
    dispersion : float or None
        ``c`` of ``plurallm.reward.dispersion``.

    Returns
    -------
    Forecast
        The spread is ``sqrt(c p (1 - p))``.
    """
    share_O = mean_O.softmax(-1)
    if dispersion is None:
        return Forecast(tuple(share_O.tolist()), None)
    spread_O = (dispersion * share_O * (1 - share_O)).sqrt()
    return Forecast(tuple(share_O.tolist()), tuple(spread_O.tolist()))


def option_texts(options: Sequence[str]) -> tuple[str, ...]:
    """Give options as a tuple; a text is refused, for its letters would be the options.

    Raises
    ------
    ValueError
        When `options` is one text.
    """
    if isinstance(options, str):
        raise ValueError(
            f"options is the text {options[:60]!r}, not a list of texts: "
            'write ["Yes", "No"], or read a column of JSON with json.loads first'
        )
    return tuple(options)
