"""Predictors without a network: what a trained model has to beat."""
