"""Any Pyro program as the library sees it: its modules, its traces as log-probabilities per
particle and row.
"""
