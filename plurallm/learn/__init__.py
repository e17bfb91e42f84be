"""The preference transformer and how it learns."""
