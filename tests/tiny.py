"""Overrides of a run so small that it takes about a second; a file adds what it needs."""

TINY = [
    "data.num_groups=3",
    "data.num_questions=60",
    "embedding.width=32",
    "model.width=16",
    "model.layers=2",
    "model.heads=2",
    "model.feedforward=16",
    "training.context_questions=[5,10]",
    "training.target_questions=[5,10]",
    "evaluation.context_questions=10",
    "personal=none",  # tests of experts ask for them
]
