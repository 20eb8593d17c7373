"""Where a stage's metrics and samples go."""
