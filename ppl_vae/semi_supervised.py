"""M2: a model and a guide of a class y and a continuous latent z, the class known for some rows."""

import itertools
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.families.densities.latents import ScatteredOneHot
from ppl_vae.families.likelihoods import Likelihood
from ppl_vae.families.missing import observed_part
from ppl_vae.families.modules import require_module, shape_of
from ppl_vae.families.networks import MLP
from ppl_vae.families.networks.readout import Readout
from ppl_vae.families.posteriors import Posterior
from ppl_vae.families.rows import example_rows, features_of, latents_in, read_features
from ppl_vae.runtime.checks import shown, whole_number

__all__ = ["SemiSupervisedGuide", "SemiSupervisedModel"]

_numbers = itertools.count()  # see model.py


class LabelledRows(PyroModule):
    """Rows whose last column is the class, 0 to C - 1, or NaN where it is not known."""

    def __init__(self, num_classes: int, event_shape: int | Sequence[int]) -> None:
        super().__init__(name=f"semi_supervised_{next(_numbers)}")
        self.num_classes = whole_number(num_classes, "num_classes", at_least=2)
        self.event_shape = shape_of(event_shape)

    def check(self, x: Tensor, context: Tensor | None = None) -> None:
        """Raise ValueError unless x has a column more than the observations, with classes."""
        name = type(self).__name__
        width = self.event_shape.numel() + 1
        if context is not None:
            raise ValueError(f"{name} takes no covariates: write a Pyro model of your own")
        if x.dim() != 2 or x.shape[1] != width:
            raise ValueError(
                f"{name} was given x of shape {tuple(x.shape)}: give (rows, {width}), observations "
                "flattened and the class, or NaN, in the last column"
            )
        labels = x[:, -1]
        wrong = ~labels.isnan() & ~((labels >= 0) & (labels < self.num_classes) & (labels % 1 == 0))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"the class of row {row} is {shown(labels[row])}: give a whole number from 0 to "
                f"{self.num_classes - 1}, or NaN"
            )

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Observations (B, *event), classes as unit vectors (B, C), and which are known (B,)."""
        if torch.distributions.Distribution._validate_args:
            self.check(x)
        labels = x[:, -1]
        classes = torch.arange(self.num_classes, device=x.device)
        one_hot = (labels.nan_to_num().unsqueeze(-1) == classes).to(x.dtype)
        return x[:, :-1].reshape(-1, *self.event_shape), one_hot, ~labels.isnan()


class SemiSupervisedModel(LabelledRows):
    """y ~ Categorical, z ~ p(z), x ~ p(x given y, z), y known for some rows: the M2 model.

    The last column of x is the class, a whole number from 0 to C - 1, or NaN. log p(x) of a row is
    log p(x, y) where the class is known, and elsewhere log sum_y p(x, y), summed out exactly. Sites
    "y" (Pyro's `obs_mask`: "y_observed" and "y_unobserved"), "z" and "x". Train with
    `objectives.EnumeratedELBO(label_weight=...)`. With few labels the result depends on which rows
    have them: repeat with other ones.

    Args:
        num_classes: Number of classes C.
        prior: p(z), one of `priors`.
        likelihood: p(x given features), one of `likelihoods`.
        decoder: Any module from z and y, a unit vector appended, to features; None gives an `MLP`
            of 2 x 256.
        shares: p(y), fixed; None is equal shares.

    Shape:
        x (B, elements of one observation + 1)

    Raises:
        ValueError: a class is none of 0 to C - 1, x has another width, or the shares are no C
            positive numbers.

    References:
        Kingma, Rezende, Mohamed and Welling (2014), Semi-supervised learning with deep generative
        models, arXiv:1406.5298, eq. 2.

    Example:
        >>> from ppl_vae.families import likelihoods, priors
        >>> model = SemiSupervisedModel(3, priors.StandardNormal(2), likelihoods.Bernoulli(5))
        >>> model(torch.zeros(4, 6)).shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        num_classes: int,
        prior: nn.Module,
        likelihood: Likelihood,
        decoder: nn.Module | None = None,
        *,
        shares: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes, likelihood.event_shape)
        require_module(prior, "prior")
        require_module(likelihood, "likelihood", "build")
        self.latent_dim = latents_in(prior())
        size = self.latent_dim + self.num_classes
        self.decoder = MLP(size) if decoder is None else decoder
        require_module(self.decoder, "decoder")
        likelihood.build(read_features(self.decoder, example_rows(size), "decoder"))
        self.prior = prior
        self.likelihood = likelihood
        self.may_miss: bool | None = None
        weights = torch.as_tensor([1.0] * self.num_classes if shares is None else list(shares))
        if weights.shape != (self.num_classes,) or not (weights > 0).all():
            raise ValueError(f"shares is {shares}; it must be {self.num_classes} positive numbers")
        self.log_shares = nn.Buffer(weights.log().log_softmax(0))

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro model."""
        values, labels, known = self.parts(x)
        with pyro.plate("data", len(x), dim=-1):
            classes = ScatteredOneHot(logits=self.log_shares)
            y: Any = pyro.sample("y", classes, obs=labels, obs_mask=known)
            z = pyro.sample("z", self.prior())
            likelihood, values = observed_part(self.likelihood_at(z, y), values, self.may_miss)
            return pyro.sample("x", likelihood, obs=values)

    def likelihood_at(self, z: Tensor, y: Tensor) -> Any:
        """p(x given z, y), y (*batch, C)."""
        batch = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
        inputs = torch.cat([z.expand(*batch, -1), y.expand(*batch, -1)], dim=-1)
        return self.likelihood(features_of(self.decoder, inputs, len(batch)))


class SemiSupervisedGuide(LabelledRows):
    """q(y given x) q(z given x, y), the guide of `SemiSupervisedModel`.

    Args:
        num_classes: Number of classes C.
        posterior: q(z given features), one of `posteriors`.
        event_shape: Shape of one observation without its class.
        encoder: Any module from x, flattened, with y appended as a unit vector, to features; None
            gives an `MLP` of 2 x 256.
        classifier: Any module from x to the features of q(y given x); None gives another one.

    Shape:
        x (B, elements of one observation + 1) -> z (B, D)

    References:
        Kingma, Rezende, Mohamed and Welling (2014), Semi-supervised learning with deep generative
        models, arXiv:1406.5298, eq. 4.

    Example:
        >>> from ppl_vae.families import posteriors
        >>> guide = SemiSupervisedGuide(3, posteriors.MeanFieldNormal(2), 5)
        >>> guide.classify(torch.zeros(4, 6)).probs.shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        num_classes: int,
        posterior: Posterior,
        event_shape: int | Sequence[int],
        encoder: nn.Module | None = None,
        classifier: nn.Module | None = None,
    ) -> None:
        super().__init__(num_classes, event_shape)
        require_module(posterior, "posterior", "build", "latent_dim")
        size = self.event_shape.numel() + self.num_classes
        self.encoder = MLP(size) if encoder is None else encoder
        self.classifier = MLP(self.event_shape) if classifier is None else classifier
        require_module(self.encoder, "encoder")
        require_module(self.classifier, "classifier")
        examples = example_rows(*self.event_shape)
        shape = read_features(self.classifier, examples, "classifier")
        self.link = Readout(shape, 1, (self.num_classes,))
        posterior.build(read_features(self.encoder, example_rows(size), "encoder"))
        self.posterior = posterior
        self.latent_dim = posterior.latent_dim

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro guide."""
        values, labels, known = self.parts(x)
        with pyro.plate("data", len(x), dim=-1):
            with poutine.mask(mask=~known):
                y: Any = pyro.sample("y_unobserved", self.classes_of(values))
            y = torch.where(known.unsqueeze(-1), labels, y)
            return pyro.sample("z", self.posterior_at(values, y))

    def classify(self, x: Tensor) -> ScatteredOneHot:
        """q(y given x), whether the class is known or not."""
        return self.classes_of(self.parts(x)[0])

    def classes_of(self, values: Tensor) -> ScatteredOneHot:
        """q(y given x) of observations without the column of classes."""
        features = features_of(self.classifier, values.nan_to_num(), 1)
        return ScatteredOneHot(logits=self.link(features).squeeze(-2))

    def posterior_at(self, values: Tensor, y: Tensor) -> Any:
        """q(z given x, y), y (*batch, C)."""
        flat = values.nan_to_num().flatten(1)
        inputs = torch.cat([flat.expand(*y.shape[:-1], -1), y], dim=-1)
        return self.posterior(features_of(self.encoder, inputs, y.dim() - 1))
