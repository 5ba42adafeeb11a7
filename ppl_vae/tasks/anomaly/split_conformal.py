"""anomaly_pvalues: the rows' scores, ranked among those of calibration rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.data.validation import as_array
from ppl_vae.families.shared import shared_latents
from ppl_vae.programs.inference import Inference, treat_alike
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import suggestion, warn_caller
from ppl_vae.runtime.text import echoed
from ppl_vae.tasks.anomaly.p_values import AnomalyPValues
from ppl_vae.tasks.anomaly.scores import (
    LikelihoodRegret,
    LogEvidence,
    LowerEnd,
    Score,
    Typicality,
)
from ppl_vae.tasks.anomaly.shared_rows import refuse_shared, told_shared

__all__ = ["anomaly_pvalues"]

SCORES: dict[str, Callable[[], Score]] = {
    "log_evidence": LogEvidence,
    "lower_end": LowerEnd,
    "typicality": Typicality,
    "regret": LikelihoodRegret,
}
HELD_OUT = (
    "calibrate by rows that neither training, early stopping nor the choice of a model has used"
)


def anomaly_pvalues(
    model: Program,
    guide: Program,
    calibration: Dataset | Any,
    data: Dataset | Any,
    *,
    score: str | Score | Callable[..., Any] = "log_evidence",
    trained_on: Dataset | Any = None,
    progress: bool = True,
) -> AnomalyPValues:
    """Split-conformal p-values: how many rows of calibration are at least as odd as each row.

    p = (1 + number of calibration rows with a score at least as large) / (n + 1). If a row is
    exchangeable with the rows of calibration, then P(p <= u) <= u, whatever the model, since each
    score is a function of the row alone: a bad model costs power, not validity. `discoveries` keeps
    the false discovery rate.

    The rows of calibration have to be free of anomalies and new to the model. Those found among
    the rows of `trained_on` (training and validation) or of `data` are refused, where rows with
    equal values do not repeat by nature; tested rows that are among the former give a warning. What
    cannot be checked: rows that training has used and `trained_on` does not hold, near copies
    (frames of a film, visits of a patient), and whether calibration and tested rows were sampled
    and preprocessed alike. Missing values have to occur alike too: log p(x) of fewer observed
    entries is larger, so that a row with many missing entries rarely looks odd.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        calibration: n rows without anomalies: a `Dataset`, or an array, tensor, DataFrame,
            DataArray.
        data: The m rows to be tested.
        score: "log_evidence" (`LogEvidence`), "typicality" (`Typicality`), "regret"
            (`LikelihoodRegret`), "lower_end" (`LowerEnd`), an instance of one of these, or a
            function score(model, guide, rows) that gives a number for each row, larger for odder
            ones, which may depend on that row alone.
        trained_on: What `fit` was given, for the check on shared rows and for the centre of
            "typicality".
        progress: Whether to show bars when they take more than two seconds.

    Returns:
        The p-values, with discoveries, adjusted p-values and a frame.

    Raises:
        ValueError: Shared rows, other columns than in training, x outside the support, an unknown
            score, or a score that is NaN.

    References:
        Vovk, Gammerman and Shafer (2005), Algorithmic learning in a random world, Springer; Bates
        et al. (2023), Testing for outliers with conformal p-values, Annals of Statistics 51.

    Example:
        >>> import torch
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=102)
        >>> rows = torch.cat([bed.x[1:3], bed.x[1:2] + 9.0])
        >>> score = LogEvidence(num_particles=30, refinement=None)
        >>> found = anomaly_pvalues(bed.model, bed.guide, bed.x[3:], rows, score=score)
        >>> found.discoveries(alpha=0.1).tolist()
        [False, False, True]
    """
    parts = (_rows(calibration, "calibration"), _rows(data, "data"))
    shapes = [tuple(part.event_shape) for part in parts]
    if shapes[0] != shapes[1]:
        raise ValueError(f"data has rows of shape {shapes[1]} and calibration of {shapes[0]}")
    known, tested = (Inference(model, guide, part).data for part in parts)
    refuse_shared(known, tested, ("calibration", "tested"), "p-values need other rows")
    used = None if trained_on is None else as_dataset(trained_on)
    if used is not None:
        _refuse_used(known, tested, Inference(model, guide, used).data)
    _warn_of_missing(known, tested)
    treat_alike(known, "anomaly_pvalues")
    chosen = _score(score)
    _refuse_shared_latents(chosen, model)
    ready = chosen.ready(model, guide, used, progress)
    _refuse_reference(ready, known, tested)
    scores = [ready.oddness(model, guide, rows, progress) for rows in (known, tested)]
    names: Any = {"names": tested.row_labels}
    if known.given_index is not None:
        names["calibration_names"] = known.row_labels
    return AnomalyPValues.from_scores(*scores, **names, score=_words(score, chosen))


@dataclass(frozen=True)
class Custom:
    """A score by a function of model, guide and rows."""

    function: Callable[..., Any]

    def ready(
        self, model: Program, guide: Program, trained_on: Dataset | None, progress: bool
    ) -> Score:
        """The score itself."""
        return self

    def oddness(self, model: Program, guide: Program, data: Dataset, progress: bool) -> np.ndarray:
        """What the function gives, (N,)."""
        given = self.function(model, guide, data)
        data.refuse_other_index(given, "the score")
        found = as_array(given, np.float64)
        if found.shape != (len(data),):
            raise ValueError(
                f"the score gives an array of shape {found.shape} for {len(data)} rows: give one "
                "number for each row"
            )
        return found


def _score(score: Any) -> Score:
    """The score of this name, itself, or a function as one."""
    if isinstance(score, str) and score in SCORES:
        return SCORES[score]()
    if isinstance(score, Score) and not isinstance(score, type):
        return score
    if callable(score) and not isinstance(score, type):
        return Custom(score)
    raise ValueError(f"score is {echoed(score)}: {suggestion(str(score), SCORES)}")


def _refuse_shared_latents(score: Score, model: Program) -> None:
    """Refuse scores that refine single rows where rows share latents."""
    prior = getattr(model, "prior", None)
    shared = list(shared_latents(prior))
    refines = isinstance(score, LowerEnd) or getattr(score, "refinement", None) is not None
    if shared and refines:
        raise ValueError(
            f"rows share the latent {shared[0]!r} of {type(prior).__name__}, so that no row can be "
            "refined alone: give score=LogEvidence(refinement=None), whose log p(x) is given one "
            "draw of it"
        )


def _words(score: Any, chosen: Score) -> str:
    """The score in words."""
    if isinstance(score, str):
        return score
    return getattr(score, "__name__", type(chosen).__name__)


def _rows(data: Any, name: str) -> Dataset:
    """Rows in memory, at least one."""
    try:
        return as_dataset(data).in_memory()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _refuse_used(known: Dataset, tested: Dataset, used: Dataset) -> None:
    """Refuse rows of calibration that training or early stopping has used, and tell of others."""
    names = ["train", *({"valid"} & set(used.splits))]
    for name in names:
        part = getattr(used, name)
        refuse_shared(known, part, ("calibration", name), HELD_OUT)
        if said := told_shared(tested, part, ("tested", name)):
            warn_caller(f"{said}: the model was fitted to them, so that they look less odd")


def _refuse_reference(score: Score, known: Dataset, tested: Dataset) -> None:
    """Refuse rows that the centre of a score was taken from."""
    reference = getattr(score, "reference", None)
    if reference is None:
        return
    for rows, name in ((known, "calibration"), (tested, "tested")):
        why = "the centre of typicality needs other rows"
        refuse_shared(rows, as_dataset(reference), (name, "reference"), why)


def _warn_of_missing(known: Dataset, tested: Dataset) -> None:
    """Warn where values are missing in one part alone."""
    if known.has_missing != tested.has_missing:
        where = "the tested rows" if tested.has_missing else "the rows of calibration"
        warn_caller(
            f"values are missing in {where} alone, so that scores are not comparable (log p(x) of "
            "fewer entries is larger): calibrate by rows with values missing alike"
        )
