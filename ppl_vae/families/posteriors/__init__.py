"""Variational families q(z given x): encoder features in, a distribution over z out."""

from ppl_vae.families.posteriors import flows, normal
from ppl_vae.families.posteriors.flows import *  # noqa: F403
from ppl_vae.families.posteriors.normal import *  # noqa: F403
from ppl_vae.families.posteriors.posterior import FLOOR as FLOOR
from ppl_vae.families.posteriors.posterior import Posterior as Posterior

__all__: list[str] = []
__all__ += flows.__all__
__all__ += normal.__all__
