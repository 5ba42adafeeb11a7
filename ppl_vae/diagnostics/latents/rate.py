"""Posterior collapse: which latent dimensions carry anything about x, and how many nats."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.datatree.rows import rows_of_data, tree_of
from ppl_vae.diagnostics.latents.means import latent_means
from ppl_vae.importance import rows_per_chunk
from ppl_vae.objectives.mean_field import kl_per_dimension as sites_per_dimension
from ppl_vae.programs.modules import arguments, evaluating, place
from ppl_vae.programs.traces import LogTerms, Program, log_terms
from ppl_vae.programs.validation import check_data
from ppl_vae.runtime.checks import real_number
from ppl_vae.runtime.seeding import derived_seed, seeded

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "ActiveUnits",
    "RateDistortion",
    "active_units",
    "kl_per_dimension",
    "linear_active_units",
    "rate_distortion",
]

TRACY_WIDOM_99 = 2.0234  # quantile of the law of order one
PARTS = ("rate", "distortion", "elbo", "rate_se", "distortion_se", "elbo_se")


@dataclass(frozen=True)
class ActiveUnits:
    """Var_x(E_q[z_d given x]) of every latent dimension, and which are above a threshold.

    Args:
        variance: Variance over the data of the posterior means, (D,).
        names: Names of the dimensions, "z[0]", "z[1]", ...
        threshold: A dimension is active above it.
        exact: Whether the posterior means are exact; else variance is debiased and can come out
            just below 0.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519,
        section 5.2.

    Example:
        >>> ActiveUnits(np.array([0.9, 0.001]), ("z[0]", "z[1]"), threshold=0.01, exact=True).count
        1
    """

    variance: np.ndarray
    names: tuple[str, ...]
    threshold: float
    exact: bool

    @property
    def active(self) -> np.ndarray:
        """Whether each dimension is active, (D,)."""
        return self.variance > self.threshold

    @property
    def count(self) -> int:
        """Number of active dimensions."""
        return int(self.active.sum())

    def to_datatree(self) -> "xr.DataTree":
        """A tree with the group "active_units": `tree["active_units"] =
        units.to_datatree()["active_units"]`.
        """
        values = {"variance": self.variance, "active": self.active}
        return tree_of("active_units", values, {"dimension": self.names}, threshold=self.threshold)

    def counts(self, thresholds: np.ndarray) -> np.ndarray:
        """Number of dimensions above each threshold, shaped like them: the curve that one threshold
        is a point of.
        """
        return (self.variance > np.asarray(thresholds)[..., None]).sum(-1)

    def __str__(self) -> str:
        return f"{self.count} of {len(self.names)} latent dimensions are active (variance > {self.threshold:g})"


def active_units(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    threshold: float = 0.01,
    num_particles: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> ActiveUnits:
    """Latent dimensions whose posterior mean varies with x: Var_x(E_q[z_d given x]) > threshold.

    The mean is exact where the posterior distribution has one. Else it is estimated from draws,
    whose own variance is
    subtracted: Var_n(m_n) - mean_n(s_n^2 / K). The threshold is in units of z, so it presumes a
        prior of scale one.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset`, or an array, tensor, DataFrame, DataArray; at least two rows.
        threshold: A dimension is active above it.
        num_particles: Draws per datum where the posterior has no closed-form mean.
        seed: Seed of those draws.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        The variances, their names and the count.

    Raises:
        ValueError: fewer than two rows or two draws; a threshold below 0; a guide of other latents
            than the model's.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519,
        section 5.2.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=50)
        >>> active_units(bed.model, bed.guide, bed.x).count
        2
    """
    real_number(threshold, "threshold", at_least=0)
    data = place(as_dataset(data), model, guide)
    if len(data) < 2:
        raise ValueError(
            f"the data have {len(data)} row; a variance over the data needs at least 2"
        )
    check_data(model, data.x, data.context, guide)
    means = latent_means(guide, data, num_particles=num_particles, seed=seed, progress=progress)
    variance = means.mean.var(0, ddof=1) - means.variance.mean(0)
    return ActiveUnits(variance, means.names, threshold, means.exact)


def linear_active_units(data: Dataset | Any, scale: float) -> int:
    """How many latent dimensions a linear VAE has a use for: eigenvalues of the covariance above
    those of noise.

    For a Gaussian likelihood of this standard deviation, a linear decoder, a linear mean-field
    encoder and a standard normal prior, where the ELBO's optimum is that of probabilistic PCA: it
    uses a dimension for each eigenvalue above sigma^2. Those of N rows of noise alone in J features
    reach to sigma^2 (1 + sqrt(J / N))^2, and the largest of them beyond by a random multiple of
    N^(-2/3): its 99 % quantile is the limit here. A direction of variance sigma^2 (1 + s) is found,
    as N grows, where s > sqrt(J / N). Fewer active units than this (and than latent dimensions) are
    training's fault; more, down to sigma^2, fit the noise of these rows.

    Args:
        data: A `Dataset`, or an array, tensor, DataFrame, DataArray; nothing missing.
        scale: Standard deviation of the likelihood, the same for all features.

    Returns:
        A number; a model with fewer latent dimensions uses all of them.

    Raises:
        ValueError: missing values, fewer than two rows, or a scale that is not above 0.

    References:
        Marchenko and Pastur (1967), Distribution of eigenvalues for some sets of random matrices,
        Math. USSR Sbornik 1; Johnstone (2001), On the distribution of the largest eigenvalue in
        PCA, Annals of Statistics 29, with the constants of Ma (2012), Accuracy of the Tracy-Widom
        limits, Bernoulli 18; Baik, Ben Arous and Peche (2005), Phase transition of the largest
        eigenvalue, Annals of Probability 33; Lucas et al. (2019), Don't blame the ELBO! A linear
        VAE perspective on posterior collapse, arXiv:1911.02469; Tipping and Bishop (1999),
        Probabilistic principal component analysis, JRSS B 61.

    Example:
        >>> from ppl_vae import beds
        >>> linear_active_units(beds.linear_gaussian(num_data=500, latent_dim=3, noise=0.1).x, scale=0.15)
        3
    """
    real_number(scale, "scale", above=0)
    x = as_dataset(data).x.double()
    x = x.reshape(len(x), -1)
    if x.isnan().any():
        raise ValueError(
            "x has missing values, and eigenvalues need a covariance: give complete rows"
        )
    if len(x) < 2:
        raise ValueError(f"the data have {len(x)} row; a covariance needs at least 2")
    covariance = torch.atleast_2d(x.mT.cov(correction=1))
    return int((torch.linalg.eigvalsh(covariance) > scale**2 * noise_limit(*x.shape)).sum())


def noise_limit(num_rows: int, num_features: int) -> float:
    """The largest eigenvalue of the covariance of unit noise is above it once in a hundred
    times.
    """
    degrees = num_rows - 1
    root, other = math.sqrt(degrees - 0.5), math.sqrt(num_features - 0.5)
    spread = (root + other) * (1 / root + 1 / other) ** (1 / 3)
    return ((root + other) ** 2 + TRACY_WIDOM_99 * spread) / degrees


@dataclass(frozen=True)
class RateDistortion:
    """Rate R = E_q[log q(z given x) - log p(z)] and distortion D = -E_q[log p(x given z)], in nats:
    R + D = -ELBO.

    Args:
        rate: KL(q(z given x) || p(z)), (N,).
        distortion: (N,).
        elbo: (N,).
        rate_se: Monte Carlo standard error of the rate, (N,); NaN with one particle.
        distortion_se: That of the distortion, (N,).
        elbo_se: That of the ELBO, (N,): not the sum of the two, which are correlated.
        num_particles: Number of particles K.
        coords: Names of the data, by their dim.

    References:
        Alemi et al. (2018), Fixing a broken ELBO, arXiv:1711.00464, section 2.

    Example:
        >>> one = np.ones(2)
        >>> print(RateDistortion(one, 2 * one, -3 * one, 0 * one, 0 * one, 0 * one, num_particles=100))
        rate 1.000 + distortion 2.000 = -ELBO 3.000 nats per datum (2 data, K=100)
    """

    rate: np.ndarray
    distortion: np.ndarray
    elbo: np.ndarray
    rate_se: np.ndarray
    distortion_se: np.ndarray
    elbo_se: np.ndarray
    num_particles: int
    coords: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rate)

    def to_datatree(self) -> "xr.DataTree":
        """A tree with the group "rate_distortion": `tree["rate"] =
        parts.to_datatree()["rate_distortion"]`.
        """
        values = {name: getattr(self, name) for name in PARTS}
        coords = self.coords or {"datum": np.arange(len(self))}
        return tree_of("rate_distortion", values, coords, num_particles=self.num_particles)

    def __str__(self) -> str:
        rate, distortion, loss = self.rate.mean(), self.distortion.mean(), -self.elbo.mean()
        where = f"({len(self)} data, K={self.num_particles})"
        return f"rate {rate:.3f} + distortion {distortion:.3f} = -ELBO {loss:.3f} nats per datum {where}"


def rate_distortion(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    num_particles: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> RateDistortion:
    """Rate and distortion per datum, all Monte Carlo from the same K draws, so that they add up to
    -ELBO exactly.

    A rate near 0 for all data is posterior collapse. Global latents are left out.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset`, or an array, tensor, DataFrame, DataArray.
        num_particles: Number of particles K per datum.
        seed: Seed of the draws.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        Rate, distortion and ELBO with their standard errors.

    Raises:
        ValueError: x outside the support; a guide of other latents than the model's.

    References:
        Alemi et al. (2018), Fixing a broken ELBO, arXiv:1711.00464, section 2.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> found = rate_distortion(bed.model, bed.guide, bed.x)
        >>> bool(np.allclose(found.rate + found.distortion, -bed.log_evidence))  # the guide is exact
        True
    """
    found = _reduce_terms(_rate_and_distortion, model, guide, data, num_particles, seed, progress)
    coords = rows_of_data(as_dataset(data))
    return RateDistortion(**found, num_particles=num_particles, coords=coords)


def _rate_and_distortion(terms: LogTerms) -> dict[str, Tensor]:
    draws = {
        "rate": terms.log_q - terms.log_prior,
        "distortion": -terms.log_likelihood,
        "elbo": terms.log_weights,
    }
    found = {name: values.double().mean(0) for name, values in draws.items()}
    return found | {f"{name}_se": standard_error(values.double()) for name, values in draws.items()}


def standard_error(draws: Tensor) -> Tensor:
    """Of the mean over the first axis; NaN from one draw."""
    return (
        draws.std(0) / len(draws) ** 0.5 if len(draws) > 1 else torch.full_like(draws[0], torch.nan)
    )


def kl_per_dimension(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    num_particles: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> np.ndarray:
    """KL(q(z_d given x) || p(z_d)) per datum and latent dimension, in nats; the sum over dimensions
    is the rate.

    Defined where both q(z given x) and p(z) are products over dimensions (MeanFieldNormal with
    StandardNormal or LearnedNormal). Closed form where there is one, else the mean of log q - log p
    over K draws.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset`, or an array, tensor, DataFrame, DataArray.
        num_particles: Draws per datum, for what has no closed form and for sites that depend on the
            draws of others.
        seed: Seed of the draws.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        Shape (N, D), in nats; dimensions of several latent sites stand one after the other.

    Raises:
        ValueError: q or p is not a product over dimensions; the site and the distribution are
            named.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, appendix B.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> kl_per_dimension(bed.model, bed.mean_field_guide, bed.x).shape
        (3, 2)
    """
    return _reduce_terms(_kl_of_sites, model, guide, data, num_particles, seed, progress)["kl"]


def _reduce_terms(
    reduce: Callable[[LogTerms], dict[str, Tensor]],
    model: Program,
    guide: Program,
    data: Dataset | Any,
    num_particles: int,
    seed: int,
    progress: bool,
) -> dict[str, Any]:
    """What `reduce` makes of the log-probabilities of some data at a time, put together in their
    order.
    """
    data = place(as_dataset(data), model, guide)
    check_data(model, data.x, data.context, guide)
    rows, parts = rows_per_chunk(len(data), num_particles, None), []
    with tqdm(
        total=len(data), desc="rate and distortion", unit=" data", disable=not progress, delay=2
    ) as bar:
        for start in range(0, len(data), rows):
            part = data[start : start + rows]
            with evaluating(model, guide), seeded(derived_seed(seed, start)):
                terms = log_terms(
                    model, guide, *arguments(part.x, part.context), num_particles=num_particles
                )
                parts.append(reduce(terms))
            bar.update(len(part))
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}


def _kl_of_sites(terms: LogTerms) -> dict[str, Tensor]:
    return {"kl": sites_per_dimension(terms).mean(0).double()}
