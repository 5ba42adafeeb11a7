"""Likelihoods p(x given z): decoder features in, a distribution over x out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.checks import one_of, real_number, whole_number
from ppl_vae.families.missing import smoothed_mean
from ppl_vae.families.networks import Readout, shape_of

__all__ = ["Bernoulli", "Categorical", "ContinuousBernoulli", "Gaussian", "NegativeBinomial", "Poisson", "StudentT"]


class Likelihood(nn.Module, ABC):
    """A factorised p(x given z) = prod_i p(x_i given parameters_i(features)); a family implements `elementwise`.

    Subclasses state the `support` of one element, how many `num_parameters` it has, its `measure`
    ("counting": a probability; "lebesgue": a density; the two are never compared), and the `remedy` for x outside the
    support.
    """

    num_parameters = 1
    measure: Literal["counting", "lebesgue"] = "counting"
    support: constraints.Constraint
    remedy = ""

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.event_shape = shape_of(event_shape)
        self.link: Readout | None = None

    def build(self, feature_shape: Sequence[int]) -> None:
        """Make the last linear map for features of this shape; `Model` calls it after its dry run."""
        if self.link is not None:
            raise ValueError(f"this {type(self).__name__} belongs to a Model already: make another one")
        self.link = Readout(feature_shape, self.num_parameters, self.event_shape)

    def marginal(self, x: Tensor) -> tuple[Tensor, ...] | None:
        """The unconstrained parameters under which each x_i has its mean in these data; None leaves the link alone."""
        return None

    def start_at(self, x: Tensor) -> None:
        """Set the link's bias so that features of zero give the marginals of x, (N, *event)."""
        self._check_shape(x)
        raw = self.marginal(x)
        if raw is not None and self.link is not None:
            self.link.set_bias(torch.stack([each.expand(self.event_shape) for each in raw]))

    @abstractmethod
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        """Distribution of each x_i from `num_parameters` unconstrained tensors of shape (*batch, *event_shape)."""

    def parameters_of(self, features: Tensor) -> tuple[Tensor, ...]:
        """The unconstrained parameters of each x_i."""
        if self.link is None:
            raise RuntimeError(
                f"{type(self).__name__} has no link yet: give it to a Model, or call build(feature_shape)"
            )
        return self.link(features).unbind(-1 - len(self.event_shape))

    def forward(self, features: Tensor) -> dist.Independent:
        """p(x given features)."""
        return self.elementwise(*self.parameters_of(features)).to_event(len(self.event_shape))

    def check(self, x: Tensor) -> None:
        """Raise unless every observed value lies in the support (NaN is missing).

        Raises:
            ValueError: the event shape is wrong, or a value is outside the support; names value, row and feature.
        """
        self._check_shape(x)
        outside = x.isinf() | ~(self.support.check(x) | x.isnan())
        if outside.any():
            row, *feature = outside.nonzero()[0].tolist()
            value = x[(row, *feature)].item()
            place = feature[0] if len(feature) == 1 else tuple(feature)
            raise ValueError(f"{type(self).__name__}: x is {value:g} at row {row}, feature {place}; {self.remedy}")

    def _check_shape(self, x: Tensor) -> None:
        if x.shape[-len(self.event_shape) :] != self.event_shape:
            raise ValueError(
                f"{type(self).__name__}({tuple(self.event_shape)}) was given x of shape {tuple(x.shape)}: "
                f"one datum must have shape {tuple(self.event_shape)}"
            )

    def concerns(self, features: Tensor) -> list[str]:
        """What a statistician should know of the fitted parameters at these features; empty when all is well."""
        return []

    def extra_repr(self) -> str:
        """The event shape."""
        return str(tuple(self.event_shape))


class Bernoulli(Likelihood):
    """Independent bits: p(x_i given z) = Bernoulli(sigmoid(logit_i)).

    Refuses grey pixels: a Bernoulli "likelihood" of a value between 0 and 1 is no likelihood.

    Args:
        event_shape: Shape of one datum.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, appendix C.1.

    Example:
        >>> likelihood = Bernoulli((28, 28))
        >>> likelihood.build((200,))
        >>> likelihood(torch.zeros(5, 200)).event_shape
        torch.Size([28, 28])
    """

    support = constraints.boolean
    remedy = 'binarise the data (Dataset(..., binarize="dynamic")), or use ContinuousBernoulli for values in [0, 1]'

    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        """The logit of each frequency."""
        return (smoothed_mean(x, 0.5).logit(),)

    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        """Bernoulli with these logits."""
        return dist.Bernoulli(logits=raw[0])


class ContinuousBernoulli(Likelihood):
    """Values in [0, 1] with density C(p) p^x (1 - p)^(1 - x): Bernoulli made a normalised density.

    A density on [0, 1]: its log-likelihood is not comparable with that of binarised data.

    Args:
        event_shape: Shape of one datum.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    References:
        Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli, arXiv:1907.06845, eq. 4.

    Example:
        >>> likelihood = ContinuousBernoulli(3)
        >>> likelihood.build((4,))
        >>> likelihood(torch.zeros(5, 4)).log_prob(torch.full((5, 3), 0.5)).shape
        torch.Size([5])
    """

    measure = "lebesgue"
    support = constraints.unit_interval
    remedy = "scale the data into [0, 1]"

    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        """Continuous Bernoulli with these logits."""
        return dist.ContinuousBernoulli(logits=raw[0])


Scale = float | Literal["global", "feature", "decoder"]


class _LocationScale(Likelihood):
    """Real x_i with a location from the decoder and a scale that is fixed, global, per feature or from the decoder too.

    A free scale makes the likelihood unbounded, so scale = floor + softplus(raw), and `concerns` says when the floor is
    reached.
    """

    measure = "lebesgue"
    support = constraints.real
    remedy = "use NaN for missing values and drop infinite ones"

    def __init__(self, event_shape: int | Sequence[int], scale: Scale = "global", *, floor: float = 1e-3) -> None:
        super().__init__(event_shape)
        if isinstance(scale, str):
            one_of(scale, "scale, if not a number,", ("global", "feature", "decoder"))
        else:
            real_number(scale, "scale", above=0)
        self.scale, self.floor = scale, floor
        self.num_parameters = 2 if scale == "decoder" else 1
        if scale in ("global", "feature"):
            shape = self.event_shape if scale == "feature" else ()
            self.raw_scale = nn.Parameter(torch.full(shape, 0.5413))  # softplus(0.5413) = 1

    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        """The means; a scale from the decoder starts at softplus(0.5413) = 1, as the others do."""
        mean = x.nanmean(0)
        return (mean, torch.full_like(mean, 0.5413))[: self.num_parameters]

    def scale_of(self, location: Tensor, *raw: Tensor) -> Tensor:
        """Standard deviation (or scale) of each x_i, in the units of x."""
        if not isinstance(self.scale, str):
            return location.new_tensor(self.scale)
        return self.floor + softplus(raw[0] if raw else self.raw_scale)

    def concerns(self, features: Tensor) -> list[str]:
        """Says when the scale has come within 5 % of its floor."""
        if not isinstance(self.scale, str):
            return []
        smallest = self.scale_of(*self.parameters_of(features)).min().item()
        if smallest > 1.05 * self.floor:
            return []
        return [
            f"{type(self).__name__}: scale {smallest:.3g} has reached its floor {self.floor:g}: the likelihood is "
            "unbounded there (Mattei and Frellsen 2018); raise floor=, fix scale=, or check for constant features"
        ]

    def extra_repr(self) -> str:
        """The event shape, scale and floor."""
        return f"{super().extra_repr()}, scale={self.scale!r}, floor={self.floor:g}"


class Gaussian(_LocationScale):
    """Real values: p(x_i given z) = N(location_i(z), scale_i^2).

    With a free scale the likelihood is unbounded (a collapsed variance scores infinitely well): hence the floor.

    Args:
        event_shape: Shape of one datum.
        scale: A number (fixed), "global" (one, learned), "feature" (one per feature, learned) or "decoder" (from z).
        floor: Smallest learned scale, in the units of x.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `scale` is not positive or not one of the three words.

    References:
        Mattei and Frellsen (2018), Leveraging the exact likelihood of deep latent variable models, arXiv:1802.04826.

    Example:
        >>> likelihood = Gaussian(3, scale=0.5)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).batch_shape
        torch.Size([5])
    """

    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        """Normal with this location (and scale)."""
        return dist.Normal(raw[0], self.scale_of(*raw))


class StudentT(_LocationScale):
    """Real values with heavy tails: p(x_i given z) = StudentT(df, location_i(z), scale_i).

    Robust to outliers; df is learned per feature unless fixed, and stays above 2 so that the variance exists.

    Args:
        event_shape: Shape of one datum.
        scale: A number, "global", "feature" or "decoder", as in `Gaussian`.
        floor: Smallest learned scale, in the units of x.
        df: Degrees of freedom; None learns one per feature (above 2).

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `scale` or `df` is not positive.

    References:
        Takahashi et al. (2018), Student-t variational autoencoder for robust density estimation, IJCAI.

    Example:
        >>> likelihood = StudentT(3, scale="decoder")
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).event_shape
        torch.Size([3])
    """

    def __init__(
        self, event_shape: int | Sequence[int], scale: Scale = "global", *, floor: float = 1e-3, df: float | None = None
    ) -> None:
        super().__init__(event_shape, scale, floor=floor)
        if df is not None:
            real_number(df, "df", above=0)
        self.df = df
        if df is None:
            self.raw_df = nn.Parameter(torch.full(self.event_shape, 3.0))

    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        """Student's t with this location (and scale)."""
        df = 2 + softplus(self.raw_df) if self.df is None else raw[0].new_tensor(self.df)
        return dist.StudentT(df, raw[0], self.scale_of(*raw))


class _Counts(Likelihood):
    """Whole counts with the mean exp(eta_i)."""

    support = constraints.nonnegative_integer
    remedy = "counts are whole numbers 0, 1, 2, ...; use Gaussian or StudentT for measurements"

    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        """The log of each mean."""
        return (smoothed_mean(x, 1.0).log(),)


class Poisson(_Counts):
    """Counts with the canonical link: p(x_i given z) = Poisson(exp(eta_i)).

    Variance equals the mean; overdispersed counts need `NegativeBinomial`.

    Args:
        event_shape: Shape of one datum.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    References:
        McCullagh and Nelder (1989), Generalized linear models, chapter 6.

    Example:
        >>> likelihood = Poisson(3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).event_shape
        torch.Size([3])
    """

    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        """Poisson with this log-rate."""
        return dist.Poisson(raw[0].exp())


class NegativeBinomial(_Counts):
    """Overdispersed counts: mean mu_i = exp(eta_i), variance mu_i + mu_i^2 / r_i, with r_i learned per feature.

    A Gamma-Poisson mixture; r to infinity is `Poisson`.

    Args:
        event_shape: Shape of one datum.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    References:
        Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics, doi:10.1038/s41592-018-0229-2.

    Example:
        >>> likelihood = NegativeBinomial(3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).mean.shape
        torch.Size([5, 3])
    """

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__(event_shape)
        self.log_dispersion = nn.Parameter(torch.zeros(self.event_shape))

    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        """Negative binomial with this log-mean."""
        return dist.NegativeBinomial(self.log_dispersion.exp(), logits=raw[0] - self.log_dispersion)


class Categorical(Likelihood):
    """Unordered categories 0 .. C-1: p(x_i = c given z) = softmax(logits_i)_c.

    x holds category numbers, not indicators (one column per variable).

    Args:
        event_shape: Shape of one datum.
        num_categories: Number of categories C, the same for every element.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    References:
        No paper: the multinomial logit.

    Example:
        >>> likelihood = Categorical(3, num_categories=4)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).base_dist.probs.shape
        torch.Size([5, 3, 4])
    """

    def __init__(self, event_shape: int | Sequence[int], num_categories: int = 2) -> None:
        super().__init__(event_shape)
        whole_number(num_categories, "num_categories", at_least=2)
        self.num_parameters = num_categories
        self.support = constraints.integer_interval(0, num_categories - 1)
        self.remedy = f"categories are numbered 0 to {num_categories - 1}"

    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        """The log of each category's frequency."""
        indicators = [(x == c).to(x).where(~x.isnan(), x) for c in range(self.num_parameters)]
        return tuple(smoothed_mean(each, 1 / self.num_parameters).log() for each in indicators)

    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        """Categorical with these logits."""
        return dist.Categorical(logits=torch.stack(raw, dim=-1))

    def extra_repr(self) -> str:
        """The event shape and the number of categories."""
        return f"{super().extra_repr()}, num_categories={self.num_parameters}"
