"""Networks: features, and `Readout`, the last map to the parameters of a distribution."""

from ppl_vae.families.networks import convolutions, dense, sequences, sets
from ppl_vae.families.networks.convolutions import *  # noqa: F403
from ppl_vae.families.networks.dense import *  # noqa: F403
from ppl_vae.families.networks.sequences import *  # noqa: F403
from ppl_vae.families.networks.sets import *  # noqa: F403

__all__: list[str] = []
__all__ += convolutions.__all__
__all__ += dense.__all__
__all__ += sequences.__all__
__all__ += sets.__all__
