"""Choice of an estimator of the bound and its gradient: error, cost, advice."""
