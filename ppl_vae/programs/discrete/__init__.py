"""Discrete latents, summed out: those that the model marks, and those that the guide draws."""
