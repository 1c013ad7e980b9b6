"""Suites: many runs of recipes, each `clkit train` in a process of its own, and the engines that carry them out."""
