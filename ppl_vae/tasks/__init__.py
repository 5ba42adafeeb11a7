"""What one does with a trained model: counterfactuals, and analyses of imputed data sets."""

from ppl_vae.tasks.imputation import Pooled, PooledTest, pool, pool_chi_squares
from ppl_vae.tasks.other_covariates import Counterfactual, counterfactual

__all__ = [
    "Counterfactual",
    "Pooled",
    "PooledTest",
    "counterfactual",
    "pool",
    "pool_chi_squares",
]
