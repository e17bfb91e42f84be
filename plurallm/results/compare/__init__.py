"""Comparisons on one local survey: arms over seeds, on the same splits and questions."""
