"""Denoising: the posterior of clean rows given noisy ones."""

from ppl_vae.tasks.denoising.clean_rows import Denoised, denoise
from ppl_vae.tasks.denoising.noise import (
    Dropout,
    GaussianNoise,
    Noise,
    PoissonNoise,
    SaltAndPepper,
)
from ppl_vae.tasks.denoising.plot import plot_denoised

__all__ = [
    "Denoised",
    "Dropout",
    "GaussianNoise",
    "Noise",
    "PoissonNoise",
    "SaltAndPepper",
    "denoise",
    "plot_denoised",
]
