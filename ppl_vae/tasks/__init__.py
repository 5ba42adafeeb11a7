"""What one does with a trained model: counterfactuals, multiple imputation and its analyses."""

from ppl_vae.tasks import imputation
from ppl_vae.tasks.imputation import (
    Fits,
    Imputations,
    MultipleImputation,
    Pooled,
    PooledTest,
    bootstrap_fits,
    impute,
    pool,
    pool_chi_squares,
)
from ppl_vae.tasks.other_covariates import Counterfactual, counterfactual

__all__ = [
    "Counterfactual",
    "Fits",
    "Imputations",
    "MultipleImputation",
    "Pooled",
    "PooledTest",
    "bootstrap_fits",
    "counterfactual",
    "imputation",
    "impute",
    "pool",
    "pool_chi_squares",
]
