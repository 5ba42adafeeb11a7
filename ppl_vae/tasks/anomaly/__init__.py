"""Anomalies with control of the false discovery rate, by split-conformal p-values."""

from ppl_vae.tasks.anomaly.columns import odd_columns
from ppl_vae.tasks.anomaly.p_values import AnomalyPValues, conformal_p_values
from ppl_vae.tasks.anomaly.plot import plot_anomalies
from ppl_vae.tasks.anomaly.scores import (
    LikelihoodRegret,
    LogEvidence,
    LowerEnd,
    Score,
    Typicality,
)
from ppl_vae.tasks.anomaly.split_conformal import anomaly_pvalues

__all__ = [
    "AnomalyPValues",
    "LikelihoodRegret",
    "LogEvidence",
    "LowerEnd",
    "Score",
    "Typicality",
    "anomaly_pvalues",
    "conformal_p_values",
    "odd_columns",
    "plot_anomalies",
]
