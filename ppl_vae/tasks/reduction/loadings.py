"""Loadings of a linear decoder, with intervals from bootstrap fits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ppl_vae.diagnostics.latents.loadings import factor_loadings
from ppl_vae.model import Model
from ppl_vae.programs.modules import evaluating
from ppl_vae.runtime.checks import instance_of, one_of, real_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.text import table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LoadingIntervals", "loading_intervals"]


@dataclass(frozen=True, repr=False)
class LoadingIntervals(Shown):
    """Loadings W with standard errors and intervals; `print` shows all of them.

    Args:
        estimate: W of the fitted model, (J, D).
        draws: W of each bootstrap fit, rotated towards the estimate, (fits, J, D).
        names: Names of the features, (J,).

    Example:
        >>> found = LoadingIntervals(np.ones((3, 1)), np.ones((5, 3, 1)), ("a", "b", "c"))
        >>> found.interval().tolist()[0] == found.estimate.tolist()
        True
    """

    estimate: np.ndarray
    draws: np.ndarray
    names: tuple[str, ...]

    @property
    def se(self) -> np.ndarray:
        """Standard deviations over the fits, (J, D)."""
        return self.draws.std(0, ddof=1)

    def interval(self, level: float = 0.95) -> np.ndarray:
        """Estimate plus and minus t standard errors, (2, J, D), t of (fits - 1) degrees of freedom.

        Args:
            level: Probability of each interval.
        """
        from scipy.stats import t

        real_number(level, "level", above=0, below=1)
        half = t.ppf((1 + level) / 2, len(self.draws) - 1) * self.se
        return np.stack([self.estimate - half, self.estimate + half])

    def to_frame(self, level: float = 0.95) -> "pd.DataFrame":
        """One row for each feature and factor.

        Args:
            level: Probability of each interval.
        """
        import pandas as pd

        factors = range(self.estimate.shape[1])
        index = pd.MultiIndex.from_product([self.names, factors], names=["feature", "factor"])
        low, high = self.interval(level)
        columns = {"loading": self.estimate, "se": self.se, "low": low, "high": high}
        return pd.DataFrame({name: each.ravel() for name, each in columns.items()}, index=index)

    def __str__(self) -> str:
        low, high = self.interval()
        head = ("loading, 95% interval", *(f"factor {d}" for d in range(self.estimate.shape[1])))
        rows = [
            (str(name), *(f"{w:.3g} [{a:.3g}, {b:.3g}]" for w, a, b in zip(*each, strict=True)))
            for name, *each in zip(self.names, self.estimate, low, high, strict=True)
        ]
        return table([head, *rows])

    def __repr__(self) -> str:
        num_features, num_factors = self.estimate.shape
        return (
            f"LoadingIntervals({num_features} features, {num_factors} factors, "
            f"{len(self.draws)} fits)"
        )


def loading_intervals(
    model: Model,
    fits: Sequence[tuple[Any, Any]],
    rotation: Literal["varimax", "lower"] = "varimax",
) -> LoadingIntervals:
    """Loadings of a linear model with the spread over bootstrap fits, each rotated to the estimate.

    W R with an orthogonal R is the same model, and each fit has an R of its own. Fit b is therefore
    rotated by Procrustes, W_b R_b with R_b = argmin over orthogonal R of sum_j ||w_bj R - w_j||^2 /
    Var(x_j), before its spread is taken. The intervals are for loadings up to rotation: they cover
    the true W rotated towards the estimate, and leave out how uncertain the rotation itself is. Two
    factors with nearly equal sums of squares, or too many factors, make single loadings meaningless
    in any case.

    Args:
        model: A `Model` whose E[x given z] is linear, as for `factor_loadings`.
        fits: Refits of it, `pv.bootstrap_fits(model, guide, data, num_fits=50)`: pairs of model and
            guide. Thirty or more make the standard errors good to 13 %.
        rotation: Of the estimate, "varimax" or "lower" (triangular).

    Returns:
        Loadings in the units of x, (J, D), and those of all fits.

    Raises:
        ValueError: E[x given z] is not linear in z, the prior is no normal with independent
            dimensions, or there are fewer than two fits.

    References:
        Timmerman, Kiers and Smilde (2007), Estimating confidence intervals for principal component
        loadings: a comparison between the bootstrap and asymptotic results, British Journal of
        Mathematical and Statistical Psychology 60; Ichikawa and Konishi (1995), Application of the
        bootstrap methods in factor analysis, Psychometrika 60; Schönemann (1966), A generalized
        solution of the orthogonal Procrustes problem, Psychometrika 31.

    Example:
        >>> from ppl_vae.families import likelihoods, networks, priors
        >>> made = [
        ...     Model(priors.StandardNormal(1), likelihoods.Gaussian(3), networks.Linear(1))
        ...     for _ in range(3)
        ... ]
        >>> loading_intervals(made[0], [(each, None) for each in made[1:]])
        LoadingIntervals(3 features, 1 factors, 2 fits)
    """
    instance_of(model, "model", Model)
    one_of(rotation, "loading_intervals(rotation)", ("varimax", "lower"))
    if len(fits) < 2:
        raise ValueError(
            f"there are {len(fits)} fits, and a standard error needs 2 or more: "
            "pv.bootstrap_fits(model, guide, data, num_fits=50)"
        )
    estimate = factor_loadings(model, rotation)
    each = np.stack([factor_loadings(fit, "lower") for fit, _ in fits])
    names = model.columns.get("x") or tuple(f"x[{j}]" for j in range(len(estimate)))
    unit = np.sqrt(np.square(estimate).sum(1) + _noise(model))
    return LoadingIntervals(estimate, towards(estimate, each, unit), tuple(names))


def towards(estimate: np.ndarray, others: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Each of the other loadings, (fits, J, D), rotated to be nearest to the estimate."""
    weights = 1 / np.square(unit)[:, None]
    left, _, right = np.linalg.svd(others.swapaxes(1, 2) @ (weights * estimate))
    return others @ (left @ right)


def _noise(model: Model) -> np.ndarray:
    """Var(x_j given z) at z = 0, (J,)."""
    parameter = next(model.parameters())
    z = torch.zeros(1, model.latent_dim).to(parameter)
    context = torch.zeros(1, model.context_dim).to(parameter) if model.context_dim else None
    with evaluating(model), torch.no_grad():
        return model.decode(z, context).variance.reshape(-1).double().cpu().numpy()
