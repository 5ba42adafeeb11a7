"""What can be said of a model and guide: a DataTree for ArviZ, collapse, and pictures."""

from ppl_vae.diagnostics.baselines import baselines
from ppl_vae.diagnostics.calibration import Calibration, calibration
from ppl_vae.diagnostics.calibration_plot import plot_calibration
from ppl_vae.diagnostics.calibration_summary import CalibrationSummary
from ppl_vae.diagnostics.collapse import (
    ActiveUnits,
    RateDistortion,
    active_units,
    kl_per_dimension,
    linear_active_units,
    rate_distortion,
)
from ppl_vae.diagnostics.collapse_plot import plot_collapse
from ppl_vae.diagnostics.comparison import compare_models, to_elpd
from ppl_vae.diagnostics.comparison_plot import plot_models
from ppl_vae.diagnostics.comparison_table import ModelComparison
from ppl_vae.diagnostics.datatree import to_datatree
from ppl_vae.diagnostics.draws import Draws
from ppl_vae.diagnostics.estimator_plot import plot_estimators
from ppl_vae.diagnostics.estimator_row import Reference
from ppl_vae.diagnostics.estimator_table import EstimatorComparison, Replicates
from ppl_vae.diagnostics.estimators import compare_estimators
from ppl_vae.diagnostics.gradient_noise import GradientNoise, gradient_noise
from ppl_vae.diagnostics.guide_errors import GuideErrors, guide_errors
from ppl_vae.diagnostics.interval_plot import plot_evidence_interval
from ppl_vae.diagnostics.latent import LatentMeans, latent_means
from ppl_vae.diagnostics.observed import observed_entries
from ppl_vae.diagnostics.pit import PIT, PITSummary, conditional_pit, marginal_pit
from ppl_vae.diagnostics.plots import (
    plot_k_hat,
    plot_latent,
    plot_reconstructions,
    plot_samples,
    plot_training,
)
from ppl_vae.diagnostics.posterior_draws import GuideDraws, HMCDraws, ImportanceDraws
from ppl_vae.diagnostics.predictive import PredictiveCheck, predictive_check
from ppl_vae.diagnostics.predictive_plots import plot_pit, plot_predictive_check, plot_reliability
from ppl_vae.diagnostics.reliability import Reliability, reliability
from ppl_vae.diagnostics.statistics import FEATURE_STATISTICS, STATISTICS
from ppl_vae.diagnostics.surgery import ELBOSurgery, SurgerySummary, elbo_surgery

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
    "plot_training",
    "predictive_check",
    "rate_distortion",
    "reliability",
    "to_datatree",
    "to_elpd",
]
