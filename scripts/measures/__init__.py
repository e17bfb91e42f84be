"""What ``scripts/benchmark.py`` measures: data, learning, federation, the full job."""
