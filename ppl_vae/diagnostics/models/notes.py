"""Notes on the validity of a comparison of models, a sentence each."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import skew

from ppl_vae.diagnostics.models.comparable import recorded
from ppl_vae.diagnostics.models.difference import Difference
from ppl_vae.diagnostics.models.trained_model import FEWEST_TRAININGS, TrainedModel
from ppl_vae.evidence.errors import effective_rows, normalised
from ppl_vae.evidence.pareto import GOOD_K

ROUNDING = 1e-9  # relative
SKEWED = 0.35  # skewness / sqrt(N) beyond which intervals cover less than 93 % in simulation

BOUNDS = (
    "log p(x) is a lower bound, not an estimate, for {}. The bound holds in expectation, and an "
    "interval without an end proves nothing on that side: `refine` the guide, or pass the "
    "`evidence_interval` of these rows."
)
UNKNOWN = "k-hat of {} is unknown, and so is the reliability of log p(x)."
BAD = f"k-hat > {GOOD_K} for some rows of {{}}."
ALL_ONCE = "One training of each: the errors do not include the variation between trainings."
ONCE = (
    "Trained once: {}. The errors do not include the variation between trainings, and there is no "
    "interval for a difference from a model with several trainings."
)
TWICE = f"Trained twice: {{}}. With {FEWEST_TRAININGS} trainings the intervals are much narrower."
SKEW = (
    "The differences of {} are skewed and the rows are few: nominal 95 % intervals cover about "
    "90 %. Use more rows."
)
WEIGHTED = (
    "Means are weighted, and errors are those for sampling weights: {}, whatever the sum of the "
    "weights."
)
ROWS = "Not checked: the evidence of {} does not record which rows it was computed on."
MEASURE = (
    "Not checked: the evidence of {} does not record whether it is a probability or a density."
)


def notes_on(models: Sequence[TrainedModel], differences: Sequence[Difference]) -> tuple[str, ...]:
    """The sentences that apply, with the names of the models."""
    trained = {label: each for model in models for label, each in model.labelled.items()}
    bounded = [f"{m.name} ({m.share_bound:.1%} of the rows)" for m in models if m.share_bound > 0]
    once = [model.name for model in models if model.trained_once]
    twice = [model.name for model in models if 1 < len(model.found) < FEWEST_TRAININGS]
    skewed = [each.model.name for each in differences if each.both and _is_skewed(each)]
    said = [
        (BOUNDS, ", ".join(bounded)),
        (UNKNOWN, _listed([model.name for model in models if np.isnan(model.share_bad_k)])),
        (BAD, _listed([model.name for model in models if model.share_bad_k > 0])),
        (ALL_ONCE if len(once) == len(models) else ONCE, ", ".join(once)),
        (TWICE, ", ".join(twice)),
        (WEIGHTED, _effective(models[0].weights)),
        (SKEW, ", ".join(skewed)),
        *(
            (text, _listed([name for name in trained if name not in recorded(trained, field)]))
            for text, field in ((ROWS, "digests"), (MEASURE, "measure"))
        ),
    ]
    return tuple(text.format(names) for text, names in said if names)


def _listed(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return " and ".join([*names[:1], *[f"{len(names) - 1} more"] * (len(names) > 1)])


def _effective(weights: np.ndarray | None) -> str:
    """The effective number of rows, in words; empty without weights."""
    if weights is None:
        return ""
    num_effective = effective_rows(weights, len(weights))
    return f"{len(weights)} rows are worth about {num_effective:.0f} of equal weight"


def _is_skewed(difference: Difference) -> bool:
    values = difference.paired
    num_rows = len(values)
    parts = num_rows * normalised(difference.model.weights, num_rows) * (values - difference.mean)
    varies = np.ptp(parts) > ROUNDING * (1 + np.abs(values).max())
    return bool(varies and abs(skew(parts)) > SKEWED * num_rows**0.5)
