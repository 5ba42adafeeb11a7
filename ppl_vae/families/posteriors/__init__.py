"""Variational families q(z given x): encoder features in, a distribution over z out."""

from ppl_vae.families.posteriors import (
    categories,
    flows,
    heavy_tails,
    hierarchy,
    mixtures,
    normal,
    processes,
    simplex,
    sphere,
    zuko_flow,
)
from ppl_vae.families.posteriors.categories import *  # noqa: F403
from ppl_vae.families.posteriors.flows import *  # noqa: F403
from ppl_vae.families.posteriors.heavy_tails import *  # noqa: F403
from ppl_vae.families.posteriors.hierarchy import *  # noqa: F403
from ppl_vae.families.posteriors.mixtures import *  # noqa: F403
from ppl_vae.families.posteriors.normal import *  # noqa: F403
from ppl_vae.families.posteriors.posterior import FLOOR as FLOOR
from ppl_vae.families.posteriors.posterior import Posterior as Posterior
from ppl_vae.families.posteriors.posterior import inverse_softplus as inverse_softplus
from ppl_vae.families.posteriors.processes import *  # noqa: F403
from ppl_vae.families.posteriors.simplex import *  # noqa: F403
from ppl_vae.families.posteriors.sphere import *  # noqa: F403
from ppl_vae.families.posteriors.zuko_flow import *  # noqa: F403

__all__: list[str] = []
__all__ += categories.__all__
__all__ += flows.__all__
__all__ += heavy_tails.__all__
__all__ += hierarchy.__all__
__all__ += mixtures.__all__
__all__ += normal.__all__
__all__ += processes.__all__
__all__ += simplex.__all__
__all__ += sphere.__all__
__all__ += zuko_flow.__all__
