"""Vectors of texts: embedders, and the table of a survey, cached on disk."""

from plurallm.embedding.hashing import hash_texts
from plurallm.embedding.lookup import write_vectors
from plurallm.embedding.pairs import Pair, distinct_pairs, question_pairs
from plurallm.embedding.table import embed_pairs, embedding_table, table_path

__all__ = [
    "Pair",
    "distinct_pairs",
    "embed_pairs",
    "embedding_table",
    "hash_texts",
    "question_pairs",
    "table_path",
    "write_vectors",
]
