"""What a report finds out about a trained run: each diagnosis once, and what became of those that
failed.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import logsumexp
from tqdm.auto import tqdm

from ppl_vae.data import Dataset
from ppl_vae.diagnostics import (
    PIT,
    Calibration,
    ELBOSurgery,
    GuideDraws,
    ImportanceDraws,
    ModelComparison,
    Reliability,
    active_units,
    baselines,
    calibration,
    compare_models,
    conditional_pit,
    elbo_surgery,
    latent_means,
    marginal_pit,
    predictive_check,
    rate_distortion,
    reliability,
)
from ppl_vae.evidence import Evidence, reduce_log_weights
from ppl_vae.experiment.assemble import Experiment
from ppl_vae.experiment.folder import Folder
from ppl_vae.importance import log_weights
from ppl_vae.programs.modules import evaluating, place
from ppl_vae.report.elements import NotApplicable
from ppl_vae.runtime.seeding import seeded

__all__ = ["Findings", "Subject", "Weights"]

logger = logging.getLogger(__name__)

NUM_PARTICLES = 500  # for bounds of few particles, and for the largest weight
BOUNDS = (1, 10, 100, 500)
NUM_DRAWS = 200  # of z per simulated datum
NUM_SIMULATED = 500
NUM_PREDICTED = 100  # draws of z per datum of a marginal PIT
NUM_CONDITIONED = 300  # of a conditional one, whose weights make fewer of them
NUM_WORST = 20
MODEL = "this model"


@dataclass(frozen=True)
class Subject:
    """A finished run and how much of it is looked at.

    Args:
        folder: Its folder.
        experiment: From `load_run`.
        metrics: What metrics.json holds.
        evidence: log p(x) of the run, per datum.
        num_data: The diagnoses take the first so many rows of the evaluation split.
        seed: Seed of the draws.

    Example:
        >>> Subject.__dataclass_fields__["num_data"].default
        300
    """

    folder: Folder
    experiment: Experiment
    metrics: Mapping[str, Any]
    evidence: Evidence
    num_data: int = 300
    seed: int = 0

    @cached_property
    def rows(self) -> Dataset:
        """What is diagnosed: the first rows of the evaluation split."""
        return self._split[: self.num_data]

    @property
    def evaluated(self) -> Dataset:
        """What log p(x) was estimated of."""
        return self._split[: len(self.evidence)]

    @property
    def worst(self) -> np.ndarray:
        """The evaluated data with the largest k-hat, the worst first; by standard error where there
        is no k-hat.
        """
        k_hat = np.where(
            np.isnan(self.evidence.pareto_k), self.evidence.mc_se, self.evidence.pareto_k
        )
        return np.argsort(-np.nan_to_num(k_hat, neginf=-1e9), kind="stable")[:NUM_WORST]

    @property
    def _split(self) -> Dataset:
        return getattr(self.experiment.data, self.experiment.config.evaluation.split)


@dataclass(frozen=True)
class Weights:
    """Log-weights of the first evaluated data and of the worst ones.

    Args:
        log_weights: log w, (K, B).
        rows: Which of the evaluated data they belong to, in order, (B,).
        num_first: How many of them are the first ones, of which bounds are taken.

    Example:
        >>> Weights(np.zeros((500, 2)), np.array([0, 7]), num_first=1).bounds[10]
        (0.0, 0.0, nan)
    """

    log_weights: np.ndarray = field(repr=False)
    rows: np.ndarray
    num_first: int

    @property
    def largest(self) -> np.ndarray:
        """Share of the largest weight in the sum of all K, (B,)."""
        return np.exp(self.log_weights.max(0) - logsumexp(self.log_weights, axis=0))

    @property
    def bounds(self) -> dict[int, tuple[float, float, float]]:
        """IWAE bound by K, with its Monte Carlo standard error and that over the data."""
        return {k: self._bound(k) for k in BOUNDS}

    def _bound(self, num_particles: int) -> tuple[float, float, float]:
        """Mean over groups of K particles, then over the data."""
        log_w, num_data = self.log_weights[:, : self.num_first], self.num_first
        groups = log_w.reshape(-1, num_particles, num_data)
        values = logsumexp(groups, axis=1) - np.log(num_particles)
        if len(values) > 1:
            se = values.std(0, ddof=1) / len(values) ** 0.5
        else:
            se = reduce_log_weights(log_w).mc_se
        mean = values.mean(0)
        data_se = mean.std(ddof=1) / num_data**0.5 if num_data > 1 else np.nan
        return float(mean.mean()), float(np.sqrt(np.square(se).sum()) / num_data), float(data_se)


class Findings:
    """Every diagnosis of a run by name; one that could not be made raises when it is asked for.

    Args:
        subject: The run.
        names: Which are made at once; the others when they are asked for. None is all.
        progress: Whether to show a bar when it takes more than two seconds.

    Example:
        >>> "surgery" in DIAGNOSES
        True
    """

    def __init__(
        self, subject: Subject, names: Iterable[str] | None = None, *, progress: bool = True
    ) -> None:
        self.subject = subject
        self.found: dict[str, Any] = {}
        bar = tqdm(
            list(DIAGNOSES if names is None else names),
            desc="report",
            unit=" panels",
            disable=not progress,
            delay=2,
        )
        for name in bar:
            bar.set_postfix_str(name)
            self._find(name)

    def _find(self, name: str) -> Any:
        if name not in self.found:
            self.found[name] = attempt(lambda: DIAGNOSES[name](self))
        return self.found[name]

    def __getitem__(self, name: str) -> Any:
        found = self._find(name)
        if isinstance(found, Exception):
            raise found
        return found

    @property
    def options(self) -> dict[str, Any]:
        """Keywords that most diagnoses take."""
        return {"seed": self.subject.seed, "progress": False}

    @property
    def programs(self) -> tuple[Any, Any]:
        """Model and guide."""
        return self.subject.experiment.model, self.subject.experiment.guide


def attempt(make: Callable[[], Any]) -> Any:
    """What `make` makes, or the exception: one diagnosis that fails must not take the others with
    it.
    """
    try:
        return make()
    except NotApplicable as reason:
        return reason
    except Exception as error:
        logger.info("a diagnosis failed", exc_info=True)
        return error


def _weights(found: Findings) -> Weights:
    subject = found.subject
    num_first = min(subject.num_data, len(subject.evidence))
    which = np.union1d(np.arange(num_first), subject.worst)
    rows = place(subject.evaluated[which], *found.programs)
    sizes: dict[str, Any] = {"num_particles": NUM_PARTICLES, "seed": subject.seed}
    log_w = log_weights(*found.programs, rows.x, rows.context, **sizes)
    return Weights(log_w.double().cpu().numpy(), which, num_first)


def _baselines(found: Findings) -> ModelComparison:
    subject, likelihood = found.subject, found.programs[0].likelihood
    try:
        others = baselines(
            subject.experiment.data, likelihood, rows=subject.evaluated, seed=subject.seed
        )
        return compare_models({MODEL: subject.evidence, **others}, reference=MODEL)
    except ValueError as reason:
        raise NotApplicable(str(reason)) from reason


def _calibration(found: Findings, method: Any) -> Calibration:
    sizes: dict[str, Any] = {"num_data": NUM_SIMULATED, "seed": found.subject.seed}
    return calibration(*found.programs, found.subject.rows, method, **sizes)


def _marginal_pit(found: Findings) -> PIT:
    return marginal_pit(
        found.programs[0], found.subject.rows, num_samples=NUM_PREDICTED, **found.options
    )


def _conditional_pit(found: Findings) -> PIT:
    if found.subject.rows.event_shape.numel() == 1:
        raise NotApplicable("a datum has one entry, so there is no rest of it to predict that from")
    return conditional_pit(
        *found.programs, found.subject.rows, num_particles=NUM_CONDITIONED, **found.options
    )


def _reliability(found: Findings) -> Reliability:
    x = found.subject.rows.x
    if not bool(((x == 0) | (x == 1) | x.isnan()).all()):
        raise NotApplicable("x is not binary")
    return reliability(found["conditional_pit"])


def _surgery(found: Findings) -> ELBOSurgery:
    model, context = found.programs[0], place(found.subject.rows, *found.programs).context
    if model.prior(None if context is None else context[:2]).batch_shape:
        raise NotApplicable(
            "the prior depends on the covariates, so q(z) has no one prior to be compared with"
        )
    return elbo_surgery(*found.programs, found.subject.rows, **found.options)


def _concerns(found: Findings) -> list[str]:
    """What the likelihood has to say of its fitted parameters."""
    model, guide = found.programs
    if not isinstance(getattr(model.likelihood, "scale", None), str):
        raise NotApplicable(f"{type(model.likelihood).__name__} has no scale to learn")
    rows = place(found.subject.rows, model, guide)
    with evaluating(model, guide), seeded(found.subject.seed):
        z = guide.encode(rows.x, rows.context).sample()
        return model.concerns(z, rows.context)


DIAGNOSES: dict[str, Callable[[Findings], Any]] = {
    "importance": lambda found: found.subject.evidence,
    "weights": _weights,
    "baselines": _baselines,
    "sbc": lambda found: _calibration(found, GuideDraws(NUM_DRAWS, progress=False)),
    "sbc_importance": lambda found: _calibration(found, ImportanceDraws(NUM_DRAWS, progress=False)),
    "predictive": lambda found: predictive_check(
        *found.programs, found.subject.rows, **found.options
    ),
    "marginal_pit": _marginal_pit,
    "conditional_pit": _conditional_pit,
    "reliability": _reliability,
    "latent_means": lambda found: latent_means(
        found.programs[1], found.subject.rows, **found.options
    ),
    "active_units": lambda found: active_units(
        *found.programs, found.subject.rows, **found.options
    ),
    "surgery": _surgery,
    "rate_distortion": lambda found: rate_distortion(
        *found.programs, found.subject.rows, **found.options
    ),
    "concerns": _concerns,
}
