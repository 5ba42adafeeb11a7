"""Posteriors with heavier tails than the normal."""

from typing import override

import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.families.densities import StandardisedStudentT
from ppl_vae.families.posteriors.posterior import Posterior, scale_of

__all__ = ["StudentT"]


class StudentT(Posterior):
    """q(z given x) = prod_d t(z_d; df_d(x), loc_d(x), scale_d(x)), df above 2.

    Its tails keep log-weights bounded where the true posterior has normal tails and the scale is
    too small, so that log p(x) has a smaller k-hat. Independent dimensions; KL is Monte Carlo.

    Args:
        latent_dim: Number of latent dimensions D.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    References:
        Domke and Sheldon (2018), Importance weighting and variational inference, arXiv:1808.09034
        (Student's t as a proposal); Figurnov, Mohamed and Mnih (2018), Implicit reparameterization
        gradients, arXiv:1805.08498.

    Example:
        >>> import torch
        >>> posterior = StudentT(2)
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).rsample().shape
        torch.Size([5, 2])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.num_parameters = 3 * self.latent_dim

    @override
    def distribution(self, raw: Tensor) -> dist.Independent:
        loc, scale, df = raw.chunk(3, dim=-1)
        degrees = 2 + softplus(df + 3)
        return StandardisedStudentT(degrees, loc, scale_of(scale, loc)).to_event(1)

    @override
    def units(self, raw: Tensor) -> Tensor:
        return self.units_of_location_and_scale(raw)
