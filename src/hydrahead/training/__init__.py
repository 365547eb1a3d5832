"""Loop, data, optimiser, checkpoints, metrics. Knows nothing of hybrids."""
