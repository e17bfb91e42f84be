"""Vectors of texts: embedders, and the table of a survey, cached on disk."""

from plurallm.embedding.fingerprint import embedder_fingerprint
from plurallm.embedding.hashing import hash_texts
from plurallm.embedding.lookup import write_vectors
from plurallm.embedding.pairs import Pair, distinct_pairs, question_pairs
from plurallm.embedding.table import PROBE, embed_pairs, embedding_table, probe_vector, table_path

__all__ = [
    "PROBE",
    "Pair",
    "distinct_pairs",
    "embed_pairs",
    "embedder_fingerprint",
    "embedding_table",
    "hash_texts",
    "probe_vector",
    "question_pairs",
    "table_path",
    "write_vectors",
]
