"""Likelihoods of real values: a location and a scale for each."""

from collections.abc import Sequence
from typing import override

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families import densities
from ppl_vae.families.likelihoods.location_scale import LocationScale, Scale
from ppl_vae.runtime.checks import real_number, whole_number
from ppl_vae.runtime.memory import require_memory

__all__ = ["Gaussian", "Laplace", "LowRankNormal", "StudentT"]

START = 0.1  # size of the first correlated noise, in units of x: at zero it has no gradient
EM_STEPS = 30  # until location and scale are those of maximum likelihood


class Gaussian(LocationScale):
    """Real values: p(x_i given z) = N(location_i(z), scale_i^2).

    The floor bounds the likelihood, which a collapsed variance would make infinite.

    Args:
        event_shape: Shape of one observation.
        scale: A number (fixed), "global" (one, learned), "feature" (one per feature, learned) or
            "decoder" (from z). None is "feature" for vectors and "global" for images, whose
            pixels have one unit.
        floor: Smallest learned scale, in units of the spread of the rows that the model starts
            from; in those of x without such rows.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `scale` is not positive or not one of the three words.

    References:
        Mattei and Frellsen (2018), Leveraging the exact likelihood of deep latent variable models,
        arXiv:1802.04826.

    Example:
        >>> likelihood = Gaussian(3, scale=0.5)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).batch_shape
        torch.Size([5])
    """

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.StandardisedNormal(self.location_of(*raw), self.scale_of(*raw))


class StudentT(LocationScale):
    """Real values with heavy tails: p(x_i given z) = StudentT(df, location_i(z), scale_i).

    Robust to outliers; df is learned per feature unless fixed, and stays above 2 so that the
    variance exists.

    Args:
        event_shape: Shape of one observation.
        scale: A number, "global", "feature" or "decoder", or None, as in `Gaussian`.
        floor: Smallest learned scale, in units of the spread of the rows that the model starts
            from; in those of x without such rows.
        df: Degrees of freedom; None learns one per feature (above 2).

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `scale` or `df` is not positive.

    References:
        Takahashi et al. (2018), Student-t variational autoencoder for robust density estimation,
        IJCAI.

    Example:
        >>> likelihood = StudentT(3, scale="decoder")
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).event_shape
        torch.Size([3])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        scale: Scale | None = None,
        *,
        floor: float = 1e-3,
        df: float | None = None,
    ) -> None:
        super().__init__(event_shape, scale, floor=floor)
        if df is not None:
            real_number(df, "df", above=0)
        self.df = df
        if df is None:
            self.raw_df = nn.Parameter(torch.full(self.event_shape, 3.0))

    @override
    def fitted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """By the EM algorithm, df as it is."""
        df = self._df(x).detach()
        weights = torch.ones_like(x).where(~x.isnan(), x)
        for _ in range(EM_STEPS):
            location = (weights * x).nansum(0) / weights.nansum(0)
            squared = (x - location).square()
            variance = self.pooled(weights * squared)
            weights = (df + 1) / (df + squared / torch.where(variance > 0, variance, 1.0))
        return location, variance.sqrt()

    def _df(self, like: Tensor) -> Tensor:
        return 2 + softplus(self.raw_df) if self.df is None else like.new_tensor(self.df)

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.StandardisedStudentT(
            self._df(raw[0]), self.location_of(*raw), self.scale_of(*raw)
        )


class Laplace(LocationScale):
    """Real values with exponential tails: density exp(-|x - location(z)| / scale) / (2 scale).

    Its maximum-likelihood location is the median: a reconstruction by least absolute deviations.

    Args:
        event_shape: Shape of one observation.
        scale: Mean absolute deviation: a number, "global", "feature" or "decoder", or None, as in
            `Gaussian`.
        floor: Smallest learned scale, in units of the mean absolute deviation of the rows that the
            model starts from; in those of x without such rows.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `scale` is not positive or not one of the three words.

    References:
        Kotz, Kozubowski and Podgórski (2001), The Laplace distribution and generalizations.

    Example:
        >>> likelihood = Laplace(3, scale="feature")
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).event_shape
        torch.Size([3])
    """

    @override
    def fitted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The median, and the mean absolute deviation from it."""
        location = x.nanmedian(0).values
        return location, self.pooled((x - location).abs())

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.StandardisedLaplace(self.location_of(*raw), self.scale_of(*raw))


class LowRankNormal(LocationScale):
    """Real values with correlated noise: p(x given z) = N(location(z), W W' + diag(scale^2)).

    W has `rank` columns and is learned: what z does not explain may still be correlated. A row with
    missing entries has the exact density of its observed ones. W starts near zero, so that z
    explains what it can.

    Args:
        event_shape: Shape of one observation; all of its P entries have one density.
        rank: Number of columns of W.
        scale: A number, "global", "feature" or "decoder", or None, as in `Gaussian`.
        floor: Smallest learned scale, in units of the spread of the rows that the model starts
            from; in those of x without such rows.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `rank` is not positive, or `scale` is as in `Gaussian`.

    References:
        Rubin and Thayer (1982), EM algorithms for ML factor analysis, Psychometrika 47.

    Example:
        >>> likelihood = LowRankNormal(3, rank=2)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).covariance_matrix.shape
        torch.Size([3, 3])
    """

    independent = False

    def __init__(
        self,
        event_shape: int | Sequence[int],
        rank: int = 1,
        *,
        scale: Scale | None = None,
        floor: float = 1e-3,
    ) -> None:
        super().__init__(event_shape, scale, floor=floor)
        self.rank = whole_number(rank, "rank")
        require_memory(f"rank={rank}", *self.event_shape, self.rank)
        generator = torch.Generator().manual_seed(0)  # its columns must differ, no more
        start = torch.randn(*self.event_shape, self.rank, generator=generator)
        self.factor = nn.Parameter(START * start)

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        factor = self.units.unit.unsqueeze(-1) * self.factor
        return densities.FactorNormal(self.location_of(*raw), factor, self.scale_of(*raw))

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"
