"""Missing values: analyses of imputed data sets, pooled."""

from ppl_vae.tasks.imputation.hypotheses import PooledTest, pool_chi_squares
from ppl_vae.tasks.imputation.pooling import Pooled, pool

__all__ = ["Pooled", "PooledTest", "pool", "pool_chi_squares"]
