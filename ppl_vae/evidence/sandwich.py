"""evidence_interval: log p(x) estimated if possible, and otherwise between two bounds."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.evidence.annealing.upper_bounds import ReverseAIS
from ppl_vae.evidence.defensive import Defensive
from ppl_vae.evidence.estimate import Method, check_method, log_evidence
from ppl_vae.evidence.importance_sampling import ImportanceSampling
from ppl_vae.evidence.interval import ESTIMATE, INTERVAL, LOWER_BOUND, EvidenceInterval, num_se
from ppl_vae.evidence.result import ARRAYS, Evidence, concatenate
from ppl_vae.programs.forms.detection import adapted
from ppl_vae.programs.modules import place
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import file_path, instance_of, real_number, switch
from ppl_vae.runtime.seeding import derived_seed

__all__ = ["Sandwich", "evidence_interval"]

MOST_R_HAT = 1.05
DRAWS_PER_START = 4  # effective draws of the chains for each start taken from them
MOST_DIVERGENCES = 0.01  # of the transitions
ROUNDING = 1e-5  # relative
CHECKS = ("r_hat", "chain_ess", "divergences")
PARTS = ("estimate", "check", "bounds")  # numbered as keys of the seed


@dataclass(frozen=True)
class Sandwich:
    """How `evidence_interval` decides: an estimate, a check on it, and two bounds if the check
    fails.

    The verdict "estimate" requires weights of finite variance (`Evidence.is_estimate`) from both
    `estimate` and `check`, and values that agree at `level`. The check draws a fifth of its
    particles from the prior, because k-hat cannot detect posterior mass that the guide never
    visits. The value of the check is reported: if the guide is slightly too narrow, the first
    estimate may pass with draws that missed the tail, and is then too low. In many dimensions the
    prior's draws rarely find such mass either; `confirm` also requires the chains to agree, at a
    hundred times the cost. "interval" requires chains with R-hat < 1.05 for every dimension, 4
    effective draws for each start taken from them and at most 1 % divergences, and an upper bound
    that no other value contradicts. Everything else is "bound only".

    Args:
        estimate: The first method, for all rows.
        check: The second method, with another proposal; None relies on the first alone.
        upper: For the remaining rows: its path annealed backwards gives the upper bound, and
            forwards the lower one unless the check is reliable; None leaves them without an upper
            bound.
        level: Nominal probability that an interval contains log p(x).
        confirm: Whether an estimate must lie between the two bounds as well.

    Raises:
        ValueError: level outside (0, 1); `confirm` without `upper`.

    References:
        Grosse, Ghahramani and Adams (2015), arXiv:1511.02543; Vehtari et al. (2021),
        arXiv:1903.08008 (R-hat); Hesterberg (1995), Weighted average importance sampling and
        defensive mixture distributions, Technometrics 37.

    Example:
        >>> Sandwich(ImportanceSampling(5000), upper=None).level
        0.95
    """

    estimate: Method = field(default_factory=lambda: ImportanceSampling(5000))
    check: Method | None = field(default_factory=lambda: ImportanceSampling(5000, Defensive()))
    upper: ReverseAIS | None = field(default_factory=ReverseAIS)
    level: float = 0.95
    confirm: bool = False

    def __post_init__(self) -> None:
        switch(self.confirm, "Sandwich(confirm)")
        if self.confirm and self.upper is None:
            raise ValueError("confirm needs two bounds, and upper is None: give ReverseAIS(...)")
        real_number(self.level, "Sandwich(level)", above=0, below=1)
        check_method(self.estimate, "Sandwich(estimate)")
        if self.check is not None:
            check_method(self.check, "Sandwich(check)")
        if self.upper is not None:
            instance_of(self.upper, "Sandwich(upper)", ReverseAIS)

    def agree(self, first: Evidence, second: Evidence) -> np.ndarray:
        """Whether both are estimates and agree."""
        noise = self._num_se * np.hypot(first.mc_se, second.mc_se) + _rounding(first)
        with np.errstate(invalid="ignore"):  # two times -inf do not agree
            near = np.abs(first.log_evidence - second.log_evidence) <= noise
        return first.is_estimate & second.is_estimate & near

    def converged(self, upper: Evidence) -> np.ndarray:
        """Whether the chains behind an upper bound agree, and its starts are independent."""
        r_hat, ess, divergences = (upper.checks[name] for name in CHECKS)
        mixed = (r_hat < MOST_R_HAT) & (ess >= DRAWS_PER_START * upper.num_used)
        return mixed & (divergences <= MOST_DIVERGENCES)

    def in_order(self, lower: Evidence, upper: Evidence) -> np.ndarray:
        """Whether a lower bound exceeds an upper bound by no more than their errors."""
        noise = self._num_se * (lower.mc_se + upper.mc_se) + _rounding(lower)
        return lower.log_evidence - upper.log_evidence <= noise

    @property
    def _num_se(self) -> float:
        return num_se(self.level)


def evidence_interval(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    method: Sandwich | None = None,
    *,
    seed: int | None = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> EvidenceInterval:
    """An interval for log p(x) of every row, with a verdict on its reliability.

    "estimate": importance sampling estimates log p(x), and the interval is a confidence interval.
    "interval": there is no estimate, but annealing forwards and backwards brackets log p(x). "bound
    only": there is a lower bound and no reliable upper bound. The two bounds cost about a hundred
    times an estimate, and are computed only for rows without one. No verdict accounts for posterior
    mass that guide, prior and the chains from both all miss.

    Args:
        model: `Model`, or any Pyro model with one plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (all its rows: pass `data.test`), or an array, tensor, DataFrame,
            DataArray.
        method: The methods and the level; None is `Sandwich()`.
        seed: Seed of the draws; None draws from torch's global stream.
        progress: Whether to show bars, one for each method, after two seconds.
        checkpoint: A folder that keeps finished blocks, from which an interrupted call resumes.

    Returns:
        `EvidenceInterval` of the N rows; `print` shows its summary.

    Raises:
        ValueError: x is outside the support; the guide's density cannot be evaluated at draws of
            the prior; a row has no estimate and the model has latents that are discrete or outside
            the data plate; the checkpoint was written with other settings.

    References:
        Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional
        Monte Carlo, arXiv:1511.02543; Wu et al. (2017), arXiv:1611.04273.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import AIS
        >>> from ppl_vae.hmc import HMC
        >>> bed = beds.linear_gaussian(num_data=3, guide_scale=0.6)
        >>> chains = HMC(num_samples=160, num_warmup=60, num_leapfrog=2)
        >>> method = Sandwich(upper=ReverseAIS(AIS(32, 6), chains))
        >>> interval = evidence_interval(bed.model, bed.guide, bed.x, method)
        >>> exact = bed.log_evidence.numpy()
        >>> bool(((interval.lower < exact) & (exact < interval.upper)).all())
        True
        >>> interval.verdict.tolist()
        ['interval', 'interval', 'interval']
    """
    method = instance_of(method or Sandwich(), "method", Sandwich)
    switch(progress, "progress")
    if checkpoint is not None:
        file_path(checkpoint, "checkpoint")
    data = place(as_dataset(data), model, guide)
    call = _Call(adapted(model, guide, data), data, seed, progress, checkpoint)
    everything = np.arange(len(data))
    first = second = call("estimate", method.estimate, everything)
    if method.check is not None:
        second = _checked(call, method.check, everything)
    estimated = method.agree(first, second)
    verdict = np.where(estimated, ESTIMATE, LOWER_BOUND)
    better = np.flatnonzero(second.is_estimate)
    lower = _put(first, better, second[better])
    upper = _unknown(first)
    # elsewhere chains cannot start
    possible = np.isfinite(np.maximum(first.log_evidence, second.log_evidence))
    rows = np.flatnonzero(possible & (method.confirm | ~estimated))
    if method.upper is not None and len(rows):
        forward = call("bounds", method.upper.annealed, rows)
        reverse = call("bounds", method.upper, rows)
        below = (forward, first[rows], second[rows])
        in_order = [method.in_order(each, reverse) for each in below]
        enclosed = method.converged(reverse) & np.all(in_order, axis=0)
        confirmed = estimated[rows] & method.in_order(forward, lower[rows])
        verdict[rows] = np.where(enclosed, np.where(confirmed, ESTIMATE, INTERVAL), LOWER_BOUND)
        worse = ~(estimated | second.is_estimate)[rows]
        lower = _put(lower, rows[worse], forward[worse])
        upper = _put(upper, rows, reverse)
    return EvidenceInterval(lower, upper, verdict, method.level)


@dataclass(frozen=True)
class _Call:
    """`log_evidence` of some rows by one method after the other."""

    programs: tuple[Program, Program]
    data: Dataset
    seed: int | None
    progress: bool
    folder: str | Path | None

    def __call__(self, part: str, method: Method, rows: np.ndarray) -> Evidence:
        model, guide = self.programs
        name = f"{type(method).__name__}-{part}.npz"
        return log_evidence(
            model,
            guide,
            self.data[torch.as_tensor(rows)],
            method,
            seed=derived_seed(self.seed, PARTS.index(part)),
            progress=self.progress and f"log p(x), {part} by {type(method).__name__}",
            checkpoint=self.folder and Path(self.folder, name),
        )


def _checked(call: _Call, check: Method, rows: np.ndarray) -> Evidence:
    try:
        return call("check", check, rows)
    except (NotImplementedError, KeyError) as error:
        raise ValueError(
            f"the guide's density cannot be evaluated at draws of the prior ({error}): "
            'use Sandwich(check=None, upper=ReverseAIS(AIS(start="prior")))'
        ) from error


def _unknown(like: Evidence) -> Evidence:
    """An upper bound that was not computed."""
    nothing = np.full(len(like), np.nan)
    arrays: dict[str, Any] = dict.fromkeys(ARRAYS, nothing)
    arrays["num_used"] = np.zeros_like(like.num_used)
    return replace(like, **arrays, bound=ReverseAIS.bound, checks=dict.fromkeys(CHECKS, nothing))


def _put(evidence: Evidence, rows: np.ndarray, part: Evidence) -> Evidence:
    """The evidence with these rows replaced."""
    source = np.arange(len(evidence))
    source[rows] = len(evidence) + np.arange(len(rows))
    return concatenate([evidence, part])[source]


def _rounding(evidence: Evidence) -> np.ndarray:
    """The largest difference of two equal values in float32."""
    return ROUNDING * (1 + np.abs(evidence.log_evidence))
