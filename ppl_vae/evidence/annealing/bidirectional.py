"""Bidirectional Monte Carlo: log p(x) of simulated data between two bounds that meet where
annealing works.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp
from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.evidence.annealing.ais import AIS
from ppl_vae.evidence.result import Evidence, concatenate
from ppl_vae.programs.modules import place
from ppl_vae.programs.simulate import simulate
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import instance_of, whole_number
from ppl_vae.runtime.seeding import derived_seed

__all__ = ["BDMC", "BDMCSummary", "bdmc"]


@dataclass(frozen=True)
class BDMCSummary:
    """Means over the simulated data, in nats per datum.

    Args:
        lower: Mean lower bound.
        lower_se: Its Monte Carlo standard error.
        upper: Mean upper bound.
        upper_se: Its Monte Carlo standard error; from the spread of the gap over the data, so
            rather too large.
        gap: Mean of upper - lower.
        gap_se: Its standard error.
        num_data: Number of simulated data.

    References:
        Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood, arXiv:1511.02543.

    Example:
        >>> str(BDMCSummary(-90.12, 0.01, -90.08, 0.02, 0.04, 0.02, 100))
        'log p(x) of 100 simulated data between -90.120 (se 0.010) and -90.080 (se 0.020): ...'
    """

    lower: float
    lower_se: float
    upper: float
    upper_se: float
    gap: float
    gap_se: float
    num_data: int

    def __str__(self) -> str:
        return (
            f"log p(x) of {self.num_data} simulated data between {self.lower:.3f} (se "
            f"{self.lower_se:.3f}) and "
            f"{self.upper:.3f} (se {self.upper_se:.3f}): gap {self.gap:.3f} (se {self.gap_se:.3f}) "
            "nats"
        )

    def interval(self, num_se: float = 1.96) -> tuple[float, float]:
        """From the lower bound less `num_se` standard errors to the upper bound and as many
        more.
        """
        return self.lower - num_se * self.lower_se, self.upper + num_se * self.upper_se


@dataclass(frozen=True)
class BDMC:
    """Both bounds on log p(x) of every simulated datum, in nats.

    Args:
        lower: Evidence of annealed importance sampling forwards.
        upper: Minus log mean_c 1 / w_c of reverse chains from the datum's own z, (N,). They share
            their start, so their spread over chains says little; the mean over data has an honest
            error.
        data: The simulated data.
        latents: The z that they were simulated with, by site.

    References:
        Grosse, Ancha and Roy (2016), Measuring the reliability of MCMC inference with bidirectional
        Monte Carlo, arXiv:1606.02275.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=20)
        >>> len(bdmc(bed.model, bed.guide, bed.x, method=AIS(30, 2)))
        20
    """

    lower: Evidence
    upper: np.ndarray
    data: Dataset
    latents: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.upper)

    @property
    def gap(self) -> np.ndarray:
        """upper - lower, (N,): in expectation at least the error of either bound."""
        return self.upper - self.lower.log_evidence

    def summary(self) -> BDMCSummary:
        """Means over the data and their standard errors."""
        n = len(self)
        gap_se = float(self.gap.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
        return BDMCSummary(
            lower=float(self.lower.log_evidence.mean()),
            lower_se=self.lower.summary().mc_se,
            upper=float(self.upper.mean()),
            upper_se=gap_se,
            gap=float(self.gap.mean()),
            gap_se=gap_se,
            num_data=n,
        )

    def __str__(self) -> str:
        return str(self.summary())


def bdmc(
    model: Program,
    guide: Program,
    data: Dataset | Any | None = None,
    *,
    num_data: int = 100,
    context: Tensor | None = None,
    method: AIS | None = None,
    seed: int = 0,
) -> BDMC:
    """How far `method` is from log p(x), on data simulated from the model, where an exact posterior
    draw is at hand.

    (z, x) ~ p(x, z): z is an exact draw from p(z given x). Annealed importance sampling gives a
    lower bound on log p(x), and the same path run backwards from z an upper bound; the gap bounds
    the error of both. It speaks of data that the model makes, not of real data under a bad model.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: Data whose like are simulated: as many, with the same covariates and holes. A program
            of one's own needs them; a `Model` can do without.
        num_data: Number of data to simulate where none are given.
        context: Covariates of the data to simulate where none are given, (N, C).
        method: `AIS(...)`; None is its defaults.
        seed: Seed of everything.

    Returns:
        `BDMC`, whose `summary()` has the gap and its standard error.

    Raises:
        ValueError: a program of one's own without data; more than one observed site.

    References:
        Grosse, Ghahramani and Adams (2015), arXiv:1511.02543; Grosse, Ancha and Roy (2016),
        arXiv:1606.02275.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=50)
        >>> result = bdmc(bed.model, bed.mean_field_guide, bed.x, method=AIS(30, 10))
        >>> bool(abs(result.summary().gap) < 0.05)
        True
    """
    method = instance_of(method or AIS(), "method", AIS)
    num_data = whole_number(num_data, "num_data")
    given = None if data is None else place(as_dataset(data), model, guide)
    simulated, latents = simulate(
        model, given, num_data=num_data, context=context, seed=derived_seed(seed, 0)
    )
    lowers, uppers, rows = [], [], method.rows(len(simulated))
    for first in range(0, len(simulated), rows):
        block, block_seed = slice(first, first + rows), derived_seed(seed, 1, first)
        lowers.append(method.estimate(model, guide, simulated[block], seed=block_seed))
        z = {name: value[block] for name, value in latents.items()}
        reverse = method.reverse_log_weights(model, guide, simulated[block], z, seed=block_seed)
        uppers.append(upper_bound(reverse.cpu().numpy()))
    return BDMC(concatenate(lowers), np.concatenate(uppers), simulated, latents)


def upper_bound(log_weights: np.ndarray) -> np.ndarray:
    """- log mean_c 1 / w_c of reverse chains, (C, B) -> (B,)."""
    return np.log(len(log_weights)) - logsumexp(-log_weights.astype(np.float64), axis=0)
