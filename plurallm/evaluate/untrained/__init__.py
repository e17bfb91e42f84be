"""The baselines, a file each."""
