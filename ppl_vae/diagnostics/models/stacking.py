"""The mixture of models that predicts held-out rows best, and the conversion for ArviZ."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from ppl_vae.evidence import Evidence
from ppl_vae.evidence.errors import normalised
from ppl_vae.evidence.pareto import GOOD_K
from ppl_vae.runtime.arviz import elpd_data, stacking_weights

if TYPE_CHECKING:
    from ppl_vae.runtime.arviz import ELPDData

__all__ = ["stacking", "to_elpd"]


def stacking(evidence: Mapping[str, Evidence]) -> dict[str, float]:
    """Stacking weights of models on the same rows.

    They maximise sum_i w_i log sum_m a_m p_m(x_i) over a; ArviZ finds them if the rows have no
    weights w.

    Args:
        evidence: Evidence by name, with the same weights of the rows.

    References:
        Yao et al. (2018), Using stacking to average Bayesian predictive distributions,
        arXiv:1704.02030.

    Example:
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> better = reduce_log_weights(np.full((50, 4), -2.0))
        >>> worse = reduce_log_weights(np.full((50, 4), -3.0))
        >>> round(stacking({"better": better, "worse": worse})["better"], 3)
        1.0
    """
    weights = next(iter(evidence.values())).weights
    if weights is None:
        with np.errstate(divide="ignore"):  # a model that is worse by a million nats
            return stacking_weights({name: to_elpd(each) for name, each in evidence.items()})
    log_p = np.stack([each.log_evidence for each in evidence.values()], axis=1)
    densities = np.exp(log_p - log_p.max(1, keepdims=True))
    shares = normalised(weights, len(log_p))

    def loss(a: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(densities @ a, np.finfo(float).tiny)
        return -shares @ np.log(mixed), -(shares / mixed) @ densities

    num_models = len(evidence)
    found = minimize(
        loss,
        np.full(num_models, 1 / num_models),
        jac=True,
        bounds=[(0, 1)] * num_models,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        tol=1e-10,
    )
    return dict(zip(evidence, np.clip(found.x, 0, 1).tolist(), strict=True))


def to_elpd(evidence: Evidence) -> "ELPDData":
    """log p(x) of held-out rows as ArviZ's expected log predictive density, for its `compare`.

    ArviZ's values are sums over the rows. `p`, which counts the parameters fitted to the same rows,
    is NaN for held-out ones. ArviZ's own `loo` is no substitute: with a latent for each row it is
    far too optimistic.

    Args:
        evidence: From `log_evidence`, on held-out rows.

    Raises:
        ValueError: The rows have weights, which ArviZ does not support.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation, arXiv:1507.04544,
        eq. 22.

    Example:
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> to_elpd(reduce_log_weights(np.full((50, 4), -2.0))).elpd
        -8.0
    """
    if evidence.weights is not None:
        raise ValueError(
            "the rows have weights, and ArviZ takes none: use evidence.summary() or compare_models"
        )
    return elpd_data(
        evidence.log_evidence,
        evidence.pareto_k,
        num_particles=evidence.num_particles,
        good_k=GOOD_K,
    )
