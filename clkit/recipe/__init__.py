"""Recipes: what is trained, on what, how; loaded from YAML and validated before anything heavy starts."""
