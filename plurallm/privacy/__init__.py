"""Differential privacy: of a whole group, and of each person in a group."""

from plurallm.privacy.central import PrivacyBudgetError, PrivacyLedger, central_epsilon
from plurallm.privacy.noise import gaussian_delta, gaussian_scale, os_normal
from plurallm.privacy.respondent import check_counts, noise_counts, protect_survey

__all__ = [
    "PrivacyBudgetError",
    "PrivacyLedger",
    "central_epsilon",
    "check_counts",
    "gaussian_delta",
    "gaussian_scale",
    "noise_counts",
    "os_normal",
    "protect_survey",
]
