"""Several runs in one table: grids of configurations, objectives, and plain models."""
