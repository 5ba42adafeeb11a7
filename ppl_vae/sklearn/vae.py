"""VAE: density estimation and reduction of dimensions."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from ppl_vae.data.tables.frames import is_frame
from ppl_vae.data.validation import same_rows
from ppl_vae.diagnostics.latents.means import latent_means
from ppl_vae.families.missing import observed_part
from ppl_vae.programs.validation import check_data
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.seeding import one_at_a_time, seeded
from ppl_vae.sklearn.estimator import Estimator, Transformer
from ppl_vae.sklearn.keyed import KeyedGuide
from ppl_vae.sklearn.rows import checked_weights, covariates, in_type_of, training_rows

__all__ = ["VAE"]


@dataclass(eq=False, repr=False)
class VAE(ClassNamePrefixFeaturesOutMixin, Transformer, DensityMixin, Estimator):
    """A variational autoencoder as a scikit-learn estimator of densities and of latents.

    `score_samples` is log p(x) by importance sampling, not the ELBO, and `score` its mean: models
    are compared by it. `transform` gives the means of q(z given x). X is an array or a frame; NaN
    is missing. Columns of a frame that hold categories or strings are categories. Results for a row
    depend on its values and on the fit alone, not on the rows around it.

    Args:
        latent_dim: Number of latent dimensions D; None is the number of columns, at most 16.
        likelihood: "auto" chooses a family for each column by its kind (`recipe`); a dictionary of
            families by column overrules some of these; or one family for all columns: a name of
            `likelihoods`, a function of the event shape, or a module, of which a copy is fitted.
        prior: None is a mixture of normals; or a name of `priors`, a function of D, or a module, of
            which a copy is fitted.
        posterior: The family of q(z given x), likewise; None is `MeanFieldNormal`.
        encoder: A module from x to features, of which a copy is fitted; None is that of `recipe`.
        decoder: A module from z to features, likewise.
        objective: What is maximised; None is the IWAE bound of ten particles.
        max_steps: Gradient steps at most. From 20 epochs and 20 rows on, an eighth of the rows
            shows the best epoch, and the fit is then repeated on all rows up to that epoch.
        num_particles: Draws of z for log p(x) of a row.
        refine_steps: Steps by which q is improved for rows whose importance weights are poor
            (k-hat above 0.7), before their log p(x) is estimated again; 0 leaves them as they are.
        random_state: Seed of the starting weights, the fit and the draws.

    With covariates c, `fit(X, context=c)`, the model is p(x given c), and all methods need them; in
    pipelines and searches they are routed by `set_fit_request(context=True)` and the like.

    Shape:
        X (N, features) -> transform (N, D), score_samples (N,)

    Raises:
        ValueError: A parameter is out of range, or X is infinite or has other columns than in
            `fit`.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114; Burda, Grosse
        and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519, eq. 8
        (`score_samples`).

    Example:
        >>> X = np.random.default_rng(0).normal(size=(60, 3))
        >>> vae = VAE(latent_dim=2, max_steps=20, random_state=0).fit(X)
        >>> vae.transform(X).shape, vae.score_samples(X).shape
        ((60, 2), (60,))
        >>> vae.get_feature_names_out()
        array(['vae0', 'vae1'], dtype=object)
        >>> given = VAE(latent_dim=2, max_steps=20, random_state=0).fit(X[:, 1:], context=X[:, 0])
        >>> given.sample(4, context=[0.5])[0].shape
        (4, 2)
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, context: Any = None) -> Self:
        """Fit the model and its guide.

        `model_` and `guide_` (in float64), `data_` and `result_` are then what the library's other
        functions take, as in `pv.log_evidence(vae.model_, vae.guide_, vae.data_)`.

        Args:
            X: Rows, (N, features), at least 2.
            y: Not used.
            sample_weight: Sampling weights, (N,); rows of weight zero are left out.
            context: Covariates, (N, C) or a frame, whose categories become indicators. The model is
                then that of x given these, and all methods need them.
        """
        return self._train(training_rows(self, X, sample_weight, context))

    def transform(self, X: Any, context: Any = None) -> np.ndarray:
        """Means of q(z given x), (N, D).

        Args:
            X: Rows, (N, features).
            context: Covariates, if the model was fitted with some.
        """
        data = self._rows(X, context)
        check_data(self.model_, data.x, data.context, self.guide_)
        found = latent_means(self.guide_, data, num_particles=2, progress=False)
        if not found.exact:
            options: Any = {"num_particles": max(2, self.num_particles), "progress": False}
            found = latent_means(KeyedGuide(self.guide_, self.seed_), data, **options)
        return in_type_of(X, found.mean)

    def inverse_transform(self, X: Any, context: Any = None) -> Any:
        """E[x given z], and the most probable level of each category, (N, features).

        A frame, with the index of X if it has one, if the model was fitted to a frame with
        categories.

        Args:
            X: Latents z, (N, D), in the order of `get_feature_names_out` if their columns have
                these names.
            context: Covariates, if the model was fitted with some.
        """
        check_is_fitted(self)
        self._refuse_other_order(X)
        given = check_array(X, dtype=[np.float64, np.float32]).copy()  # torch: no reversed views
        if given.shape[1] != self.model_.latent_dim:
            raise ValueError(
                f"X has {given.shape[1]} columns, and the model {self.model_.latent_dim} latent "
                "dimensions: give what transform returns"
            )
        with torch.no_grad():
            z = torch.from_numpy(given).double()
            p = self.model_.decode(z, covariates(self, context, X))
            x = self._with_modes(p.mean, p)
        index = X.index if is_frame(X) else None
        return self._as_given(in_type_of(given, x.numpy()), index)

    def score_samples(self, X: Any, context: Any = None) -> np.ndarray:
        """Estimates of log p(x) in nats, (N,); -inf outside the likelihood's support.

        Args:
            X: Rows, (N, features).
            context: Covariates, if the model was fitted with some: log p(x given c).
        """
        return self._density(self._rows(X, context))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None, context: Any = None) -> float:
        """Mean of log p(x) over the rows, in nats.

        Args:
            X: Rows, (N, features).
            y: Not used.
            sample_weight: Sampling weights of the rows in this mean, (N,); rows of weight zero are
                left out.
            context: Covariates, if the model was fitted with some.
        """
        log_p = self.score_samples(X, context)
        if sample_weight is None:
            return float(log_p.mean())
        same_rows(X, sample_weight=sample_weight)
        weights = checked_weights(log_p, sample_weight)
        kept = weights > 0  # 0 times -inf is NaN
        return float(np.average(log_p[kept], weights=weights[kept]))

    def sample(self, n_samples: int = 1, context: Any = None) -> tuple[Any, np.ndarray]:
        """Draws of x, and the component of the prior that each comes from.

        Args:
            n_samples: Number of draws S; with covariates that for each row of these.
            context: Covariates, (N, C), if the model was fitted with some.

        Returns:
            X (S, features), a frame if the model was fitted to one with categories; and labels
            (S,), all zero where the prior is no mixture. With covariates there are S N draws, one
            for each row of these, then a second one for each, and so on.
        """
        check_is_fitted(self)
        num_samples = whole_number(n_samples, "n_samples")
        given = covariates(self, context, context)
        if given is not None:
            given = given.repeat(num_samples, 1)
            num_samples = len(given)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with one_at_a_time, seeded(seed), torch.no_grad():
            prior = self.model_.prior_at(given).expand((num_samples,))
            z = prior.sample()
            labels = _components(prior, z)
            x = self.model_.decode(z, given).sample()
        return self._as_given(x.numpy()), labels.numpy()

    @property
    def _n_features_out(self) -> int:
        """D, by which scikit-learn names the latents."""
        return self.model_.latent_dim

    def _with_modes(self, x: Tensor, p: Any) -> Tensor:
        """x with the most probable level in columns of categories, p(x given z)."""
        levels = self.data_.feature_levels
        places = self.data_.places_of(list(levels))
        last = torch.tensor([len(each) - 1 for each in levels.values()])
        if not places:
            return x
        codes = torch.arange(int(last.max()) + 1)
        trial = x.new_full((len(codes), *x.shape), torch.nan)  # the other columns take no part
        trial[..., places] = torch.minimum(codes[:, None], last)[:, None].to(x)
        part, values = observed_part(p, trial)
        best = part.base_dist.log_prob(values)[..., places].argmax(0)
        x[..., places] = best.to(x)
        return x

    def _as_given(self, x: np.ndarray, index: Any = None) -> Any:
        """Numbers, or a frame with the levels of its categories, of other rows than in the fit."""
        if not self.data_.feature_levels:
            return x
        return self.data_.to_frame(x, index=range(len(x)) if index is None else index)

    def _refuse_other_order(self, X: Any) -> None:
        """Refuse latents whose columns have the names of this estimator in another order."""
        own = self.get_feature_names_out().tolist()
        for place, name in enumerate(getattr(X, "columns", ())):
            if name in own and own.index(name) != place:
                raise ValueError(
                    f"column {place} of X is {name!r}, which is latent {own.index(name)}: give "
                    f"X[{own}]"
                )


def _components(prior: Any, z: Tensor) -> Tensor:
    """A draw of the component of the prior that each z came from: (N, D) -> (N,)."""
    if not isinstance(prior, torch.distributions.MixtureSameFamily):
        return torch.zeros(len(z), dtype=torch.long)
    log_p = prior.component_distribution.log_prob(z.unsqueeze(-2))
    log_weights = prior.mixture_distribution.logits + log_p
    return torch.distributions.Categorical(logits=log_weights).sample()
