"""Posteriors over classes."""

from typing import override

from pyro.distributions import constraints
from torch import Tensor

from ppl_vae.families.densities.latents import ScatteredOneHot
from ppl_vae.families.posteriors.posterior import Posterior
from ppl_vae.runtime.checks import whole_number

__all__ = ["Categorical"]


class Categorical(Posterior):
    """q(z = e_c given x) = softmax(logits(x))_c, z one of the D unit vectors: a latent class.

    Draws have no path derivative: train with
    `objectives.IWAE(10, gradient=objectives.VIMCO())` or
    `objectives.TraceELBO(10, gradient=objectives.ScoreFunction())`. For `priors.Categorical`.

    Args:
        latent_dim: Number of classes D, at least 2.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    References:
        Mnih and Rezende (2016), Variational inference for Monte Carlo objectives, arXiv:1602.06725.

    Example:
        >>> import torch
        >>> posterior = Categorical(4)
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).sample().sum(-1)
        tensor([1., 1., 1., 1., 1.])
    """

    support = constraints.one_hot

    def __init__(self, latent_dim: int) -> None:
        super().__init__(whole_number(latent_dim, "latent_dim of classes", at_least=2))
        self.num_parameters = self.latent_dim

    @override
    def distribution(self, raw: Tensor) -> ScatteredOneHot:
        return ScatteredOneHot(logits=raw)
