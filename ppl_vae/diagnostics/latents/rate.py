"""Posterior collapse: the latent dimensions that carry information about x, and how many nats."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.groups import rows_of_data, tree_of
from ppl_vae.diagnostics.latents.means import latent_means
from ppl_vae.objectives.mean_field import kl_per_dimension as sites_per_dimension
from ppl_vae.programs.discrete.cases import cases_of
from ppl_vae.programs.inference import Block, Inference, rows_per_chunk, treat_alike
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import real_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.text import counted

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

TRACY_WIDOM_99 = 2.0234  # quantile of the Tracy-Widom law of order one
PARTS = ("rate", "distortion", "elbo", "rate_se", "distortion_se", "elbo_se")


@dataclass(frozen=True)
class ActiveUnits(Shown):
    """Var_x(E_q[z_d given x]) of every latent dimension, and which are above a threshold.

    Args:
        variance: Variance of the posterior means over the rows, (D,).
        names: Names of the dimensions, "z[0]", "z[1]", ...
        threshold: A dimension is active above it.
        exact: Whether the posterior means are exact; otherwise the variance is debiased and can be
            slightly negative.

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
        """A tree with the group "active_units".

        `tree["active_units"] = units.to_datatree()["active_units"]` adds it to another tree.
        """
        values = {"variance": self.variance, "active": self.active}
        return tree_of("active_units", values, {"dimension": self.names}, threshold=self.threshold)

    def counts(self, thresholds: np.ndarray) -> np.ndarray:
        """Number of dimensions above each threshold, shaped like the thresholds."""
        return (self.variance > np.asarray(thresholds)[..., None]).sum(-1)

    def __str__(self) -> str:
        active = f"{self.count} of {len(self.names)} latent dimensions are active"
        return f"{active} (variance > {self.threshold:g})"


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

    The mean is exact if the posterior distribution has a known mean. Otherwise it is estimated from
    draws, and their variance is subtracted: Var_n(m_n) - mean_n(s_n^2 / K). The threshold is in
    units of z, so it assumes a prior of scale one.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset`, or an array, tensor, DataFrame, DataArray; at least two rows.
        threshold: A dimension is active above it.
        num_particles: Draws per observation if the posterior has no closed-form mean.
        seed: Seed of those draws.
        progress: Whether to show a bar after two seconds.

    Returns:
        The variances, their names and the count.

    Raises:
        ValueError: there are fewer than two rows or two draws; the threshold is below 0; the
            guide's latents differ from the model's.

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
    inference = Inference(model, guide, data)
    rows, guide = inference.data, inference.guide
    treat_alike(rows, "active_units")
    if len(rows) < 2:
        raise ValueError(f"the data have {len(rows)} row; give at least 2 for a variance over rows")
    means = latent_means(guide, rows, num_particles=num_particles, seed=seed, progress=progress)
    variance = means.mean.var(0, ddof=1) - means.variance.mean(0)
    return ActiveUnits(variance, means.names, threshold, means.exact)


def linear_active_units(data: Dataset | Any, scale: float) -> int:
    """Number of latent dimensions that a linear VAE can use: covariance eigenvalues above noise.

    For a Gaussian likelihood of this standard deviation, a linear decoder, a linear mean-field
    encoder and a standard normal prior. The ELBO's optimum is then that of probabilistic PCA, with
    a dimension for each eigenvalue above sigma^2. The eigenvalues of N rows of pure noise in J
    features reach sigma^2 (1 + sqrt(J / N))^2, and the largest exceeds it by a random multiple of
    N^(-2/3): its 99 % quantile is the limit here. A direction of variance sigma^2 (1 + s) is found,
    as N grows, if s > sqrt(J / N). If fewer units are active (and fewer than the latent
    dimensions), training has failed; additional units, with eigenvalues down to sigma^2, fit the
    noise of these rows.

    Args:
        data: A `Dataset`, or an array, tensor, DataFrame, DataArray; nothing missing.
        scale: Standard deviation of the likelihood, the same for all features.

    Returns:
        A number; a model with fewer latent dimensions uses all of them.

    Raises:
        ValueError: values are missing, there are fewer than two rows, or the scale is not above 0.

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
        >>> bed = beds.linear_gaussian(num_data=500, latent_dim=3, noise=0.1)
        >>> linear_active_units(bed.x, scale=0.15)
        3
    """
    real_number(scale, "scale", above=0)
    rows = as_dataset(data)
    treat_alike(rows, "linear_active_units")
    x = rows.x.double()
    x = x.reshape(len(x), -1)
    if x.isnan().any():
        raise ValueError("x has missing values: give complete rows, since a covariance is needed")
    if len(x) < 2:
        raise ValueError(f"the data have {len(x)} row; a covariance needs at least 2")
    covariance = torch.atleast_2d(x.mT.cov(correction=1))
    return int((torch.linalg.eigvalsh(covariance) > scale**2 * noise_limit(*x.shape)).sum())


def noise_limit(num_rows: int, num_features: int) -> float:
    """99 % quantile of the largest eigenvalue of the covariance of unit noise."""
    degrees = num_rows - 1
    root = math.sqrt(degrees - 0.5)
    other = math.sqrt(num_features - 0.5)
    spread = (root + other) * (1 / root + 1 / other) ** (1 / 3)
    return ((root + other) ** 2 + TRACY_WIDOM_99 * spread) / degrees


@dataclass(frozen=True)
class RateDistortion(Shown):
    """Rate and distortion per observation, in nats, which add up to -ELBO.

    R = E_q[log q(z given x) - log p(z)], D = -E_q[log p(x given z)].

    Args:
        rate: KL(q(z given x) || p(z)), (N,).
        distortion: (N,).
        elbo: (N,).
        rate_se: Monte Carlo standard error of the rate, (N,); NaN with one particle.
        distortion_se: Monte Carlo standard error of the distortion, (N,).
        elbo_se: Monte Carlo standard error of the ELBO, (N,); not the sum of the other two, which
            are correlated.
        num_particles: Number of particles K.
        coords: Names of the rows, by their dim.

    References:
        Alemi et al. (2018), Fixing a broken ELBO, arXiv:1711.00464, section 2.

    Example:
        >>> one, errors = np.ones(2), [np.zeros(2)] * 3
        >>> print(RateDistortion(one, 2 * one, -3 * one, *errors, num_particles=100))
        rate 1.000 + distortion 2.000 = -ELBO 3.000 nats per row (2 rows, K=100)
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
        """A tree with the group "rate_distortion".

        `tree["rate"] = parts.to_datatree()["rate_distortion"]` adds it to another tree.
        """
        rows = self.coords or {"datum": np.arange(len(self))}
        values = {name: getattr(self, name) for name in PARTS}
        return tree_of("rate_distortion", values, rows, num_particles=self.num_particles)

    def __str__(self) -> str:
        parts = f"rate {self.rate.mean():.3f} + distortion {self.distortion.mean():.3f}"
        rows = f"({counted(len(self), 'row')}, K={self.num_particles})"
        return f"{parts} = -ELBO {-self.elbo.mean():.3f} nats per row {rows}"


def rate_distortion(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    num_particles: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> RateDistortion:
    """Rate and distortion per observation, by Monte Carlo.

    Both come from the same K draws, so they add up to -ELBO exactly. A rate near 0 for all rows is
    posterior collapse. Global latents are left out. Discrete latents y of the guide (1,000 values
    at most) take each of their values, weighed by q(y given x): this is the ELBO of
    `EnumeratedELBO`. That of `log_evidence` is at least as large, since it sums p(x, y, z) over y
    without q(y given x); they are equal where q(y given x) is p(y given x, z).

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset`, or an array, tensor, DataFrame, DataArray.
        num_particles: Number of particles K per observation.
        seed: Seed of the draws.
        progress: Whether to show a bar after two seconds.

    Returns:
        Rate, distortion and ELBO with their standard errors.

    Raises:
        ValueError: x is outside the support; the guide's latents differ from the model's.

    References:
        Alemi et al. (2018), Fixing a broken ELBO, arXiv:1711.00464, section 2.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> found = rate_distortion(bed.model, bed.guide, bed.x)
        >>> bool(np.allclose(found.rate + found.distortion, -bed.log_evidence))  # exact guide
        True
    """
    inference = Inference(model, guide, data)
    inference.require_density()
    treat_alike(inference.data, "the printed mean")

    def parts(block: Block) -> dict[str, Tensor]:
        return _rate_and_distortion(block, num_particles)

    found = _reduced(parts, inference, num_particles, seed, progress)
    return RateDistortion(**found, num_particles=num_particles, coords=rows_of_data(inference.data))


def _rate_and_distortion(block: Block, num_particles: int) -> dict[str, Tensor]:
    """Means over the draws and their errors, (B,) each."""
    terms = block.terms(num_particles)
    cases = cases_of(terms, *block.inference.programs, *block.args)
    runs = (terms,) if cases is None else cases.terms
    draws = {
        "rate": [(each.log_q - each.log_prior).double() for each in runs],
        "distortion": [-each.log_likelihood.double() for each in runs],
        "elbo": [each.log_weights.double() for each in runs],
    }
    found = {name: cases.mean(each) if cases else each[0] for name, each in draws.items()}
    errors = {f"{name}_se": standard_error(values) for name, values in found.items()}
    return {name: values.mean(0) for name, values in found.items()} | errors


def standard_error(draws: Tensor) -> Tensor:
    """Of the mean over the first axis; NaN from one draw."""
    if len(draws) == 1:
        return torch.full_like(draws[0], torch.nan)
    return draws.std(0) / len(draws) ** 0.5


def kl_per_dimension(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    num_particles: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> np.ndarray:
    """KL(q(z_d given x) || p(z_d)) per observation and latent dimension, in nats.

    It is defined if both q(z given x) and p(z) are products over dimensions (MeanFieldNormal with
    StandardNormal or LearnedNormal); the sum over dimensions is then the rate. It is in closed form
    if there is one, else the mean of log q - log p over K draws.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset`, or an array, tensor, DataFrame, DataArray.
        num_particles: Draws per observation, for KLs without a closed form and for sites that
            depend on the draws of others.
        seed: Seed of the draws.
        progress: Whether to show a bar after two seconds.

    Returns:
        Shape (N, D), in nats; dimensions of several latent sites follow one another.

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

    def kl(block: Block) -> dict[str, Tensor]:
        return {"kl": sites_per_dimension(block.terms(num_particles)).mean(0).double()}

    return _reduced(kl, Inference(model, guide, data), num_particles, seed, progress)["kl"]


def _reduced(
    reduce: Callable[[Block], dict[str, Tensor]],
    inference: Inference,
    num_particles: int,
    seed: int,
    progress: bool,
) -> dict[str, Any]:
    """Reductions of the log-probabilities over the particles, for all rows."""
    parts = []
    rows = rows_per_chunk(len(inference), num_particles)
    blocks = inference.blocks(rows, seed=seed, title="rate and distortion", progress=progress)
    for block in blocks:
        with block.evaluating():
            parts.append(reduce(block))
    return {name: values.cpu().numpy() for name, values in joined(parts).items()}


def joined(parts: Sequence[dict[str, Tensor]], dim: int = 0) -> dict[str, Tensor]:
    """Values of all rows by name, from the values of blocks of rows."""
    return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}
