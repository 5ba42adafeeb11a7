"""The linear-Gaussian VAE: probabilistic PCA, where everything is known."""

from dataclasses import dataclass
from typing import Any, override

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.beds.bed import Bed, BedGuide, Distortion, draws
from ppl_vae.beds.gaussian import Affine, AffineModel, masked_normal, posterior

__all__ = ["LinearGaussianBed", "linear_gaussian", "linear_gaussian_at"]


class LinearGaussianModel(AffineModel):
    """z ~ N(0, I), x given z ~ N(W z + b, noise^2 I). Reference: Tipping and Bishop (1999)."""

    @property
    @override
    def moments(self) -> tuple[Tensor, Tensor]:
        zeros = self.loading.new_zeros(self.loading.shape[1])
        return zeros, torch.diag(zeros + 1)

    @override
    def prior(self) -> Any:
        return dist.Normal(self.moments[0], 1.0).to_event(1)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log N(x; b, W W' + noise^2 I)."""
        return masked_normal(x, *self.affine.marginal(*self.moments))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (N, L) and covariance (N, L, L) of z given x."""
        return posterior(x, self.affine, *self.moments)

    @override
    def guide_at(self, x: Tensor, distortion: Distortion) -> Any:
        """N(m + shift sd, scale^2 S), where N(m, S) is exact."""
        mean, covariance = self.posterior(x)
        sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        root = torch.linalg.cholesky(covariance) * distortion.scale
        return dist.MultivariateNormal(mean + distortion.shift * sd, scale_tril=root)


class MeanFieldGuide(BedGuide):
    """The independent normals closest to the posterior in KL(q||p).

    Reference: Bishop (2006), Pattern Recognition and Machine Learning, section 10.1.2.
    """

    def posterior(self, x: Tensor) -> Any:
        """N(m, 1 / diag(S^-1)), where N(m, S) is exact."""
        mean, covariance = self.model.posterior(x)
        precision = torch.linalg.inv(covariance).diagonal(dim1=-2, dim2=-1)
        return dist.Normal(mean, precision.rsqrt()).to_event(1)


@dataclass(frozen=True, kw_only=True)
class LinearGaussianBed(Bed):
    """The linear-Gaussian bed, with its parameters and what follows from them in closed form.

    Args:
        loading: W, shape (D, L).
        mean: b, shape (D,).
        noise: Noise sd, shape (D,).
        posterior_mean: Exact, shape (N, L).
        posterior_covariance: Exact, shape (N, L, L).
        mean_field_guide: The best independent normals.
        best_mean_field_elbo: The ELBO of those, shape (N,): log p(x) - (sum_i log P_ii - log det P)
            / 2 with the posterior precision P.

    References:
        Tipping and Bishop (1999), Probabilistic principal component analysis; Bishop (2006),
        section 10.1.2.

    Example:
        >>> linear_gaussian(num_data=3, latent_dim=2, data_dim=5).loading.shape
        torch.Size([5, 2])
    """

    loading: Tensor
    mean: Tensor
    noise: Tensor
    posterior_mean: Tensor
    posterior_covariance: Tensor
    mean_field_guide: BedGuide
    best_mean_field_elbo: Tensor


def linear_gaussian(
    num_data: int = 64,
    latent_dim: int = 2,
    data_dim: int = 5,
    noise: float = 0.5,
    seed: int = 0,
    guide_scale: float = 1.0,
    guide_shift: float = 0.0,
) -> LinearGaussianBed:
    """The linear-Gaussian bed at random parameters.

    z ~ N(0, I), x = W z + b + noise e; log p(x) = log N(x; b, W W' + noise^2 I).

    Args:
        num_data: Number of rows N.
        latent_dim: Number of latent dimensions L.
        data_dim: Number of features D.
        noise: Noise sd.
        seed: Where parameters and data come from.
        guide_scale: Factor on the guide's sd; 1 is exact.
        guide_shift: Shift of the guide's mean, in posterior sds; 0 is exact.

    Returns:
        The bed; `bed.guide` is the exact posterior at scale 1 and shift 0.

    References:
        Tipping and Bishop (1999), Probabilistic principal component analysis, JRSS B 61.

    Example:
        >>> bed = linear_gaussian(num_data=3)
        >>> bool((bed.best_mean_field_elbo < bed.log_evidence).all())
        True
    """
    generator = np.random.default_rng(seed)
    loading = generator.standard_normal((data_dim, latent_dim))
    mean = generator.standard_normal(data_dim)
    z = generator.standard_normal((num_data, latent_dim))
    x = z @ loading.T + mean + noise * generator.standard_normal((num_data, data_dim))
    affine = Affine(draws(loading), draws(mean), draws(np.full(data_dim, noise)))
    return linear_gaussian_at(draws(x), affine, guide_scale, guide_shift)


def linear_gaussian_at(
    x: Tensor, affine: Affine, guide_scale: float = 1.0, guide_shift: float = 0.0
) -> LinearGaussianBed:
    """The linear-Gaussian bed at given data and parameters, for example of a fitted PCA.

    Args:
        x: Data (N, D); NaN means missing.
        affine: `Affine(loading, offset, noise)`: W (D, L), b (D,) and the noise sd of every feature
            (D,).
        guide_scale: Factor on the guide's sd; 1 is exact.
        guide_shift: Shift of the guide's mean, in posterior sds; 0 is exact.

    References:
        Tipping and Bishop (1999), Probabilistic principal component analysis, JRSS B 61.

    Example:
        >>> from ppl_vae.beds import Affine
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> linear_gaussian_at(0 * one[:, None], Affine(one[:, None], 0 * one, one)).log_evidence
        tensor([-1.2655], dtype=torch.float64)
    """
    model = LinearGaussianModel(len(x), affine)
    mean, covariance = model.posterior(x)
    precision = torch.linalg.inv(covariance)
    log_precisions = precision.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    gap = 0.5 * (log_precisions - torch.linalg.slogdet(precision).logabsdet)
    return LinearGaussianBed(
        name="linear_gaussian",
        x=x,
        model=model,
        guide=BedGuide(model, Distortion(guide_scale, guide_shift)),
        latent_dim=affine.loading.shape[1],
        loading=affine.loading,
        mean=affine.offset,
        noise=affine.noise,
        posterior_mean=mean,
        posterior_covariance=covariance,
        mean_field_guide=MeanFieldGuide(model, Distortion()),
        best_mean_field_elbo=model.log_evidence(x) - gap,
    )
