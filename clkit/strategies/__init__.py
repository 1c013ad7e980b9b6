"""Strategies limit what a model forgets. `base.py` is the contract; each other file is one strategy."""
