"""Frames of pandas as numbers, and numbers as frames: kinds of columns, levels, names."""
