"""The engine: the sequence over tasks, the training of one task, evaluation, and the state for resuming."""
