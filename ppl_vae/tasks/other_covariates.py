"""Counterfactuals: the same rows under other covariates."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.predictive.replicates import ReplicatedData
from ppl_vae.evidence.pareto import GOOD_K
from ppl_vae.programs.inference import Inference
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import real_number, whole_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.text import percent

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Counterfactual", "counterfactual"]


@dataclass(frozen=True, repr=False)
class Counterfactual(Shown):
    """Draws of x for rows under other covariates.

    Args:
        draws: Draws of x, (S, N, *event).
        pareto_k: k-hat of the importance weights that z was drawn with, (N,): above 0.7 the draws
            of a row follow the guide more than the posterior.
        data: The rows, with the covariates of the draws.

    Example:
        >>> found = Counterfactual(np.array([[[1.0]], [[2.0]]]), np.zeros(1), Dataset([[0.0]]))
        >>> found.mean.tolist(), found.interval(0.5).tolist()
        ([[1.5]], [[[1.25]], [[1.75]]])
    """

    draws: np.ndarray
    pareto_k: np.ndarray
    data: Dataset

    @property
    def mean(self) -> np.ndarray:
        """Mean of the draws, (N, *event); NaN for categories."""
        return self._without_categories(self.draws.mean(0))

    def interval(self, level: float = 0.9) -> np.ndarray:
        """Equal-tailed interval of the draws, (2, N, *event); NaN for categories.

        Args:
            level: Probability of the interval.
        """
        tail = (1 - real_number(level, "level", above=0, below=1)) / 2
        return self._without_categories(np.quantile(self.draws, [tail, 1 - tail], axis=0))

    def to_frame(self) -> "pd.DataFrame":
        """The draws as a frame with the columns of x and an index (sample, row)."""
        return self.data.to_frame(self.draws)

    def __repr__(self) -> str:
        num_samples, num_rows = self.draws.shape[:2]
        bad = (self.pareto_k > GOOD_K).mean()
        return (
            f"Counterfactual({num_rows} rows, {num_samples} draws each, k-hat > {GOOD_K} for "
            f"{percent(bad)} of the rows)"
        )

    def _without_categories(self, values: np.ndarray) -> np.ndarray:
        """The values with NaN in columns of categories, whose codes have no mean."""
        if len(self.data.event_shape) > 1:
            return values
        is_category = [name in self.data.levels for name in self.data.feature_names]
        return np.where(is_category, np.nan, values)


def counterfactual(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    context: Any,
    *,
    num_samples: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> Counterfactual:
    """Each row as it might have been under other covariates c'.

    z ~ p(z given x, c), then x' ~ p(x given z, c'). z is drawn by importance resampling of the
    guide's draws, and is kept; the noise of the observation is drawn anew. As a causal statement
    this needs covariates that are independent of z and of all else that affects x, as under
    randomisation; without that it describes the model. Covariates that z has learned from x stay.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1 that takes covariates.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` with covariates.
        context: The other covariates: values by column in their own terms, {"sex": "female", "age":
            50}, each for all rows or one for each, where other columns stay as they are; or all
            covariates, (N, C).
        num_samples: Number of draws S for each row.
        seed: Seed of the draws.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        The draws, with their mean and intervals.

    Raises:
        ValueError: The data have no covariates, or none of this name or level.

    References:
        Pearl (2009), Causality, section 7.1 (abduction, action, prediction); Pawlowski, Castro and
        Glocker (2020), Deep structural causal models for tractable counterfactual inference,
        arXiv:2006.06485.

    Example:
        >>> import torch
        >>> from ppl_vae.families import likelihoods, posteriors, priors
        >>> from ppl_vae.guide import Guide
        >>> from ppl_vae.model import Model
        >>> data = Dataset(torch.zeros(3, 2), context=[0.0, 0.0, 1.0])
        >>> model = Model(priors.StandardNormal(1), likelihoods.Gaussian(2), start=data)
        >>> guide = Guide(posteriors.MeanFieldNormal(1), 2, start=data)
        >>> counterfactual(model, guide, data, {"0": 1.0}, num_samples=5).draws.shape
        (5, 3, 2)
    """
    whole_number(num_samples, "num_samples")
    inference = Inference(model, guide, data)
    inference.require_density()
    other = inference.data.with_context(context)
    sizes = {"num_samples": num_samples, "seed": seed}
    replicates = ReplicatedData(inference, **sizes, progress=progress)
    parts = []
    with progress_bar(num_samples, "counterfactuals", unit="draws", progress=progress) as bar:
        for draws in replicates.under(other):
            parts.append(draws)
            bar.update(len(draws))
    return Counterfactual(np.concatenate(parts), replicates.pareto_k, other)
