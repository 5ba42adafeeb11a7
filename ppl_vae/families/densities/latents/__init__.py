"""Distributions of latents that torch and Pyro lack: mixtures, chains, shares, directions."""

from ppl_vae.families.densities.latents.chains import NormalChain
from ppl_vae.families.densities.latents.classes import ScatteredOneHot
from ppl_vae.families.densities.latents.mixtures import BroadcastMixture, EqualNormalMixture
from ppl_vae.families.densities.latents.simplex import IsometricLogRatio
from ppl_vae.families.densities.latents.sphere import SpherePower, SphereUniform

__all__ = [
    "BroadcastMixture",
    "EqualNormalMixture",
    "IsometricLogRatio",
    "NormalChain",
    "ScatteredOneHot",
    "SpherePower",
    "SphereUniform",
]
