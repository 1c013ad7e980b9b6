"""Tasks: what a model learns one after another; where examples come from and how they become prompts."""
