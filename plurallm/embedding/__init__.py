"""Vectors of texts: embedders, and the table of a survey, cached on disk."""

from plurallm.embedding.hashing import hash_texts
from plurallm.embedding.pairs import Pair, distinct_pairs
from plurallm.embedding.table import embed_pairs, embedding_table

__all__ = ["Pair", "distinct_pairs", "embed_pairs", "embedding_table", "hash_texts"]
