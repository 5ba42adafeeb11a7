"""Diagnostics of a model and guide: a DataTree, checks of both, comparisons, and plots."""

from ppl_vae.diagnostics.datatree.build import to_datatree
from ppl_vae.diagnostics.datatree.ppc_layout import observed_entries
from ppl_vae.diagnostics.datatree.resampled import resampled
from ppl_vae.diagnostics.datatree.sampler import Draws
from ppl_vae.diagnostics.estimators.compare import compare_estimators
from ppl_vae.diagnostics.estimators.noise import GradientNoise, gradient_noise
from ppl_vae.diagnostics.estimators.plot import plot_estimators
from ppl_vae.diagnostics.estimators.row import Reference
from ppl_vae.diagnostics.estimators.table import EstimatorComparison, Replicates
from ppl_vae.diagnostics.interval_plot import plot_evidence_interval
from ppl_vae.diagnostics.latents.loadings import factor_loadings
from ppl_vae.diagnostics.latents.means import LatentMeans, latent_means
from ppl_vae.diagnostics.latents.plot import plot_collapse
from ppl_vae.diagnostics.latents.rate import (
    ActiveUnits,
    RateDistortion,
    active_units,
    kl_per_dimension,
    linear_active_units,
    rate_distortion,
)
from ppl_vae.diagnostics.latents.surgery import ELBOSurgery, SurgerySummary, elbo_surgery
from ppl_vae.diagnostics.models.compare import compare_models
from ppl_vae.diagnostics.models.plain import baselines
from ppl_vae.diagnostics.models.plot import plot_models
from ppl_vae.diagnostics.models.stacking import to_elpd
from ppl_vae.diagnostics.models.table import ModelComparison
from ppl_vae.diagnostics.plots import (
    plot_k_hat,
    plot_latent,
    plot_reconstructions,
    plot_samples,
    plot_training,
)
from ppl_vae.diagnostics.predictive.check import PredictiveCheck, predictive_check
from ppl_vae.diagnostics.predictive.pit import PIT, PITSummary, conditional_pit, marginal_pit
from ppl_vae.diagnostics.predictive.plot import plot_pit, plot_predictive_check, plot_reliability
from ppl_vae.diagnostics.predictive.reliability_curve import Reliability, reliability
from ppl_vae.diagnostics.predictive.statistics import FEATURE_STATISTICS, STATISTICS
from ppl_vae.diagnostics.sbc.against_hmc import GuideErrors, guide_errors
from ppl_vae.diagnostics.sbc.plot import plot_calibration
from ppl_vae.diagnostics.sbc.simulate import Calibration, calibration
from ppl_vae.diagnostics.sbc.sources import GuideDraws, HMCDraws, ImportanceDraws
from ppl_vae.diagnostics.sbc.summary import CalibrationSummary
from ppl_vae.diagnostics.table_plot import plot_table

__all__ = [
    "ActiveUnits",
    "Calibration",
    "CalibrationSummary",
    "Draws",
    "ELBOSurgery",
    "EstimatorComparison",
    "FEATURE_STATISTICS",
    "GradientNoise",
    "GuideDraws",
    "GuideErrors",
    "HMCDraws",
    "ImportanceDraws",
    "LatentMeans",
    "ModelComparison",
    "PIT",
    "PITSummary",
    "PredictiveCheck",
    "RateDistortion",
    "Reference",
    "Reliability",
    "Replicates",
    "STATISTICS",
    "SurgerySummary",
    "active_units",
    "baselines",
    "calibration",
    "compare_estimators",
    "compare_models",
    "conditional_pit",
    "elbo_surgery",
    "factor_loadings",
    "gradient_noise",
    "guide_errors",
    "kl_per_dimension",
    "latent_means",
    "linear_active_units",
    "marginal_pit",
    "observed_entries",
    "plot_calibration",
    "plot_collapse",
    "plot_estimators",
    "plot_evidence_interval",
    "plot_k_hat",
    "plot_latent",
    "plot_models",
    "plot_pit",
    "plot_predictive_check",
    "plot_reconstructions",
    "plot_reliability",
    "plot_samples",
    "plot_table",
    "plot_training",
    "predictive_check",
    "rate_distortion",
    "reliability",
    "resampled",
    "to_datatree",
    "to_elpd",
]
