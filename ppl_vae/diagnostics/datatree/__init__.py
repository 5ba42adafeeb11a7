"""Draws of every site as an ArviZ DataTree."""
