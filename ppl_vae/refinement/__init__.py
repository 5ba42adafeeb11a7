"""A posterior for each row, better than the encoder's: by gradients, or by Hamiltonian Monte
Carlo.
"""

from ppl_vae.refinement.guide import RefinedGuide
from ppl_vae.refinement.methods import GradientRefinement, SampledRefinement, refine

__all__ = ["GradientRefinement", "RefinedGuide", "SampledRefinement", "refine"]
