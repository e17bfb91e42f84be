"""PluralLLM: federated preference prediction for many groups (arXiv 2503.09925), as a Flower app."""

__version__ = "0.1.0"
