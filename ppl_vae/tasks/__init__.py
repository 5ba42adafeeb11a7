"""What one does with a trained model: anomalies, counterfactuals, multiple imputation."""

from ppl_vae.tasks import anomaly, imputation
from ppl_vae.tasks.anomaly import AnomalyPValues, anomaly_pvalues, odd_columns, plot_anomalies
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
    "AnomalyPValues",
    "Counterfactual",
    "Fits",
    "Imputations",
    "MultipleImputation",
    "Overimputation",
    "Pooled",
    "PooledTest",
    "TippingPoint",
    "anomaly",
    "anomaly_pvalues",
    "bootstrap_fits",
    "counterfactual",
    "imputation",
    "impute",
    "odd_columns",
    "overimpute",
    "plot_anomalies",
    "plot_overimputation",
    "plot_tipping_point",
    "pool",
    "pool_chi_squares",
    "tipping_point",
]
