"""Multiple imputation, pooled analyses, their sensitivity, and checks of imputed values."""

from ppl_vae.tasks.imputation.drawing import MultipleImputation, impute
from ppl_vae.tasks.imputation.fits import Bootstrap, Fits, bootstrap_fits, refit_training
from ppl_vae.tasks.imputation.imputations import Imputations
from ppl_vae.tasks.imputation.overimputation import (
    Overimputation,
    overimpute,
    plot_overimputation,
)
from ppl_vae.tasks.imputation.pooling import Pooled, PooledTest, pool, pool_chi_squares
from ppl_vae.tasks.imputation.sensitivity import TippingPoint, plot_tipping_point, tipping_point

__all__ = [
    "Bootstrap",
    "Fits",
    "Imputations",
    "MultipleImputation",
    "Overimputation",
    "Pooled",
    "PooledTest",
    "TippingPoint",
    "bootstrap_fits",
    "impute",
    "overimpute",
    "plot_overimputation",
    "plot_tipping_point",
    "pool",
    "pool_chi_squares",
    "refit_training",
    "tipping_point",
]
