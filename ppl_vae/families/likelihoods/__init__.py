"""Likelihoods p(x given z): decoder features in, a distribution over x out."""

from ppl_vae.families.likelihoods import (
    bounded,
    categories,
    coarsened,
    columns,
    counts,
    ordered,
    real,
    totals,
    zeros,
)
from ppl_vae.families.likelihoods.bounded import *  # noqa: F403
from ppl_vae.families.likelihoods.categories import *  # noqa: F403
from ppl_vae.families.likelihoods.coarsened import *  # noqa: F403
from ppl_vae.families.likelihoods.columns import *  # noqa: F403
from ppl_vae.families.likelihoods.counts import *  # noqa: F403
from ppl_vae.families.likelihoods.likelihood import Likelihood as Likelihood
from ppl_vae.families.likelihoods.ordered import *  # noqa: F403
from ppl_vae.families.likelihoods.real import *  # noqa: F403
from ppl_vae.families.likelihoods.totals import *  # noqa: F403
from ppl_vae.families.likelihoods.zeros import *  # noqa: F403

__all__: list[str] = []
__all__ += bounded.__all__
__all__ += categories.__all__
__all__ += coarsened.__all__
__all__ += columns.__all__
__all__ += counts.__all__
__all__ += ordered.__all__
__all__ += real.__all__
__all__ += totals.__all__
__all__ += zeros.__all__
