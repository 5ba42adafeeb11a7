"""Multiple imputation of missing values, and analyses of imputed data sets, pooled."""

from ppl_vae.tasks.imputation.fits import Bootstrap, Fits, bootstrap_fits, refit_training
from ppl_vae.tasks.imputation.hypotheses import PooledTest, pool_chi_squares
from ppl_vae.tasks.imputation.pooling import Pooled, pool

__all__ = [
    "Bootstrap",
    "Fits",
    "Pooled",
    "PooledTest",
    "bootstrap_fits",
    "pool",
    "pool_chi_squares",
    "refit_training",
]
