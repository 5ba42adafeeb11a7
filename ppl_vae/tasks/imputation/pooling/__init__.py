"""Rubin's rules: analyses of imputed data sets, pooled."""

from ppl_vae.tasks.imputation.pooling.hypotheses import PooledTest, pool_chi_squares
from ppl_vae.tasks.imputation.pooling.rubin import Pooled, pool

__all__ = ["Pooled", "PooledTest", "pool", "pool_chi_squares"]
