"""Annealed importance sampling, forward, backward and both."""
