"""Several runs in one table: grids of configurations, estimators, plain models beside them."""
