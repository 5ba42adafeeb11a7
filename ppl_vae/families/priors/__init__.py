"""Priors p(z) or p(z given c): one row's latent, without batch shape unless c is given."""

from ppl_vae.families.priors import (
    categories,
    flows,
    heavy_tails,
    hierarchy,
    mixtures,
    normal,
    processes,
    simplex,
    sphere,
)
from ppl_vae.families.priors.categories import *  # noqa: F403
from ppl_vae.families.priors.flows import *  # noqa: F403
from ppl_vae.families.priors.heavy_tails import *  # noqa: F403
from ppl_vae.families.priors.hierarchy import *  # noqa: F403
from ppl_vae.families.priors.mixtures import *  # noqa: F403
from ppl_vae.families.priors.normal import *  # noqa: F403
from ppl_vae.families.priors.prior import Prior as Prior
from ppl_vae.families.priors.processes import *  # noqa: F403
from ppl_vae.families.priors.simplex import *  # noqa: F403
from ppl_vae.families.priors.sphere import *  # noqa: F403

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
