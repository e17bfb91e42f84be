"""PluralLLM: federated preference prediction for many groups, as a Flower app."""

__version__ = "0.1.0"
