"""Vectors of texts: embedders, and the table of a survey, cached on disk."""
