"""Estimators for scikit-learn: a VAE as a density, classifier, imputer and detector of outliers."""

from ppl_vae.sklearn.classifier import VAEClassifier
from ppl_vae.sklearn.imputer import VAEImputer
from ppl_vae.sklearn.outliers import VAEOutlierDetector
from ppl_vae.sklearn.vae import VAE

__all__ = ["VAE", "VAEClassifier", "VAEImputer", "VAEOutlierDetector"]
