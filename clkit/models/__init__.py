"""Models: everything that differs between families. No other room asks which family a model belongs to."""
