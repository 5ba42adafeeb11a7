"""Gaussian processes over the covariates as priors."""

from collections.abc import Callable
from typing import Literal, override

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.families.densities import StandardisedNormal
from ppl_vae.families.priors.prior import Prior, require_context
from ppl_vae.families.units import CovariateUnits
from ppl_vae.runtime.checks import one_of, real_number, whole_number

__all__ = ["GaussianProcess"]

JITTER = 1e-6  # added to the variance 1 of the inducing values
LEAST_VARIANCE = 1e-9  # of a row's latent given the inducing values
TINY = 1e-30  # under a square root, whose slope at 0 is infinite

# Correlations at a squared distance, in length scales.
KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "squared_exponential": lambda squared: (-0.5 * squared).exp(),
    "matern_32": lambda squared: _matern((3 * squared).clamp(min=TINY).sqrt(), 0.0),
    "matern_52": lambda squared: _matern((5 * squared).clamp(min=TINY).sqrt(), 1 / 3),
}


def _matern(r: Tensor, curvature: float) -> Tensor:
    return (1 + r + curvature * r.square()) * (-r).exp()


class GaussianProcess(Prior):
    """z_d(c) = sqrt(r_d) f_d(c) + sqrt(1 - r_d) e, f_d a Gaussian process, e ~ N(0, 1) by row.

    f_d has mean 0 and the kernel k_d with k_d(c, c) = 1 and a length scale for each covariate, all
    learned, in standard deviations of the training covariates; so z is marginally N(0, I). With u_d
    = f_d at M inducing inputs, K their kernel matrix and k(c) their kernels with c,

        z_d given u_d, c ~ N(sqrt(r) k(c)' K^-1 u, 1 - r k(c)' K^-1 k(c)),

    independently for each row: rows depend on each other through u alone (the fully independent
    training conditional). It is the process itself where every row lies at an inducing input, and
    an approximation between them. The site "inducing", outside the data plate, holds v ~ N(0, I)
    with u = L v, L L' = K. log p(x) of a row is conditional on it, averaged over the guide's draws.
    The posterior is `posteriors.GaussianProcess`. Without v, `forward` gives the marginal N(0, I).

    A 1e-6 part is added to the diagonal of K, which is factorised in float64. Inducing inputs are
    chosen by `Model(start=)` or `fit`: all distinct rows of c where there are at most M, some of
    them repeated; else quantiles of the distinct values of one covariate, and centres of k-means
    for several. They are not moved afterwards.

    Args:
        latent_dim: Number of latent dimensions D.
        context_dim: Number of covariates.
        num_inducing: Number of inducing inputs M; a step costs D M^2 (M + B).
        kernel: "squared_exponential", "matern_32" or "matern_52".
        share: r, the share of the variance of z that is a function of c; None learns one for each
            dimension, from a half. With 1, rows with equal c have equal z at inducing inputs.

    Shape:
        context (B, context_dim) -> batch_shape (B,), event_shape (D,)

    Raises:
        ValueError: context is missing, an unknown kernel, or a share outside [0, 1].

    References:
        Casale et al. (2018), Gaussian process prior variational autoencoders, arXiv:1810.11738;
        Jazbec et al. (2021), Scalable Gaussian process variational autoencoders, arXiv:2010.13472;
        Snelson and Ghahramani (2006), Sparse Gaussian processes using pseudo-inputs, NeurIPS.

    Example:
        >>> prior = GaussianProcess(2, context_dim=1)
        >>> prior(torch.zeros(5, 1), inducing=torch.zeros(2, 20)).batch_shape
        torch.Size([5])
    """

    inducing_inputs: Tensor

    def __init__(
        self,
        latent_dim: int,
        context_dim: int,
        *,
        num_inducing: int = 20,
        kernel: Literal["squared_exponential", "matern_32", "matern_52"] = "squared_exponential",
        share: float | None = None,
    ) -> None:
        super().__init__(latent_dim)
        self.context_dim = whole_number(context_dim, "context_dim")
        self.num_inducing = whole_number(num_inducing, "num_inducing")
        self.kernel = one_of(kernel, "GaussianProcess(kernel)", tuple(KERNELS))
        self.share = share
        self.units = CovariateUnits(self.context_dim)
        spread = torch.linspace(-2, 2, self.num_inducing)
        self.register_buffer("inducing_inputs", spread[:, None].repeat(1, self.context_dim))
        self.log_length = nn.Parameter(torch.zeros(self.latent_dim, self.context_dim))
        if share is None:
            self.raw_share = nn.Parameter(torch.zeros(self.latent_dim))
        else:
            real_number(share, "share", at_least=0, at_most=1)

    @property
    def length_scale(self) -> Tensor:
        """Length scales in units of the covariates, (D, context_dim)."""
        return self.log_length.exp() * self.units.units.unit

    def start_at(self, context: Tensor) -> None:
        """Take units and inducing inputs from these rows, (N, context_dim)."""
        self.units.fit_to(context)
        chosen = _spread_over(self.units(context.double()), self.num_inducing)
        self.inducing_inputs.copy_(chosen)

    @override
    def shared(self) -> dict[str, dist.TorchDistribution]:
        loc = self.log_length.new_zeros(self.latent_dim, self.num_inducing)
        root = torch.eye(self.num_inducing, dtype=loc.dtype, device=loc.device)
        return {"inducing": dist.MultivariateNormal(loc, scale_tril=root).to_event(1)}

    @override
    def forward(
        self, context: Tensor | None = None, inducing: Tensor | None = None
    ) -> dist.Independent:
        context = require_context(self, context)
        if inducing is None:
            loc = context.new_zeros(*context.shape[:-1], self.latent_dim)
            return StandardisedNormal(loc, torch.ones_like(loc)).to_event(1)
        weights, variance = self.conditional(context)
        return StandardisedNormal((weights * inducing).sum(-1), variance.sqrt()).to_event(1)

    def conditional(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """w and s^2 of z_d given v, c ~ N(w_d' v_d, s_d^2), (*batch, D, M) and (*batch, D)."""
        context = require_context(self, context)
        c = self.units(context).double().reshape(-1, self.context_dim)
        inputs = self.inducing_inputs.double()
        noise = JITTER * torch.eye(self.num_inducing, dtype=c.dtype, device=c.device)
        root = torch.linalg.cholesky(self._correlation(inputs, inputs) + noise)
        solved = torch.linalg.solve_triangular(root, self._correlation(inputs, c), upper=False)
        share = self.raw_share.double().sigmoid() if self.share is None else self.share
        explained = share * solved.square().sum(1).mT  # (rows, D)
        root_share = torch.as_tensor(share).sqrt()
        weights = solved.permute(2, 0, 1) * root_share.reshape(-1, 1)
        variance = (1 - explained).clamp(min=LEAST_VARIANCE)
        batch = context.shape[:-1]
        return (
            weights.reshape(*batch, *weights.shape[1:]).to(context.dtype),
            variance.reshape(*batch, -1).to(context.dtype),
        )

    def _correlation(self, one: Tensor, other: Tensor) -> Tensor:
        """Kernels of points (n, C) and (m, C), (D, n, m)."""
        lengths = self.log_length.double().exp().unsqueeze(1)
        steps = (one / lengths).unsqueeze(-2) - (other / lengths).unsqueeze(-3)
        return KERNELS[self.kernel](steps.square().sum(-1))

    @override
    def extra_repr(self) -> str:
        return (
            f"{self.latent_dim}, context_dim={self.context_dim}, num_inducing={self.num_inducing}, "
            f"kernel={self.kernel!r}, share={self.share}"
        )


def _spread_over(points: Tensor, count: int) -> Tensor:
    """`count` points that cover these, (N, C): all distinct ones where there are as few."""
    distinct = points.unique(dim=0)
    if len(distinct) <= count:
        return distinct.repeat(count // len(distinct) + 1, 1)[:count]
    if distinct.shape[1] == 1:
        places = torch.linspace(0, len(distinct) - 1, count, dtype=torch.float64)
        return distinct[places.round().long()]
    from sklearn.cluster import KMeans

    centres = KMeans(count, n_init=1, random_state=0).fit(distinct.cpu().numpy()).cluster_centers_
    return torch.as_tensor(centres).to(distinct)
