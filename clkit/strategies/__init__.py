"""Strategies limit what a model forgets. `contract.py` is what each keeps to; clkit's own are in `builtin/`."""
