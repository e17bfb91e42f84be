"""Comparisons on one local survey: arms over seeds, on the same splits and questions."""

from plurallm.compare.arms import BASELINES, KINDS, Arm, read_arm
from plurallm.compare.convergence import ACCOUNTS, SHARE_OF_GAIN, convergence
from plurallm.compare.results import comparison_results
from plurallm.compare.run import ArmsFailedError, run_comparison, tables_config
from plurallm.compare.scores import (
    METRICS,
    cells_over_seeds,
    groups_over_seeds,
    over_seeds,
    plurality_over_seeds,
    read_curve,
    read_lines,
    variants_over_seeds,
)
from plurallm.compare.verdicts import alignment_of, difference, is_oracle, verdicts

__all__ = [
    "ACCOUNTS",
    "BASELINES",
    "KINDS",
    "METRICS",
    "SHARE_OF_GAIN",
    "Arm",
    "ArmsFailedError",
    "alignment_of",
    "cells_over_seeds",
    "comparison_results",
    "convergence",
    "difference",
    "groups_over_seeds",
    "is_oracle",
    "over_seeds",
    "plurality_over_seeds",
    "read_arm",
    "read_curve",
    "read_lines",
    "run_comparison",
    "tables_config",
    "variants_over_seeds",
    "verdicts",
]
