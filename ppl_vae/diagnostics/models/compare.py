"""Models side by side on the same held-out rows, by paired differences of log p(x)."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ppl_vae.diagnostics.models.comparable import refuse_unlike
from ppl_vae.diagnostics.models.difference import Difference
from ppl_vae.diagnostics.models.notes import notes_on
from ppl_vae.diagnostics.models.simultaneous import Reach, pairs_of
from ppl_vae.diagnostics.models.stacking import stacking
from ppl_vae.diagnostics.models.table import ModelComparison
from ppl_vae.diagnostics.models.trained_model import TrainedModel, variance_of_mean
from ppl_vae.evidence import Evidence, EvidenceInterval
from ppl_vae.runtime.text import echoed

__all__ = ["compare_models"]

Found = Evidence | EvidenceInterval


def compare_models(
    evidence: Mapping[str, Found | Sequence[Found]], *, reference: str | None = None
) -> ModelComparison:
    """Compare models by log p(x) of the same rows: mean paired differences and stacking weights.

    With one training of each model the standard error is that of the paired differences: it
    reflects other rows, for these trained models. Several trainings of a model,
    `{"vae": [e1, e2, e3], "iwae": [f1, f2, f3]}`, are averaged, and their spread is added to the
    error; between a model with several trainings and a model with one there is no interval. The
    intervals are simultaneous: all hold with probability 95 %, for the differences from a named
    `reference`, or else for all pairs, since the best model is chosen on these rows.

    If log p(x) is not an estimate (`Evidence.is_estimate`) it is a lower bound, and a difference is
    bounded on one side at most: if a lower bound for a is above an estimate for b, a is better; if
    it is below, nothing is proved. An `EvidenceInterval` bounds log p(x) from both sides, and both
    ends are used.

    Rows with weights (`Dataset(weights=)`) have weighted means, and standard errors for sampling
    weights, as in `EvidenceSummary`; stacking is weighted too.

    Args:
        evidence: By name, `Evidence` from `log_evidence` or `EvidenceInterval` from
            `evidence_interval`, on the same rows (and the same bits, if binarised); or a list of
            them, one for each training.
        reference: The model with which the others are compared; None is the best model.

    Returns:
        The comparison: `print` it, or use its `table`.

    Raises:
        ValueError: `evidence` is not a mapping of `Evidence`, or has fewer than two models; rows,
            bits or units of x differ; a density is compared with a probability; a value is an
            upper bound, infinite or NaN; two trainings of a model are one; there is no model
            `reference`.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation, arXiv:1507.04544,
        section 5; Yao et al. (2018), Using stacking to average Bayesian predictive distributions,
        arXiv:1704.02030; Hsu (1996), Multiple comparisons: theory and methods (differences from the
        best).

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import log_evidence
        >>> bed = beds.linear_gaussian(num_data=50)
        >>> noisy = beds.linear_gaussian(num_data=50, noise=1.0)
        >>> true = log_evidence(bed.model, bed.guide, bed.x, num_particles=30)
        >>> wrong = log_evidence(noisy.model, noisy.guide, bed.x, num_particles=30)
        >>> compare_models({"true": true, "too noisy": wrong}).names[0]
        'true'
    """
    models = _models(evidence)
    trained = {label: each for model in models for label, each in model.labelled.items()}
    refuse_unlike(trained)
    for model in models:
        _refuse_repeats(model)
    models.sort(key=lambda model: -model.means.mean())
    named = {model.name: model for model in models}
    baseline = models[0] if reference is None else named.get(reference)
    if baseline is None:
        raise ValueError(
            f"there is no model {echoed(reference)} to compare with: name one of "
            f"{', '.join(evidence)}"
        )
    shares = stacking(trained)
    differences = [Difference(model, baseline) for model in models]
    matched = [each.model for each in differences if each.matched]
    reach = Reach(matched, pairs_of(matched, baseline, chosen=reference is None))
    shared = np.array([each.variance("shared_variance") for each in differences])
    paired = np.array([each.data_variance for each in differences])
    return ModelComparison(
        names=tuple(named),
        reference=baseline.name,
        trainings=tuple(model.means for model in models),
        log_evidence=np.array([model.means.mean() for model in models]),
        data_se=np.sqrt([variance_of_mean(model.mean, model.weights) for model in models]),
        difference=np.array([each.mean for each in differences]),
        difference_se=np.sqrt(paired + shared),
        difference_training_se=np.sqrt(
            [each.variance("training_variance") for each in differences]
        ),
        difference_mc_se=np.sqrt([each.variance("mc_variance") for each in differences]),
        interval=np.stack([each.interval(reach) for each in differences]),
        weight=np.array([sum(shares[label] for label in model.labelled) for model in models]),
        share_bad_k=np.array([model.share_bad_k for model in models]),
        share_bound=np.array([model.share_bound for model in models]),
        num_data=len(baseline.mean),
        notes=notes_on(models, differences),
    )


def _models(evidence: Any) -> list[TrainedModel]:
    """The models, each with its trainings."""
    if not isinstance(evidence, Mapping):
        raise ValueError(
            f"evidence is a {type(evidence).__name__}; give `Evidence` by name: "
            "{'vae': one, 'iwae': other}"
        )
    models = []
    for name, each in evidence.items():
        if not isinstance(name, str):
            raise ValueError(f"a model is called {name!r}: give it a name, a string")
        found = (each,) if isinstance(each, Found) else each
        if not isinstance(found, Sequence) or not all(isinstance(one, Found) for one in found):
            raise ValueError(
                f"{name!r} is {each!r}; give what `log_evidence` returned, or a list of that"
            )
        if not found:
            raise ValueError(f"there is no evidence of {name!r}: give one `Evidence` or more")
        models.append(TrainedModel(name, tuple(found)))
    if len(models) < 2:
        raise ValueError(
            f"compare_models needs two models or more; given {', '.join(evidence) or 'none'}"
        )
    return models


def _refuse_repeats(model: TrainedModel) -> None:
    """Refuse trainings that are one training: their spread would be that of no training."""
    for i, j in combinations(range(len(model.found)), 2):
        if np.array_equal(model.lower[i], model.lower[j]):
            raise ValueError(
                f"trainings {i} and {j} of {model.name!r} have the same log p(x) in every row, to "
                "the bit: give each training a seed of its own, or give this one once"
            )
