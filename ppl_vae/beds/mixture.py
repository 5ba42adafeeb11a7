"""Gaussian mixtures: a mixture prior over a continuous z, and a discrete z."""

from typing import Any, override

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.beds.bed import Bed, BedGuide, BedModel, Distortion, draws
from ppl_vae.beds.gaussian import Affine, AffineModel, masked_normal, posterior

__all__ = ["discrete_mixture", "gaussian_mixture"]


class GaussianMixtureModel(AffineModel):
    """z ~ sum_c w_c N(m_c, diag s_c^2), x given z ~ N(W z + b, noise^2)."""

    def __init__(
        self, num_data: int, weights: Tensor, means: Tensor, scales: Tensor, affine: Affine
    ) -> None:
        super().__init__(num_data, affine)
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("scales", scales)

    @property
    @override
    def moments(self) -> tuple[Tensor, Tensor]:
        return self.means, torch.diag_embed(self.scales.square())

    @override
    def prior(self) -> Any:
        components = dist.Normal(self.means, self.scales).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(self.weights), components)

    def log_joint(self, x: Tensor) -> Tensor:
        """log w_c + log N(x; W m_c + b, ...), shape (N, C)."""
        return self.weights.log() + masked_normal(x[:, None], *self.affine.marginal(*self.moments))

    @override
    def log_evidence(self, x: Tensor) -> Tensor:
        return self.log_joint(x).logsumexp(-1)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means (N, C, L) and covariances (N, C, L, L) of z given x, by component."""
        return posterior(x[:, None], self.affine, *self.moments)

    @override
    def guide_at(self, x: Tensor, distortion: Distortion) -> Any:
        """Components N(m_c + shift sd, scale^2 S_c), sd that of the whole posterior."""
        weights = self.log_joint(x).softmax(-1)
        means, covariances = self.posterior(x)
        within = covariances.diagonal(dim1=-2, dim2=-1) + means.square()
        centre = torch.einsum("nc,ncl->nl", weights, means)
        sd = (torch.einsum("nc,ncl->nl", weights, within) - centre.square()).sqrt()
        root = torch.linalg.cholesky(covariances) * distortion.scale
        means = means + distortion.shift * sd[:, None]
        components = dist.MultivariateNormal(means, scale_tril=root)
        return dist.MixtureSameFamily(dist.Categorical(weights), components)


class DiscreteMixtureModel(BedModel):
    """z ~ Categorical(w), x given z ~ N(m_z, diag s_z^2). Reference: Bishop (2006), section 9.2."""

    def __init__(self, num_data: int, weights: Tensor, means: Tensor, scales: Tensor) -> None:
        super().__init__(num_data)
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("scales", scales)

    @override
    def prior(self) -> Any:
        return dist.Categorical(self.weights)

    @override
    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(self.means[z], self.scales[z])

    def log_joint(self, x: Tensor) -> Tensor:
        """log w_c + log N(x; m_c, s_c^2) over the observed entries, shape (N, C)."""
        densities = dist.Normal(self.means, self.scales).mask(~x.isnan()[:, None])
        return self.weights.log() + densities.log_prob(x.nan_to_num(nan=0.0)[:, None]).sum(-1)

    @override
    def log_evidence(self, x: Tensor) -> Tensor:
        return self.log_joint(x).logsumexp(-1)

    @override
    def guide_at(self, x: Tensor, distortion: Distortion) -> Any:
        logits = self.log_joint(x) / distortion.scale**2
        logits = logits - logits.logsumexp(-1, keepdim=True)
        first = torch.nn.functional.one_hot(torch.tensor(0, device=x.device), logits.shape[-1])
        return dist.Categorical(logits=logits + distortion.shift * first)


def gaussian_mixture(
    num_data: int = 64,
    num_components: int = 3,
    latent_dim: int = 2,
    data_dim: int = 5,
    seed: int = 0,
    guide_scale: float = 1.0,
    guide_shift: float = 0.0,
) -> Bed:
    """A Gaussian-mixture prior over a continuous z; linear-Gaussian x of noise sd 0.5.

    log p(x) = log sum_c w_c N(x; W m_c + b, W S_c W' + noise^2 I). The exact guide is a mixture, so
    its draws are not reparameterised: gradients of a bound in the guide need score-function terms.

    Args:
        num_data: Number of rows N.
        num_components: Number of components C.
        latent_dim: Number of latent dimensions L.
        data_dim: Number of features D.
        seed: Where parameters and data come from.
        guide_scale: Factor on the sd of every component of the guide; 1 is exact.
        guide_shift: Shift of the guide, in posterior sds; 0 is exact.

    References:
        Bishop (2006), Pattern Recognition and Machine Learning, section 9.2 and eq. 2.115 to 2.117.

    Example:
        >>> gaussian_mixture(num_data=3).reparameterized
        False
    """
    generator = np.random.default_rng(seed)
    affine = Affine(
        draws(generator.standard_normal((data_dim, latent_dim))),
        draws(generator.standard_normal(data_dim)),
        torch.full((data_dim,), 0.5, dtype=torch.float64),
    )
    weights, means, scales = _components(generator, num_components, latent_dim)
    z = _mixture(generator, weights, means, scales, num_data)
    noise = affine.noise * draws(generator.standard_normal((num_data, data_dim)))
    model = GaussianMixtureModel(num_data, weights, means, scales, affine)
    guide = BedGuide(model, Distortion(guide_scale, guide_shift))
    x = z @ affine.loading.mT + affine.offset + noise
    return Bed(
        name="gaussian_mixture",
        x=x,
        model=model,
        guide=guide,
        latent_dim=latent_dim,
        reparameterized=False,
    )


def discrete_mixture(
    num_data: int = 64,
    num_components: int = 3,
    data_dim: int = 2,
    seed: int = 0,
    guide_scale: float = 1.0,
    guide_shift: float = 0.0,
) -> Bed:
    """A Gaussian mixture with a discrete z: the component itself.

    log p(x) = log sum_c w_c N(x; m_c, diag s_c^2); the exact guide is
    Categorical(responsibilities). A discrete guide has no sd: its logits are divided by
    `guide_scale`^2 (tempering), and `guide_shift` is added to the first one.

    Args:
        num_data: Number of rows N.
        num_components: Number of components C.
        data_dim: Number of features D.
        seed: Where parameters and data come from.
        guide_scale: Square root of the guide's temperature; 1 is exact.
        guide_shift: Added to the first component's log-odds; 0 is exact.

    References:
        Bishop (2006), Pattern Recognition and Machine Learning, eq. 9.7 and 9.13.

    Example:
        >>> discrete_mixture(num_data=3).guide.posterior(torch.zeros(4, 2)).probs.shape
        torch.Size([4, 3])
    """
    generator = np.random.default_rng(seed)
    weights, means, scales = _components(generator, num_components, data_dim)
    x = _mixture(generator, weights, means, scales, num_data)
    model = DiscreteMixtureModel(num_data, weights, means, scales)
    guide = BedGuide(model, Distortion(guide_scale, guide_shift))
    return Bed(
        name="discrete_mixture", x=x, model=model, guide=guide, latent_dim=1, reparameterized=False
    )


def _components(
    generator: np.random.Generator, num_components: int, dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (C,), means (C, dim) and sds (C, dim) that overlap a little."""
    weights = generator.dirichlet(np.full(num_components, 5.0))
    means = 2.0 * generator.standard_normal((num_components, dim))
    return draws(weights), draws(means), draws(generator.uniform(0.5, 1.0, (num_components, dim)))


def _mixture(
    generator: np.random.Generator, weights: Tensor, means: Tensor, scales: Tensor, num_data: int
) -> Tensor:
    """Draws from the mixture, (num_data, dim)."""
    component = torch.from_numpy(generator.choice(len(weights), num_data, p=weights.numpy()))
    noise = draws(generator.standard_normal((num_data, means.shape[1])))
    return means[component] + scales[component] * noise
