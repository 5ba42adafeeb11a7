"""Exact test beds: data, a Pyro model, its exact posterior as a guide, and the exact log p(x)."""

from ppl_vae.beds.bed import Bed, BedGuide, BedModel
from ppl_vae.beds.conjugate import beta_bernoulli, gamma_poisson
from ppl_vae.beds.gaussian import Affine
from ppl_vae.beds.linear import LinearGaussianBed, linear_gaussian, linear_gaussian_at
from ppl_vae.beds.mixture import discrete_mixture, gaussian_mixture
from ppl_vae.beds.rainforth_model import RainforthBed, rainforth

__all__ = [
    "Affine",
    "Bed",
    "BedGuide",
    "BedModel",
    "LinearGaussianBed",
    "RainforthBed",
    "beta_bernoulli",
    "discrete_mixture",
    "gamma_poisson",
    "gaussian_mixture",
    "linear_gaussian",
    "linear_gaussian_at",
    "rainforth",
]
