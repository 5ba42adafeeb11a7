"""Posteriors of Gaussian processes over the covariates."""

from typing import override

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families.densities import StandardisedNormal
from ppl_vae.families.posteriors.normal import FullRankNormal
from ppl_vae.families.posteriors.posterior import FLOOR, Posterior, resolved
from ppl_vae.families.priors.processes import GaussianProcess as Process
from ppl_vae.runtime.checks import instance_of

__all__ = ["GaussianProcess"]

START = -2.2522  # softplus of it is 0.1: at sd 1, draws of f would hide the rows from the decoder


class GaussianProcess(Posterior):
    """q(v) prod_b q(z_b given x_b, c_b, v), for `priors.GaussianProcess`, whose kernel it shares.

    q(v) is a normal of full rank for each latent dimension. A row's encoder gives a normal factor,
    which is multiplied by the prior given v:

        q(z given x, c, v) proportional to N(z; loc(x), diag scale(x)^2) p(z given c, v).

    With a linear decoder and normal noise the exact posterior has this form. Without v, as in
    `Guide.encode`, it is the marginal over q(v).

    Args:
        prior: The model's prior.

    Shape:
        features (B, *features), context (B, context_dim) -> batch_shape (B,), event_shape (D,)

    Raises:
        ValueError: context is missing.

    References:
        Jazbec et al. (2021), Scalable Gaussian process variational autoencoders, arXiv:2010.13472
        (the factor of each row); Hensman, Fusi and Lawrence (2013), Gaussian processes for big
        data, arXiv:1309.6835 (a free normal of the inducing values).

    Example:
        >>> from ppl_vae.families.priors import GaussianProcess as Process
        >>> posterior = GaussianProcess(Process(2, context_dim=1))
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10), torch.zeros(5, 1)).rsample().shape
        torch.Size([5, 2])
    """

    def __init__(self, prior: Process) -> None:
        super().__init__(instance_of(prior, "prior", Process).latent_dim)
        self.prior = prior
        self.num_parameters = 2 * self.latent_dim
        self.normal = FullRankNormal(prior.num_inducing)
        M = prior.num_inducing
        start = torch.cat([torch.zeros(M), torch.full((M,), START), torch.zeros(M * (M - 1) // 2)])
        self.raw = nn.Parameter(start.repeat(self.latent_dim, 1))

    @override
    def shared(self) -> dict[str, dist.TorchDistribution]:
        return {"inducing": self.normal.distribution(self.raw).to_event(1)}

    @override
    def distribution(
        self, raw: Tensor, context: Tensor | None = None, inducing: Tensor | None = None
    ) -> dist.Independent:
        loc, raw_scale = raw.chunk(2, dim=-1)
        own = (FLOOR + softplus(raw_scale)).square()
        weights, variance = self.prior.conditional(context)
        share = variance / (variance + own)  # of the encoder in the mean
        rest = own / (variance + own)
        spread: Tensor | float = 0.0
        if inducing is None:
            q = self.normal.distribution(self.raw)
            inducing = q.loc
            spread = rest.square() * (weights.unsqueeze(-2) @ q.scale_tril).square().sum((-1, -2))
        mean = share * loc + rest * (weights * inducing).sum(-1)
        scale = resolved((share * own + spread).sqrt(), mean)
        return StandardisedNormal(mean, scale).to_event(1)
