"""Densities that stay accurate where torch's cancel, clamp or overflow.

Each has the parameters of its likelihood (a logit, a log-mean, a log-dispersion). No two large
terms cancel, and there is no branch on a value, so that the operations can be recorded as a graph.
"""

from ppl_vae.families.densities.bounded import (
    HalfAngleVonMises,
    LogitBernoulli,
    LogitContinuousBernoulli,
    LogitMeanBeta,
)
from ppl_vae.families.densities.coarsened import Coarsened, Grid, Levels, LevelsMixture, Recorded
from ppl_vae.families.densities.columnwise import Columnwise
from ppl_vae.families.densities.counts import LogMeanNegativeBinomial, LogRatePoisson
from ppl_vae.families.densities.low_rank import FactorNormal, ResidualLowRankNormal
from ppl_vae.families.densities.ordered import OrderedCategorical
from ppl_vae.families.densities.real import (
    Logistic,
    LogMeanGamma,
    StandardisedLaplace,
    StandardisedLogNormal,
    StandardisedNormal,
    StandardisedStudentT,
)
from ppl_vae.families.densities.totals import (
    LogitBetaBinomial,
    LogitBinomial,
    SoftmaxDirichletMultinomial,
    SoftmaxMultinomial,
)
from ppl_vae.families.densities.zeros import Hurdle, ZeroInflated

__all__ = [
    "Coarsened",
    "Columnwise",
    "FactorNormal",
    "Grid",
    "HalfAngleVonMises",
    "Hurdle",
    "Levels",
    "LevelsMixture",
    "LogMeanGamma",
    "LogMeanNegativeBinomial",
    "LogRatePoisson",
    "LogitBernoulli",
    "LogitBetaBinomial",
    "LogitBinomial",
    "LogitContinuousBernoulli",
    "LogitMeanBeta",
    "Logistic",
    "OrderedCategorical",
    "Recorded",
    "ResidualLowRankNormal",
    "SoftmaxDirichletMultinomial",
    "SoftmaxMultinomial",
    "StandardisedLaplace",
    "StandardisedLogNormal",
    "StandardisedNormal",
    "StandardisedStudentT",
    "ZeroInflated",
]
