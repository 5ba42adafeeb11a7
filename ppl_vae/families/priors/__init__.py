"""Priors p(z) or p(z given c): one row's latent, without batch shape unless c is given."""

from ppl_vae.families.priors import flows, heavy_tails, hierarchy, mixtures, normal
from ppl_vae.families.priors.flows import *  # noqa: F403
from ppl_vae.families.priors.heavy_tails import *  # noqa: F403
from ppl_vae.families.priors.hierarchy import *  # noqa: F403
from ppl_vae.families.priors.mixtures import *  # noqa: F403
from ppl_vae.families.priors.normal import *  # noqa: F403
from ppl_vae.families.priors.prior import Prior as Prior

__all__: list[str] = []
__all__ += flows.__all__
__all__ += heavy_tails.__all__
__all__ += hierarchy.__all__
__all__ += mixtures.__all__
__all__ += normal.__all__
