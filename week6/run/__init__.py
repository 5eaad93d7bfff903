"""A run from top to bottom: presets, stages, evaluation, report, sweeps, cost."""
