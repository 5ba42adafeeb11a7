"""VAEImputer: missing values completed by their conditional means."""

import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import OneToOneFeatureMixin

from ppl_vae.data import Dataset
from ppl_vae.programs.modules import arguments
from ppl_vae.refinement import GradientRefinement
from ppl_vae.runtime.checks import warn_caller
from ppl_vae.sklearn.estimator import Estimator, Transformer
from ppl_vae.sklearn.keyed import row_seeds
from ppl_vae.sklearn.rows import in_type_of, training_rows
from ppl_vae.tasks import Imputations, impute

__all__ = ["VAEImputer"]


@dataclass(eq=False, repr=False)
class VAEImputer(OneToOneFeatureMixin, Transformer, Estimator):
    """An imputer: missing values become E[x_mis given x_obs] under a fitted `VAE`.

    Categories and columns of 0 and 1 become the most probable value, counts the whole number that
    is nearest to the mean. Observed values stay as they
    are. This is single imputation: standard errors of analyses of the completed table are too
    small. `pv.impute(imputer.model_, imputer.guide_, X)` gives multiple imputations instead, to be
    pooled by `pv.pool`. Values are missing at random.

    Args:
        latent_dim: Number of latent dimensions D, as in `VAE`.
        refine_steps: Steps by which q is improved for rows whose importance weights are poor,
            before Hamiltonian Monte Carlo is tried; 0 does neither.
        others: Those of `VAE`.

    Shape:
        X (N, features) -> (N, features)

    Raises:
        ValueError: A parameter is out of range, X is infinite or has other columns than in `fit`,
            or a column was missing in all training rows.

    References:
        Mattei and Frellsen (2019), MIWAE, arXiv:1812.02633, section 3.3.

    Example:
        >>> x = np.random.default_rng(0).normal(size=60)
        >>> X = np.column_stack([x, 2 * x])
        >>> X[0, 1] = np.nan
        >>> imputer = VAEImputer(latent_dim=1, max_steps=20, random_state=0)
        >>> bool(np.isnan(imputer.fit_transform(X)).any())
        False
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, context: Any = None) -> Self:
        """Fit the model and its guide to the observed values.

        Args:
            X: Rows, (N, features), at least 2; NaN is missing.
            y: Not used.
            sample_weight: Sampling weights, (N,); rows of weight zero are left out.
            context: Covariates, as in `VAE`.
        """
        data = training_rows(self, X, sample_weight, context)
        if data.unobserved_features:
            raise ValueError(
                f"column {data.unobserved_features[0]!r} of X is missing in all rows, so that "
                "nothing is known of its values: leave it out"
            )
        return self._train(data)

    def transform(self, X: Any, context: Any = None) -> Any:
        """X without missing values: an array, or a frame if X is one with categories.

        Rows are completed one by one, with draws that depend on their own values alone.

        Args:
            X: Rows, (N, features).
            context: Covariates, if the model was fitted with some.
        """
        data = self._rows(X, context)
        x = data.x.numpy().copy()
        seeds = row_seeds(self.seed_, *arguments(data))
        poor = 0
        for row in np.flatnonzero(np.isnan(x).any(1)).tolist():
            imputations = self._imputed(data[[row]], seeds[row])
            poor += imputations.served.num_unreliable
            x[row] = imputations.most_plausible(self.data_.kinds)[0]
        if poor:
            warn_caller(
                f"draws are not reliable for {poor} of {len(data)} rows: see "
                "pv.impute(imputer.model_, imputer.guide_, X).rows, or raise max_steps"
            )
        return data.to_frame(x) if data.feature_levels else in_type_of(X, x)

    def _imputed(self, row: Dataset, seed: int) -> Imputations:
        """Draws of the missing values of one row; what they warn of is said once for all rows."""
        options: dict[str, Any] = {"method": "importance"}
        if self.refine_steps:
            options = {"refinement": GradientRefinement(self.refine_steps)}
        options |= {"num_imputations": 1, "num_particles": self.num_particles, "progress": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return impute(self.model_, self.guide_, row, seed=seed, **options)
