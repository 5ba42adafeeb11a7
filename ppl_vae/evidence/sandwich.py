"""evidence_interval: log p(x) estimated where it can be, between two bounds elsewhere, and a
verdict on each.
"""

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
from ppl_vae.programs.modules import place
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import instance_of, real_number
from ppl_vae.runtime.seeding import derived_seed

__all__ = ["Sandwich", "evidence_interval"]

MOST_R_HAT = 1.05
# effective draws of the chains for each start that is taken from them, so that starts are apart
DRAWS_PER_START = 4
MOST_DIVERGENCES = 0.01  # of the transitions
ROUNDING = 1e-5  # relative
CHECKS = ("r_hat", "chain_ess", "divergences")
PARTS = ("estimate", "check", "bounds")  # what the parts of one seed are for


@dataclass(frozen=True)
class Sandwich:
    """How `evidence_interval` comes to its verdicts: an estimate, a check on it, and two bounds
    where it fails.

    "estimate" takes two: weights of finite variance (`Evidence.is_estimate`) from `estimate` and
    from `check`, and values that agree at `level`. The check draws a fifth of its particles from
    the prior, for k-hat knows nothing of posterior mass that the guide never visits; and its value
    is the one claimed, for the first one's k-hat does not know what the check drew: of a guide
    rather too narrow, k-hat passes the draws that missed the tail, which are low. In many
    dimensions the prior's draws find little of it either: then `confirm` lets the chains look for
    it, at a hundred times the cost. "interval" takes chains that agree, R-hat < 1.05 for every
    dimension, with 4 effective draws for each start that is taken from them and at most 1 %
    divergences; and an upper bound that none of the other values contradicts. Everything else is
    "bound only".

    Args:
        estimate: The first method, for all data.
        check: The second one, with another proposal; None trusts the first, and takes its value.
        upper: For the rest: its path annealed backwards gives the upper bound, and forwards the
            lower one, unless the check, being wider, is to be believed where the estimate is not;
            None leaves them without an upper bound.
        level: Nominal probability that an interval holds log p(x).
        confirm: Whether an estimate has to lie between the two bounds as well.

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
        if self.confirm and self.upper is None:
            raise ValueError("confirm needs two bounds, and upper is None: give ReverseAIS(...)")
        real_number(self.level, "Sandwich(level)", above=0, below=1)
        check_method(self.estimate, "Sandwich(estimate)")
        if self.check is not None:
            check_method(self.check, "Sandwich(check)")
        if self.upper is not None:
            instance_of(self.upper, "Sandwich(upper)", ReverseAIS)

    def agree(self, first: Evidence, second: Evidence) -> np.ndarray:
        """Where both are estimates, and of the same number."""
        noise = self._num_se * np.hypot(first.mc_se, second.mc_se) + _rounding(first)
        with np.errstate(invalid="ignore"):  # two times -inf do not agree
            near = np.abs(first.log_evidence - second.log_evidence) <= noise
        return first.is_estimate & second.is_estimate & near

    def converged(self, upper: Evidence) -> np.ndarray:
        """Where the chains behind an upper bound agree, and its starts are apart."""
        checks = upper.checks
        mixed = (checks["r_hat"] < MOST_R_HAT) & (
            checks["chain_ess"] >= DRAWS_PER_START * upper.num_used
        )
        return mixed & (checks["divergences"] <= MOST_DIVERGENCES)

    def in_order(self, lower: Evidence, upper: Evidence) -> np.ndarray:
        """Where the interval between a lower and an upper bound does not end before it begins."""
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
    """An interval for log p(x) of every datum, and a verdict on what it is worth.

    "estimate": importance sampling gives log p(x), and the interval is a confidence interval.
    "interval": it does not, but annealing forwards and backwards brackets log p(x). "bound only":
    there is a lower bound, and nothing is claimed from above. The two bounds cost some hundred
    times an estimate, and are taken only where there is none. No verdict knows of posterior mass
    that guide, prior and the chains from both all miss.

    Args:
        model: `Model`, or any Pyro model with one plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (all its rows: pass `data.test`), or an array, tensor, DataFrame,
            DataArray.
        method: The methods and the level; None is `Sandwich()`.
        seed: Seed of the draws; None draws from torch's global stream.
        progress: Whether to show bars, one for each method, when they take more than two seconds.
        checkpoint: A folder that keeps what is done, so that an interrupted call goes on where it
            was.

    Returns:
        `EvidenceInterval` of the N data; `print` shows its summary.

    Raises:
        ValueError: x outside the support; a guide whose density cannot be evaluated at draws of the
            prior; where there is no estimate, latents that are discrete or outside the data plate;
            a checkpoint of another call.

    References:
        Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional
        Monte Carlo, arXiv:1511.02543; Wu et al. (2017), arXiv:1611.04273.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import AIS
        >>> from ppl_vae.hmc import HMC
        >>> bed = beds.linear_gaussian(num_data=3, guide_scale=0.6)
        >>> method = Sandwich(upper=ReverseAIS(AIS(32, 6), HMC(num_samples=160, num_warmup=60, num_leapfrog=2)))
        >>> interval = evidence_interval(bed.model, bed.guide, bed.x, method)
        >>> exact = bed.log_evidence.numpy()
        >>> bool(((interval.lower < exact) & (exact < interval.upper)).all()), interval.verdict.tolist()
        (True, ['interval', 'interval', 'interval'])
    """
    method = instance_of(method or Sandwich(), "method", Sandwich)
    data = place(as_dataset(data), model, guide)
    call = _Call(
        (model, guide), data, seed, progress, None if checkpoint is None else Path(checkpoint)
    )
    everything = np.arange(len(data))
    first = call("estimate", method.estimate, everything)
    second = first if method.check is None else _checked(call, method.check, everything)
    estimated, verdict = method.agree(first, second), np.full(len(data), LOWER_BOUND)
    verdict[estimated] = ESTIMATE
    better = np.flatnonzero(second.is_estimate)
    lower, upper = _put(first, better, second[better]), _unknown(first)
    possible = np.isfinite(
        np.maximum(first.log_evidence, second.log_evidence)
    )  # elsewhere chains cannot start
    rows = np.flatnonzero(possible & (method.confirm | ~estimated))
    if method.upper is not None and len(rows):
        forward, reverse = (
            call("bounds", method.upper.annealed, rows),
            call("bounds", method.upper, rows),
        )
        below = (forward, first[rows], second[rows])
        enclosed = method.converged(reverse) & np.all(
            [method.in_order(each, reverse) for each in below], axis=0
        )
        confirmed = estimated[rows] & method.in_order(forward, lower[rows])
        verdict[rows] = np.where(enclosed, np.where(confirmed, ESTIMATE, INTERVAL), LOWER_BOUND)
        worse = ~(estimated | second.is_estimate)[rows]
        lower, upper = _put(lower, rows[worse], forward[worse]), _put(upper, rows, reverse)
    return EvidenceInterval(lower, upper, verdict, method.level)


@dataclass(frozen=True)
class _Call:
    """`log_evidence` of some rows by one method after the other."""

    programs: tuple[Program, Program]
    data: Dataset
    seed: int | None
    progress: bool
    folder: Path | None

    def __call__(self, part: str, method: Method, rows: np.ndarray) -> Evidence:
        model, guide = self.programs
        name = f"{type(method).__name__}-{part}.npz"
        return log_evidence(
            model,
            guide,
            self.data[torch.as_tensor(rows)],
            method,
            seed=None if self.seed is None else derived_seed(self.seed, PARTS.index(part)),
            progress=self.progress and f"log p(x), {part} by {type(method).__name__}",
            checkpoint=None if self.folder is None else self.folder / name,
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
    """An upper bound that nobody computed."""
    nothing = np.full(len(like), np.nan)
    arrays: dict[str, Any] = dict.fromkeys(ARRAYS, nothing) | {
        "num_used": np.zeros_like(like.num_used)
    }
    return replace(like, **arrays, bound=ReverseAIS.bound, checks=dict.fromkeys(CHECKS, nothing))


def _put(evidence: Evidence, rows: np.ndarray, part: Evidence) -> Evidence:
    """The evidence with that of these rows in the place of its own."""
    source = np.arange(len(evidence))
    source[rows] = len(evidence) + np.arange(len(rows))
    return concatenate([evidence, part])[source]


def _rounding(evidence: Evidence) -> np.ndarray:
    """How far two equal values may differ in float32."""
    return ROUNDING * (1 + np.abs(evidence.log_evidence))
