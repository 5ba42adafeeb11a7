"""Saved runs: programs as descriptions and weights, and what further rows need."""
