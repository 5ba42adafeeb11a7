"""Distributions of latents that torch and Pyro lack."""

from ppl_vae.families.densities.latents.chains import NormalChain
from ppl_vae.families.densities.latents.classes import ScatteredOneHot
from ppl_vae.families.densities.latents.mixtures import BroadcastMixture, EqualNormalMixture
from ppl_vae.families.densities.latents.relaxed import LogConcrete, log_simplex
from ppl_vae.families.densities.latents.simplex import IsometricLogRatio
from ppl_vae.families.densities.latents.sphere import SpherePower, SphereUniform

__all__ = [
    "BroadcastMixture",
    "EqualNormalMixture",
    "IsometricLogRatio",
    "LogConcrete",
    "NormalChain",
    "ScatteredOneHot",
    "SpherePower",
    "SphereUniform",
    "log_simplex",
]
