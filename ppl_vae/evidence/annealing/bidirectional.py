"""Bidirectional Monte Carlo: log p(x) of simulated rows between a lower and an upper bound."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp
from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.evidence.annealing.ais import AIS
from ppl_vae.evidence.errors import error_of_mean
from ppl_vae.evidence.result import Evidence, concatenate
from ppl_vae.programs.forms.detection import adapted
from ppl_vae.programs.inference import Inference
from ppl_vae.programs.modules import place
from ppl_vae.programs.simulate import simulate
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import instance_of, whole_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.seeding import derived_seed

__all__ = ["BDMC", "BDMCSummary", "bdmc"]


@dataclass(frozen=True)
class BDMCSummary(Shown):
    """Means over the simulated rows, in nats per row.

    Args:
        lower: Mean lower bound.
        lower_se: Its Monte Carlo standard error.
        upper: Mean upper bound.
        upper_se: Its Monte Carlo standard error, from the spread of the gap over the rows, and
            therefore conservative.
        gap: Mean of upper - lower.
        gap_se: Its standard error.
        num_data: Number of simulated rows.

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
            f"log p(x) of {self.num_data} simulated data between {self.lower:.3f} "
            f"(se {self.lower_se:.3f}) and {self.upper:.3f} (se {self.upper_se:.3f}): "
            f"gap {self.gap:.3f} (se {self.gap_se:.3f}) nats"
        )

    def interval(self, num_se: float = 1.96) -> tuple[float, float]:
        """The lower bound minus, and the upper bound plus, `num_se` standard errors."""
        return self.lower - num_se * self.lower_se, self.upper + num_se * self.upper_se


@dataclass(frozen=True)
class BDMC(Shown):
    """Both bounds on log p(x) of every simulated row, in nats.

    Args:
        lower: Evidence from annealed importance sampling forwards.
        upper: Minus log mean_c 1 / w_c of reverse chains from the z of the row, (N,). The chains
            share their start, so their spread is uninformative; the error is over rows instead.
        data: The simulated rows.
        latents: The z from which they were simulated, by site.

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
        """Means over the rows and their standard errors."""
        gap_se = error_of_mean(self.gap)
        return BDMCSummary(
            lower=float(self.lower.log_evidence.mean()),
            lower_se=self.lower.summary().mc_se,
            upper=float(self.upper.mean()),
            upper_se=gap_se,
            gap=float(self.gap.mean()),
            gap_se=gap_se,
            num_data=len(self),
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
    """The error of `method` on rows simulated from the model, whose latents are posterior draws.

    (z, x) ~ p(x, z): z is an exact draw from p(z given x). Annealed importance sampling gives a
    lower bound on log p(x), and the same path run backwards from z an upper bound; the gap bounds
    the error of both. It applies to rows from the model, not to real observations under a poor
    model.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: Rows that set the number, the covariates and the missing entries of the simulated
            rows. A custom Pyro model needs them; a `Model` does not.
        num_data: Number of rows to simulate if no data are given.
        context: Covariates of the simulated rows if no data are given, (N, C).
        method: `AIS(...)`; None is `AIS()`.
        seed: Seed of everything.

    Returns:
        `BDMC`, whose `summary()` has the gap and its standard error.

    Raises:
        ValueError: a custom Pyro model without data; more than one observed site.

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
    given = data if data is None else place(as_dataset(data), model, guide)
    if given is not None:
        model, guide = adapted(model, guide, given)
    sizes: Any = {"num_data": num_data, "context": context}
    simulated, latents = simulate(model, given, **sizes, seed=derived_seed(seed, 0))
    inference = Inference(model, guide, simulated)
    lowers, uppers = [], []
    for block in inference.blocks(method.rows(len(simulated)), seed=seed, keys=(1,)):
        pair = model, guide, block.data
        lowers.append(method.estimate(*pair, seed=block.seed))
        z = {name: value[block.rows] for name, value in latents.items()}
        reverse = method.reverse_log_weights(*pair, z, seed=block.seed)
        uppers.append(upper_bound(reverse.cpu().numpy()))
    return BDMC(concatenate(lowers), np.concatenate(uppers), simulated, latents)


def upper_bound(log_weights: np.ndarray) -> np.ndarray:
    """- log mean_c 1 / w_c of reverse chains, (C, B) -> (B,)."""
    return np.log(len(log_weights)) - logsumexp(-log_weights.astype(np.float64), axis=0)
