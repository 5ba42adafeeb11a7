"""Everything that the package takes from ArviZ, imported when it is needed.

ArviZ moves its functions between releases; only this file has to follow.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from arviz_stats.utils import ELPDData

__all__ = ["chain_diagnostic", "elpd_data", "stacking_weights"]


def chain_diagnostic(name: str, draws: np.ndarray, **options: Any) -> np.ndarray:
    """A diagnostic of Markov chains by its name in ArviZ: "rhat", "ess" or "mcse".

    Args:
        name: The diagnostic.
        draws: Draws of each chain.
        options: Settings of the diagnostic, such as `method`.

    Shape:
        (draws, chains, *event) -> event

    Example:
        >>> draws = np.random.default_rng(0).normal(size=(500, 4, 2))
        >>> chain_diagnostic("rhat", draws).round(1).tolist()
        [1.0, 1.0]
    """
    from arviz_stats.base import array_stats

    diagnostic = getattr(array_stats, name)
    return np.asarray(diagnostic(draws, chain_axis=1, draw_axis=0, **options))


def elpd_data(
    log_densities: np.ndarray, pareto_k: np.ndarray, *, num_particles: int, good_k: float
) -> "ELPDData":
    """Held-out log densities as ArviZ's expected log predictive densities, summed over the rows.

    `p`, the effective number of parameters fitted to the same rows, is NaN.

    Args:
        log_densities: log p(x) of each row, (N,).
        pareto_k: k-hat of each row, (N,).
        num_particles: Number of particles K behind each row.
        good_k: The largest k-hat that is acceptable.

    Example:
        >>> elpd_data(np.full(4, -2.0), np.zeros(4), num_particles=50, good_k=0.7).elpd
        -8.0
    """
    import xarray as xr
    from arviz_stats.utils import ELPDData

    pointwise = xr.DataArray(log_densities, dims="datum")
    k_hat = xr.DataArray(pareto_k, dims="datum")
    num_rows = len(pointwise)
    totals: dict[str, Any] = {
        "elpd": float(pointwise.sum()),
        "se": float(num_rows**0.5 * pointwise.std()),
        "p": np.nan,
    }
    facts: dict[str, Any] = {
        "n_samples": num_particles,
        "n_data_points": num_rows,
        "scale": "log",
        "warning": bool((k_hat > good_k).any()),
        "good_k": good_k,
    }
    return ELPDData(elpd_i=pointwise, pareto_k=k_hat, **totals, **facts)


def stacking_weights(models: Mapping[str, "ELPDData"]) -> dict[str, float]:
    """Stacking weights of models on the same rows, by name.

    The largest log p(x) of each row is subtracted from all models first. The weights stay the same,
    and exp(log p(x)), which ArviZ computes, neither underflows nor overflows.

    Args:
        models: What `elpd_data` returned, by name.

    References:
        Yao et al. (2018), Using stacking to average Bayesian predictive distributions,
        arXiv:1704.02030.

    Example:
        >>> better = elpd_data(np.full(50, -2000.0), np.zeros(50), num_particles=1, good_k=0.7)
        >>> worse = elpd_data(np.full(50, -2001.0), np.zeros(50), num_particles=1, good_k=0.7)
        >>> round(stacking_weights({"better": better, "worse": worse})["better"], 3)
        1.0
    """
    from arviz_stats import compare

    top = np.max([each.elpd_i for each in models.values()], axis=0)
    shifted = {
        name: replace(each, elpd=float((each.elpd_i - top).sum()), elpd_i=each.elpd_i - top)
        for name, each in models.items()
    }
    with warnings.catch_warnings():
        # ArviZ warns of choosing among many models, but several may be trainings of one model.
        warnings.simplefilter("ignore", UserWarning)
        weights = compare(shifted, round_to="none")["weight"]
    return weights.clip(0.0, 1.0).to_dict()
