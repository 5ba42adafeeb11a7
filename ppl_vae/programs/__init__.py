"""Any Pyro program: its modules, and its traces as log-probabilities per particle and row."""
