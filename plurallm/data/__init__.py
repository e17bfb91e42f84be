"""Questions and answers: surveys, their readers, roles, tasks and embeddings."""
