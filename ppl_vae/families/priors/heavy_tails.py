"""Priors with heavier tails than the normal."""

from typing import override

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families.densities import StandardisedStudentT
from ppl_vae.families.priors.prior import Prior
from ppl_vae.runtime.checks import real_number

__all__ = ["Laplace", "StudentT"]


class Laplace(Prior):
    """p(z) = prod_d exp(-|z_d|) / 2: nothing to learn.

    Its density has a peak at zero, so it favours directions in which a few rows lie far out and
    most near zero; the directions are then identified, as in independent component analysis. The
    KL from `MeanFieldNormal` is in closed form.

    Args:
        latent_dim: Number of latent dimensions D.

    Shape:
        batch_shape (), event_shape (D,)

    References:
        Barello, Charles and Pillow (2018), Sparse-coding variational auto-encoders,
        doi:10.1101/399246.

    Example:
        >>> Laplace(2)().log_prob(torch.zeros(2))
        tensor(-1.3863)
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.loc = nn.Buffer(torch.zeros(self.latent_dim), persistent=False)

    @override
    def forward(self, context: Tensor | None = None) -> dist.Independent:
        return dist.Laplace(self.loc, torch.ones_like(self.loc)).to_event(1)


class StudentT(Prior):
    """p(z) = prod_d t(z_d; df): Student's t with location 0 and scale 1, independent dimensions.

    Rows far from the others cost log |z| and not z^2 / 2, so that outliers pull less on the
    decoder. p(z) / q(z) is unbounded under a normal posterior: combine it with
    `posteriors.StudentT` where log p(x) matters. No closed-form KL.

    Args:
        latent_dim: Number of latent dimensions D.
        df: Degrees of freedom; None learns one for each dimension (above 2, so that the variance
            exists).

    Shape:
        batch_shape (), event_shape (D,)

    Raises:
        ValueError: `df` is not positive.

    References:
        Abiri and Ohlsson (2020), Variational auto-encoders with Student's t-prior,
        arXiv:2004.02581.

    Example:
        >>> StudentT(2, df=3.0)().log_prob(torch.zeros(2))
        tensor(-2.0018)
    """

    def __init__(self, latent_dim: int, df: float | None = 4.0) -> None:
        super().__init__(latent_dim)
        self.df = df
        self.loc = nn.Buffer(torch.zeros(self.latent_dim), persistent=False)
        if df is None:
            self.raw_df = nn.Parameter(torch.full((self.latent_dim,), 3.0))
        else:
            real_number(df, "df", above=0)

    @override
    def forward(self, context: Tensor | None = None) -> dist.Independent:
        scale = torch.ones_like(self.loc)
        df = 2 + softplus(self.raw_df) if self.df is None else scale * self.df
        return StandardisedStudentT(df, self.loc, scale).to_event(1)

    @override
    def extra_repr(self) -> str:
        return f"{self.latent_dim}, df={self.df}"
