"""A better posterior for each row than the encoder's, by gradients or by Hamiltonian Monte Carlo.

Also a prior refitted to the posteriors of all rows.
"""

from ppl_vae.refinement.gradient import GradientRefinement
from ppl_vae.refinement.guide import RefinedGuide
from ppl_vae.refinement.methods import refine
from ppl_vae.refinement.prior import refit_prior
from ppl_vae.refinement.sampled import SampledRefinement

__all__ = ["GradientRefinement", "RefinedGuide", "SampledRefinement", "refine", "refit_prior"]
