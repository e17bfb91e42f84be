"""How updates become a model, one file a kind of rule."""
