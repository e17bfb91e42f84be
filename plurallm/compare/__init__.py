"""Comparisons on one local survey: arms over seeds, on the same splits and questions."""

from plurallm.compare.arms import BASELINES, KINDS, Arm, read_arm
from plurallm.compare.convergence import ACCOUNTS, SHARE_OF_GAIN, convergence
from plurallm.compare.results import METRICS, comparison_results, over_seeds, verdicts
from plurallm.compare.run import run_comparison

__all__ = [
    "ACCOUNTS",
    "BASELINES",
    "KINDS",
    "METRICS",
    "SHARE_OF_GAIN",
    "Arm",
    "comparison_results",
    "convergence",
    "over_seeds",
    "read_arm",
    "run_comparison",
    "verdicts",
]
