"""A data holder's node: its own survey and groups, and what a run may ask of them."""
