"""One variant of each kind, for the tests and as a pattern."""
