"""Which model is better: paired differences of log p(x), and plain models for comparison."""
