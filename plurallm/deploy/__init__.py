"""Verbs of operators and data holders, and what guards the processes that they start."""
