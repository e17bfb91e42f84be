"""Differential privacy: of a whole group, and of each person in a group."""
