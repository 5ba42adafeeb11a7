"""The share of the variance of x that each latent explains: Sobol' indices of the decoder."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_vae.diagnostics.latents.loadings import factor_loadings
from ppl_vae.diagnostics.latents.means import dimension_names
from ppl_vae.families.context import check_context, read_context
from ppl_vae.families.shared import shared_latents
from ppl_vae.model import Model
from ppl_vae.programs.modules import evaluating
from ppl_vae.runtime.checks import instance_of, one_of, whole_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.seeding import seeded
from ppl_vae.runtime.text import table
from ppl_vae.tasks.reduction.jackknife import jackknife_se, means_without

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["VarianceExplained", "variance_explained"]

NUM_GROUPS = 32  # of draws, left out in turn for the standard errors


@dataclass(frozen=True, repr=False)
class VarianceExplained(Shown):
    """Shares of the variance of x, by latent; `print` shows them.

    Args:
        first_order: Share that z_d explains alone, (D,).
        total: Share that is lost where z_d is unknown and all others are known, (D,); larger than
            first_order by the interactions of z_d with other latents.
        explained: Share that all latents explain together; the rest is noise, Var(x given z).
        by_feature: first_order of each feature, (J, D); NaN for a feature that does not vary.
        first_order_se: Monte Carlo standard errors, (D,); 0 where the decoder is linear.
        total_se: Those of total, (D,).
        explained_se: That of explained.
        names: Names of the latents, "z[0]", "z[1]", ...
        features: Names of the features, (J,).

    Example:
        >>> share, zero = np.array([0.5]), np.zeros(1)
        >>> found = VarianceExplained(share, share, 0.5, share[None], zero, zero, 0.0, ("z[0]",))
        >>> print(found)
        share of the variance     first order            total
        z[0]                    0.500 (0.000)    0.500 (0.000)
        all latents             0.500 (0.000)
    """

    first_order: np.ndarray
    total: np.ndarray
    explained: float
    by_feature: np.ndarray
    first_order_se: np.ndarray
    total_se: np.ndarray
    explained_se: float
    names: tuple[str, ...]
    features: tuple[str, ...] = ()

    def to_frame(self) -> "pd.DataFrame":
        """One row for each latent."""
        import pandas as pd

        columns = {
            "first_order": self.first_order,
            "first_order_se": self.first_order_se,
            "total": self.total,
            "total_se": self.total_se,
        }
        return pd.DataFrame(columns, index=pd.Index(self.names, name="latent"))

    def __str__(self) -> str:
        alone = _cells(self.first_order, self.first_order_se)
        lost = _cells(self.total, self.total_se)
        together = _cells([self.explained], [self.explained_se])[0]
        return table(
            [
                ("share of the variance", "first order", "total"),
                *zip(self.names, alone, lost, strict=True),
                ("all latents", together, ""),
            ]
        )

    def __repr__(self) -> str:
        return f"VarianceExplained({len(self.names)} latents explain {self.explained:.1%})"


def _cells(shares: Any, errors: Any) -> list[str]:
    return [f"{share:.3f} ({error:.3f})" for share, error in zip(shares, errors, strict=True)]


def variance_explained(
    model: Model,
    context: Any = None,
    *,
    units: Literal["feature", "x"] = "feature",
    num_draws: int = 4096,
    seed: int = 0,
) -> VarianceExplained:
    """Sobol' indices of each latent on E[x given z], z ~ p(z), as shares of Var(x).

    With m(z) = E[x given z], Var(x_j) = Var(m_j(z)) + E[Var(x_j given z)]. z_d alone explains
    Var(E[m_j(z) given z_d]) of it (first order), and E[Var(m_j(z) given all other latents)] is lost
    where z_d alone is unknown (total). Their shares are averaged over the features; units="x" adds
    up variances instead, sum_j of each, and is dominated by features in small units. The
    estimators are Jansen's, with z and z' from p(z) and z^d equal to z but for z'_d: E ||m(z) -
    m(z^d)||^2 / 2 for the total, and that of all of z minus E ||m(z') - m(z^d)||^2 / 2 for the
    first order. Where m is linear, m = a + W z and z ~ N(0, I), both are W_jd^2 exactly, as in
    factor analysis; a rotation of the latents changes them, their sum stays.

    These are shares under the model. A latent that explains little may be unused (`active_units`),
    and a model that fits badly misstates all of them. Categories have no mean and are refused.

    Args:
        model: A `Model` whose prior has independent dimensions.
        context: Covariates, (N, C), of a model with covariates: draws take rows of it at random,
            and the variance is that given covariates.
        units: "feature" (every feature in units of its sd under the model) or "x".
        num_draws: Pairs of draws of z, rounded up to a multiple of 32.
        seed: Seed of the draws.

    Returns:
        First-order and total shares of the latents, and the share of all of them.

    Raises:
        ValueError: The prior has dependent dimensions, or x has no finite variance.

    References:
        Sobol' (2001), Global sensitivity indices for nonlinear mathematical models and their Monte
        Carlo estimates, Mathematics and Computers in Simulation 55; Jansen (1999), Analysis of
        variance designs for model output, Computer Physics Communications 117; Gamboa et al.
        (2014), Sensitivity analysis for multidimensional and functional outputs, Electronic Journal
        of Statistics 8 (several outputs, units="x").

    Example:
        >>> from ppl_vae.families import likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Gaussian(5), networks.Linear(2))
        >>> found = variance_explained(model)
        >>> bool(np.allclose(found.first_order.sum(), found.explained))
        True
    """
    instance_of(model, "model", Model)
    one_of(units, "variance_explained(units)", ("feature", "x"))
    size = -(-whole_number(num_draws, "num_draws") // NUM_GROUPS)
    context = read_context(context, model.context_dim, model)
    check_context(context, model.context_dim, "the decoder")
    with evaluating(model), torch.no_grad(), seeded(seed):
        groups = [_variances(model, context, size) for _ in range(NUM_GROUPS)]
    parts = np.stack(groups)
    loadings = _linear(model)
    if loadings is not None:
        parts[:, 1:-1] = np.square(loadings).T.repeat(2, axis=0)
        parts[:, 0] = np.square(loadings).sum(1)
    _check_finite(parts, model)
    shares = _shares(parts.mean(0), units)
    error = jackknife_se(np.stack([_shares(each, units) for each in means_without(parts)]))
    noise = parts.mean(0)[[0, -1]].sum(0)
    with np.errstate(invalid="ignore"):
        by_feature = (parts.mean(0)[1:-1:2] / noise).T
    return VarianceExplained(
        first_order=shares[1::2],
        total=shares[2::2],
        explained=float(shares[0]),
        by_feature=by_feature,
        first_order_se=error[1::2],
        total_se=error[2::2],
        explained_se=float(error[0]),
        names=dimension_names({"z": (model.latent_dim,)}),
        features=_features(model, len(noise)),
    )


def _variances(model: Model, context: Tensor | None, size: int) -> np.ndarray:
    """Of each feature: explained, alone and total by latent, noise, (2 D + 2, J)."""
    if context is not None:
        context = context[torch.randint(len(context), (size,))]
    one, other = _latents(model, context, size)
    likelihood = model.decode(one, context)
    mean = likelihood.mean
    far = model.decode(other, context).mean
    explained = (mean - far).square().mean(0) / 2
    found = [explained]
    for mixed in _exchanged(one, other):
        moved = model.decode(mixed, context).mean
        found += [explained - (far - moved).square().mean(0) / 2]
        found += [(mean - moved).square().mean(0) / 2]
    found.append(likelihood.variance.mean(0))
    return torch.stack(found).flatten(1).double().cpu().numpy()


def _latents(model: Model, context: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """Two independent draws of z for each row."""
    prior: Any = None if shared_latents(model.prior) else model.prior_at(context)
    base: Any = getattr(prior, "base_dist", None)
    if not isinstance(prior, torch.distributions.Independent) or base.event_shape:
        raise ValueError(
            f"under {type(model.prior).__name__} the latents depend on each other, and no share of "
            "the variance is that of one of them: use StandardNormal, LearnedNormal, Laplace or "
            "StudentT"
        )
    shape = (2,) if prior.batch_shape else (2, size)
    one, other = prior.sample(shape)
    return one, other


def _exchanged(one: Tensor, other: Tensor) -> Iterator[Tensor]:
    """The first draw with one dimension after the other taken from the second."""
    for d in range(one.shape[-1]):
        mixed = one.clone()
        mixed[..., d] = other[..., d]
        yield mixed


def _linear(model: Model) -> np.ndarray | None:
    """Loadings in sds of z, (J, D), if E[x given z] is linear and z normal and free of c."""
    prior: Any = model.prior_at(None) if not model.context_dim else None
    if not isinstance(getattr(prior, "base_dist", None), torch.distributions.Normal):
        return None
    try:
        return factor_loadings(model, rotation=None)
    except ValueError:
        return None


def _check_finite(parts: np.ndarray, model: Model) -> None:
    """Raise where x has no finite mean or variance."""
    bad = ~np.isfinite(parts).all((0, 1))
    if bad.any():
        name = _features(model, len(bad))[int(bad.argmax())]
        raise ValueError(
            f"{name} has no finite mean or variance under {type(model.likelihood).__name__}: a "
            "category has none, nor has a tail that is too heavy; model it by another likelihood, "
            "or leave it out"
        )


def _shares(parts: np.ndarray, units: str) -> np.ndarray:
    """Explained, then alone and total by latent, as shares of the variance, (2 D + 1,)."""
    variance = parts[0] + parts[-1]
    if units == "x":
        return parts[:-1].sum(1) / variance.sum()
    varies = variance > 0
    return (parts[:-1, varies] / variance[varies]).mean(1)


def _features(model: Model, num: int) -> tuple[str, ...]:
    """Names of the features."""
    return tuple(model.columns.get("x") or (f"x[{j}]" for j in range(num)))
