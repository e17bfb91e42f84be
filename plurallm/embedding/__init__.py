"""Vectors of texts: embedders, and the table of a survey, cached on disk."""

from plurallm.embedding.hashing import Pair, hash_texts
from plurallm.embedding.table import distinct_pairs, embedding_table

__all__ = ["Pair", "distinct_pairs", "embedding_table", "hash_texts"]
