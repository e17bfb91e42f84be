"""What is told of runs and comparisons."""
