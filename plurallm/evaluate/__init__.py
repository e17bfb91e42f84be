"""How good and how plural predictions are."""
