"""What can be said of a model and guide: a DataTree for ArviZ, collapse, and pictures."""

from ppl_vae.diagnostics.collapse import (
    ActiveUnits,
    RateDistortion,
    active_units,
    kl_per_dimension,
    rate_distortion,
)
from ppl_vae.diagnostics.comparison import ModelComparison, compare_models
from ppl_vae.diagnostics.datatree import to_datatree
from ppl_vae.diagnostics.draws import Draws
from ppl_vae.diagnostics.estimator_plot import plot_estimators
from ppl_vae.diagnostics.estimator_table import EstimatorComparison, Reference, Replicates
from ppl_vae.diagnostics.estimators import compare_estimators
from ppl_vae.diagnostics.gradient_noise import GradientNoise, gradient_noise
from ppl_vae.diagnostics.latent import LatentMeans, latent_means
from ppl_vae.diagnostics.plots import (
    plot_k_hat,
    plot_latent,
    plot_reconstructions,
    plot_samples,
    plot_training,
)

__all__ = [
    "ActiveUnits",
    "Draws",
    "EstimatorComparison",
    "GradientNoise",
    "LatentMeans",
    "ModelComparison",
    "RateDistortion",
    "Reference",
    "Replicates",
    "active_units",
    "compare_estimators",
    "compare_models",
    "gradient_noise",
    "kl_per_dimension",
    "latent_means",
    "plot_estimators",
    "plot_k_hat",
    "plot_latent",
    "plot_reconstructions",
    "plot_samples",
    "plot_training",
    "rate_distortion",
    "to_datatree",
]
