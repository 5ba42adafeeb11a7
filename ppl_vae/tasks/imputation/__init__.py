"""Multiple imputation of missing values, and analyses of imputed data sets, pooled."""

from ppl_vae.tasks.imputation.drawing import MultipleImputation, impute
from ppl_vae.tasks.imputation.fits import Bootstrap, Fits, bootstrap_fits, refit_training
from ppl_vae.tasks.imputation.hypotheses import PooledTest, pool_chi_squares
from ppl_vae.tasks.imputation.imputations import Imputations
from ppl_vae.tasks.imputation.pooling import Pooled, pool

__all__ = [
    "Bootstrap",
    "Fits",
    "Imputations",
    "MultipleImputation",
    "Pooled",
    "PooledTest",
    "bootstrap_fits",
    "impute",
    "pool",
    "pool_chi_squares",
    "refit_training",
]
