"""Priors over classes."""

from typing import override

import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppl_vae.families.densities.latents import ScatteredOneHot
from ppl_vae.families.priors.prior import Prior
from ppl_vae.runtime.checks import whole_number

__all__ = ["Categorical"]


class Categorical(Prior):
    """p(z = e_c) = softmax(logits)_c, z one of the D unit vectors: a latent class.

    With the identity as decoder the model is a finite mixture: the likelihood's linear map is then
    a table of each class's parameters. The posterior is `posteriors.Categorical`, whose draws have
    no path derivative: train with `VIMCO` or `ScoreFunction` as the gradient.

    Args:
        latent_dim: Number of classes D, at least 2.

    Shape:
        batch_shape (), event_shape (D,)

    References:
        McLachlan and Peel (2000), Finite mixture models, chapter 1.

    Example:
        >>> Categorical(4)().log_prob(torch.eye(4)).exp()
        tensor([0.2500, 0.2500, 0.2500, 0.2500], grad_fn=<ExpBackward0>)
    """

    support = constraints.one_hot

    def __init__(self, latent_dim: int) -> None:
        super().__init__(whole_number(latent_dim, "latent_dim of classes", at_least=2))
        self.logits = nn.Parameter(torch.zeros(self.latent_dim))

    @override
    def forward(self, context: Tensor | None = None) -> ScatteredOneHot:
        return ScatteredOneHot(logits=self.logits)
