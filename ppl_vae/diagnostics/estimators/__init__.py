"""Which estimator of the bound and its gradient to take: error, cost, advice."""
