"""What surrounds any agent: configuration, the run loop, checkpoints, logs, evaluation and figures."""
