"""Latents as coordinates of the rows: what they keep of x, and what each of them explains."""

from ppl_vae.tasks.reduction.loadings import LoadingIntervals, loading_intervals
from ppl_vae.tasks.reduction.plot import (
    plot_embedding_quality,
    plot_loadings,
    plot_variance_explained,
)
from ppl_vae.tasks.reduction.quality import EmbeddingQuality, embedding_quality
from ppl_vae.tasks.reduction.variance import VarianceExplained, variance_explained

__all__ = [
    "EmbeddingQuality",
    "LoadingIntervals",
    "VarianceExplained",
    "embedding_quality",
    "loading_intervals",
    "plot_embedding_quality",
    "plot_loadings",
    "plot_variance_explained",
    "variance_explained",
]
