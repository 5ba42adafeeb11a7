"""Models side by side on the same held-out rows: paired differences, which are far less noisy than the means."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtrit

from ppl_vae.diagnostics.comparable import BAD_K, of_k_hat, refuse_unlike, unchecked
from ppl_vae.diagnostics.comparison_table import LEVEL, ModelComparison
from ppl_vae.evidence import Evidence

if TYPE_CHECKING:
    from arviz_stats.utils import ELPDData

__all__ = ["compare_models", "to_elpd"]


def compare_models(
    evidence: Mapping[str, Evidence | Sequence[Evidence]], *, reference: str | None = None
) -> ModelComparison:
    """Compare models by log p(x) of the same data: mean of the paired differences, its errors, and stacking weights.

    With one training of each model it is a paired t: what other data would change, the trained models being these. With
    several, `{"vae": [e1, e2, e3], "iwae": [f1, f2, f3]}`, trainings are averaged, and how they spread is added to the
    error. Against the best of many models, chosen on these data, intervals are too narrow: name a `reference` then.

    Args:
        evidence: By name, `Evidence` from `log_evidence` on the same rows (and the same bits, if binarised), or a list
            of them, one for each training.
        reference: The model that the others are held against; None is the best.

    Returns:
        The comparison: `print` it, or take its `table`.

    Raises:
        ValueError: no `Evidence` by name; fewer than two models; other rows, bits or units of x; a density beside a
            probability; an upper bound; no such reference.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation, arXiv:1507.04544, section 5;
        Yao et al. (2018), Using stacking to average Bayesian predictive distributions, arXiv:1704.02030.

    Example:
        >>> from ppl_vae.data import beds
        >>> from ppl_vae.evidence import log_evidence
        >>> bed, poor = beds.linear_gaussian(num_data=50), beds.linear_gaussian(num_data=50, noise=1.0)
        >>> pairs = {"true": bed.model, "too noisy": poor.model}
        >>> guides = {"true": bed.guide, "too noisy": poor.guide}
        >>> found = {name: log_evidence(m, guides[name], bed.x, num_particles=30) for name, m in pairs.items()}
        >>> compare_models(found).names[0]
        'true'
    """
    _check_kind(evidence)
    if len(evidence) < 2:
        raise ValueError(f"compare_models needs two models or more; given {', '.join(evidence) or 'none'}")
    if empty := [name for name, each in evidence.items() if not len(each)]:
        raise ValueError(f"there is no evidence of {empty[0]!r}: give one `Evidence` or more")
    models = [_Model(name, (each,) if isinstance(each, Evidence) else tuple(each)) for name, each in evidence.items()]
    trained = {label: each for model in models for label, each in model.labelled.items()}
    refuse_unlike(trained)
    models = sorted(models, key=lambda model: -model.mean.mean())
    baseline = next((model for model in models if model.name == (reference or models[0].name)), None)
    if baseline is None:
        raise ValueError(f"there is no model {reference!r} to compare with: name one of {', '.join(evidence)}")
    weights = _stacking(trained)
    notes = [*_training_notes(models), *of_k_hat({model.name: model.share_bad_k for model in models})]
    differences = [_Difference(model, baseline) for model in models]
    return ModelComparison(
        names=tuple(model.name for model in models),
        reference=baseline.name,
        trainings=tuple(model.trainings.mean(1) for model in models),
        log_evidence=np.array([model.mean.mean() for model in models]),
        data_se=np.array([_over_data(model.mean) for model in models]) ** 0.5,
        difference=np.array([each.paired.mean() for each in differences]),
        difference_se=np.array([_over_data(each.paired) for each in differences]) ** 0.5,
        difference_training_se=np.array([each.training_variance for each in differences]) ** 0.5,
        difference_mc_se=np.array([each.mc_variance for each in differences]) ** 0.5,
        interval=np.stack([each.interval for each in differences]),
        weight=np.array([sum(weights[label] for label in model.labelled) for model in models]),
        share_bad_k=np.array([model.share_bad_k for model in models]),
        num_data=len(baseline.mean),
        notes=(*notes, *unchecked(trained)),
    )


def _check_kind(evidence: Any) -> None:
    if not isinstance(evidence, Mapping):
        raise ValueError(
            f"evidence is a {type(evidence).__name__}; give `Evidence` by name: {{'vae': one, 'iwae': other}}"
        )
    for name, each in evidence.items():
        several = isinstance(each, Sequence) and all(isinstance(one, Evidence) for one in each)
        if not several and not isinstance(each, Evidence):
            raise ValueError(f"{name!r} is {each!r}; give what `log_evidence` returned, or a list of that")


def to_elpd(evidence: Evidence) -> "ELPDData":
    """log p(x) of held-out data as ArviZ holds expected log predictive densities, for `arviz_stats.compare`.

    Sums over the data, as ArviZ has them. `p`, which counts what was fitted to the same data, is NaN: these were held
    out. ArviZ's own `loo` is no substitute: with a latent for each datum it is far too optimistic.

    Args:
        evidence: From `log_evidence`, on held-out rows.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation, arXiv:1507.04544, eq. 22.

    Example:
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> to_elpd(reduce_log_weights(np.full((50, 4), -2.0))).elpd
        -8.0
    """
    import xarray as xr
    from arviz_stats.utils import ELPDData

    pointwise, k_hat = (xr.DataArray(x, dims="datum") for x in (evidence.log_evidence, evidence.pareto_k))
    num_data = len(evidence)
    fields: dict[str, Any] = {"n_samples": evidence.num_particles, "n_data_points": num_data, "scale": "log"}
    fields |= {"elpd": float(pointwise.sum()), "se": float(num_data**0.5 * pointwise.std()), "p": np.nan}
    fields |= {"warning": bool((k_hat > BAD_K).any()), "good_k": BAD_K, "pareto_k": k_hat}
    return ELPDData(elpd_i=pointwise, **fields)


@dataclass(frozen=True)
class _Model:
    """One model, trained once or several times."""

    name: str
    evidence: tuple[Evidence, ...]

    @property
    def labelled(self) -> dict[str, Evidence]:
        several = len(self.evidence) > 1
        return {f"{self.name}[{i}]" if several else self.name: each for i, each in enumerate(self.evidence)}

    @cached_property
    def trainings(self) -> np.ndarray:
        """log p(x) of each training and datum, (R, N)."""
        return np.stack([each.log_evidence for each in self.evidence])

    @cached_property
    def mean(self) -> np.ndarray:
        """log p(x) of each datum, mean over trainings, (N,)."""
        return self.trainings.mean(0)

    @property
    def mc_variance(self) -> float:
        """Monte Carlo variance of the mean over trainings and data."""
        return sum(each.mean_mc_se**2 for each in self.evidence) / len(self.evidence) ** 2

    @property
    def training_variance(self) -> float:
        """Variance of the mean over trainings, from their spread; NaN for one."""
        return _over_data(self.trainings.mean(1)) if len(self.evidence) > 1 else np.nan

    @property
    def share_bad_k(self) -> float:
        return float(np.mean([each.summary().share_bad_k for each in self.evidence]))


@dataclass(frozen=True)
class _Difference:
    """One model less another, on the same data."""

    model: _Model
    baseline: _Model

    @property
    def both(self) -> tuple[_Model, ...]:
        return () if self.model is self.baseline else (self.model, self.baseline)

    @cached_property
    def paired(self) -> np.ndarray:
        return self.model.mean - self.baseline.mean

    @property
    def training_variance(self) -> float:
        return sum(each.training_variance for each in self.both)

    @property
    def mc_variance(self) -> float:
        return sum(each.mc_variance for each in self.both)

    @property
    def interval(self) -> np.ndarray:
        """Each part of the variance with its degrees of freedom; trainings count where both models have several."""
        parts = [(_over_data(self.paired), len(self.paired) - 1)]
        if np.isfinite(self.training_variance):
            parts += [(each.training_variance, len(each.evidence) - 1) for each in self.both]
        total = sum(variance for variance, _ in parts)
        if not total:
            return np.full(2, self.paired.mean())
        freedom = total**2 / sum(variance**2 / count for variance, count in parts)
        return self.paired.mean() + np.array([-1, 1]) * stdtrit(freedom, (1 + LEVEL) / 2) * total**0.5


def _over_data(values: np.ndarray) -> float:
    """Variance of the mean."""
    return values.var(ddof=1) / len(values)


def _stacking(trained: Mapping[str, Evidence]) -> dict[str, float]:
    """Weights of all trained models, by ArviZ.

    Each datum's log p(x) is taken less the largest among the models: the weights are the same, and p(x) neither
    underflows (ArviZ takes its exponential, which is 0 below -745 nats) nor overflows.
    """
    from arviz_stats import compare

    top = np.max([each.log_evidence for each in trained.values()], axis=0)
    shifted = {name: to_elpd(replace(each, log_evidence=each.log_evidence - top)) for name, each in trained.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of choosing among many: trainings of one model are no choice
        weights = compare(shifted, round_to="none")["weight"]
    return weights.clip(0.0, 1.0).to_dict()


def _training_notes(models: list[_Model]) -> list[str]:
    once = [model.name for model in models if len(model.evidence) == 1]
    if len(once) == len(models):
        return ["One training of each: the errors say what other data would change, not what other trainings would."]
    return [f"Trained once, so that other trainings are not in the errors: {', '.join(once)}."] * bool(once)
