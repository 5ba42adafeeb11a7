"""Models side by side on the same held-out rows: paired differences, which are far less noisy than
the means.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import skew

from ppl_vae.diagnostics.models.comparable import of_bounds, of_k_hat, refuse_unlike, unchecked
from ppl_vae.diagnostics.models.difference import Difference
from ppl_vae.diagnostics.models.simultaneous import Reach, pairs_of
from ppl_vae.diagnostics.models.table import ModelComparison
from ppl_vae.diagnostics.models.trained_model import (
    FEWEST_TRAININGS,
    TrainedModel,
    variance_of_mean,
)
from ppl_vae.evidence import Evidence, EvidenceInterval
from ppl_vae.evidence.pareto import GOOD_K

if TYPE_CHECKING:
    from arviz_stats.utils import ELPDData

__all__ = ["compare_models", "to_elpd"]

Found = Evidence | EvidenceInterval
ROUNDING = 1e-9  # relative
SKEWED = 0.35  # skewness / sqrt(N) beyond which intervals cover less than 93 % in simulation


def compare_models(
    evidence: Mapping[str, Found | Sequence[Found]], *, reference: str | None = None
) -> ModelComparison:
    """Compare models by log p(x) of the same rows: mean of the paired differences, its errors, and
    stacking weights.

    With one training of each model the error is paired: what other rows would change, the trained
    models being these. With several, `{"vae": [e1, e2, e3], "iwae": [f1, f2, f3]}`, trainings are
    averaged, and how they spread is added to the error; several beside one have no interval. All
    intervals hold together with 95 %: those from a named `reference`, or else those of all pairs,
    since the best is chosen on these rows.

    Where log p(x) is not an estimate (`Evidence.is_estimate`) it is a lower bound, and a difference
    is proved on one side at most: a lower bound of a above an estimate of b proves that a is
    better; below, it proves nothing. An `EvidenceInterval` bounds log p(x) from both sides, and its
    ends are taken.

    Args:
        evidence: By name, `Evidence` from `log_evidence`, or `EvidenceInterval` from
            `evidence_interval`, on the same rows (and the same bits, if binarised), or a list of
            them, one for each training.
        reference: The model that the others are held against; None is the best.

    Returns:
        The comparison: `print` it, or take its `table`.

    Raises:
        ValueError: no `Evidence` by name; fewer than two models; other rows, bits or units of x; a
            density beside a probability; an upper bound; a log p(x) that is infinite or NaN; no
            such reference.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation, arXiv:1507.04544,
        section 5; Yao et al. (2018), Using stacking to average Bayesian predictive distributions,
        arXiv:1704.02030; Hsu (1996), Multiple comparisons: theory and methods (differences from the
        best).

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import log_evidence
        >>> bed, poor = beds.linear_gaussian(num_data=50), beds.linear_gaussian(num_data=50, noise=1.0)
        >>> pairs = {"true": bed.model, "too noisy": poor.model}
        >>> guides = {"true": bed.guide, "too noisy": poor.guide}
        >>> found = {name: log_evidence(m, guides[name], bed.x, num_particles=30) for name, m in pairs.items()}
        >>> compare_models(found).names[0]
        'true'
    """
    models = _models(evidence)
    trained = {label: each for model in models for label, each in model.labelled.items()}
    refuse_unlike(trained)
    models = sorted(models, key=lambda model: -model.mean.mean())
    baseline = next(
        (model for model in models if model.name == (reference or models[0].name)), None
    )
    if baseline is None:
        raise ValueError(
            f"there is no model {reference!r} to compare with: name one of {', '.join(evidence)}"
        )
    weights = _stacking(trained)
    differences = [Difference(model, baseline) for model in models]
    alike = [each.model for each in differences if each.matched]
    reach = Reach(alike, pairs_of(alike, baseline, chosen=reference is None))
    return ModelComparison(
        names=tuple(model.name for model in models),
        reference=baseline.name,
        trainings=tuple(model.lower.mean(1) for model in models),
        log_evidence=np.array([model.mean.mean() for model in models]),
        data_se=np.array([variance_of_mean(model.mean) for model in models]) ** 0.5,
        difference=np.array([each.paired.mean() for each in differences]),
        difference_se=np.array(
            [variance_of_mean(each.paired) + each.shared_variance for each in differences]
        )
        ** 0.5,
        difference_training_se=np.array([each.training_variance for each in differences]) ** 0.5,
        difference_mc_se=np.array([each.mc_variance for each in differences]) ** 0.5,
        interval=np.stack([each.interval(reach) for each in differences]),
        weight=np.array([sum(weights[label] for label in model.labelled) for model in models]),
        share_bad_k=np.array([model.share_bad_k for model in models]),
        share_bound=np.array([model.share_bound for model in models]),
        num_data=len(baseline.mean),
        notes=tuple(_notes(models, differences, trained)),
    )


def _models(evidence: Any) -> list[TrainedModel]:
    _check_kind(evidence)
    if len(evidence) < 2:
        raise ValueError(
            f"compare_models needs two models or more; given {', '.join(evidence) or 'none'}"
        )
    models = []
    for name, each in evidence.items():
        found = (each,) if isinstance(each, Found) else tuple(each)
        if not found:
            raise ValueError(f"there is no evidence of {name!r}: give one `Evidence` or more")
        models.append(TrainedModel(name, found))
    return models


def _check_kind(evidence: Any) -> None:
    if not isinstance(evidence, Mapping):
        raise ValueError(
            f"evidence is a {type(evidence).__name__}; give `Evidence` by name: "
            f"{{'vae': one, 'iwae': other}}"
        )
    for name, each in evidence.items():
        several = isinstance(each, Sequence) and all(isinstance(one, Found) for one in each)
        if not several and not isinstance(each, Found):
            raise ValueError(
                f"{name!r} is {each!r}; give what `log_evidence` returned, or a list of that"
            )


def to_elpd(evidence: Evidence) -> "ELPDData":
    """log p(x) of held-out data as ArviZ holds expected log predictive densities, for
    `arviz_stats.compare`.

    Sums over the data, as ArviZ has them. `p`, which counts what was fitted to the same data, is
    NaN: these were held out. ArviZ's own `loo` is no substitute: with a latent for each datum it is
    far too optimistic.

    Args:
        evidence: From `log_evidence`, on held-out rows.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation, arXiv:1507.04544, eq.
        22.

    Example:
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> to_elpd(reduce_log_weights(np.full((50, 4), -2.0))).elpd
        -8.0
    """
    import xarray as xr
    from arviz_stats.utils import ELPDData

    pointwise, k_hat = (
        xr.DataArray(x, dims="datum") for x in (evidence.log_evidence, evidence.pareto_k)
    )
    num_data = len(evidence)
    fields: dict[str, Any] = {
        "n_samples": evidence.num_particles,
        "n_data_points": num_data,
        "scale": "log",
    }
    fields |= {
        "elpd": float(pointwise.sum()),
        "se": float(num_data**0.5 * pointwise.std()),
        "p": np.nan,
    }
    fields |= {"warning": bool((k_hat > GOOD_K).any()), "good_k": GOOD_K, "pareto_k": k_hat}
    return ELPDData(elpd_i=pointwise, **fields)


def _stacking(trained: Mapping[str, Evidence]) -> dict[str, float]:
    """Weights of all trained models, by ArviZ.

    Each datum's log p(x) is taken less the largest among the models: the weights are the same, and
    p(x) neither underflows (ArviZ takes its exponential, which is 0 below -745 nats) nor overflows.
    """
    from arviz_stats import compare

    top = np.max([each.log_evidence for each in trained.values()], axis=0)
    shifted = {
        name: to_elpd(replace(each, log_evidence=each.log_evidence - top))
        for name, each in trained.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # of choosing among many: trainings of one model are no choice
        weights = compare(shifted, round_to="none")["weight"]
    return weights.clip(0.0, 1.0).to_dict()


def _notes(
    models: list[TrainedModel], differences: list[Difference], trained: Mapping[str, Evidence]
) -> list[str]:
    return [
        *of_bounds({model.name: model.share_bound for model in models}),
        *of_k_hat({model.name: model.share_bad_k for model in models}),
        *_training_notes(models),
        *_skewness_notes(differences),
        *unchecked(trained),
    ]


def _training_notes(models: list[TrainedModel]) -> list[str]:
    once = [model.name for model in models if model.trained_once]
    if len(once) == len(models):
        return [
            "One training of each: the errors say what other data would change, not what other "
            "trainings would."
        ]
    few = [model.name for model in models if 1 < len(model.found) < FEWEST_TRAININGS]
    said = (
        (
            once,
            "Trained once: {}. Other trainings are not in the errors, and beside several there is "
            "no interval.",
        ),
        (few, f"Trained twice: {{}}. Intervals of {FEWEST_TRAININGS} trainings are far narrower."),
    )
    return [text.format(", ".join(names)) for names, text in said if names]


def _skewness_notes(differences: list[Difference]) -> list[str]:
    skewed = [each.model.name for each in differences if each.both and _is_skewed(each.paired)]
    few = f"The differences of {', '.join(skewed)} are skewed, and the rows few"
    return [f"{few}: intervals of 95 % cover about 90 % there. Take more rows."] * bool(skewed)


def _is_skewed(values: np.ndarray) -> bool:
    centred = values - values.mean()
    varies = np.ptp(centred) > ROUNDING * (1 + np.abs(values).max())
    return bool(varies and abs(skew(centred)) > SKEWED * len(values) ** 0.5)
