"""Rows: those that a run is about, those that it scores, and those that it draws."""
