"""Densities that keep their digits to the ends of their parameters, where torch's cancel, clamp or
overflow.

Each is parametrised as its likelihood has it (by a logit, a log-mean, a log-dispersion) and written
so that no two large terms cancel, without a branch on a value: its operations can be recorded.
"""

from ppl_vae.families.densities.bounded import LogitBernoulli, LogitContinuousBernoulli
from ppl_vae.families.densities.counts import LogMeanNegativeBinomial, LogRatePoisson
from ppl_vae.families.densities.real import (
    ResidualLowRankNormal,
    StandardisedNormal,
    StandardisedStudentT,
)

__all__ = [
    "LogMeanNegativeBinomial",
    "LogRatePoisson",
    "LogitBernoulli",
    "LogitContinuousBernoulli",
    "ResidualLowRankNormal",
    "StandardisedNormal",
    "StandardisedStudentT",
]
