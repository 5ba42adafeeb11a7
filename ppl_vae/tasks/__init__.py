"""What one does with a trained model: counterfactuals, multiple imputation and its analyses."""

from ppl_vae.tasks import imputation
from ppl_vae.tasks.imputation import (
    Fits,
    Imputations,
    MultipleImputation,
    Overimputation,
    Pooled,
    PooledTest,
    TippingPoint,
    bootstrap_fits,
    impute,
    overimpute,
    plot_overimputation,
    plot_tipping_point,
    pool,
    pool_chi_squares,
    tipping_point,
)
from ppl_vae.tasks.other_covariates import Counterfactual, counterfactual

__all__ = [
    "Counterfactual",
    "Fits",
    "Imputations",
    "MultipleImputation",
    "Overimputation",
    "Pooled",
    "PooledTest",
    "TippingPoint",
    "bootstrap_fits",
    "counterfactual",
    "imputation",
    "impute",
    "overimpute",
    "plot_overimputation",
    "plot_tipping_point",
    "pool",
    "pool_chi_squares",
    "tipping_point",
]
