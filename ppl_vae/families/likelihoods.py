"""Likelihoods p(x given z): decoder features in, a distribution over x out."""

from collections.abc import Sequence
from typing import override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppl_vae.families import densities
from ppl_vae.families.factorised import Likelihood
from ppl_vae.families.missing import smoothed_mean
from ppl_vae.families.real import Gaussian, StudentT
from ppl_vae.runtime.checks import whole_number

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Gaussian",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
]


class Bernoulli(Likelihood):
    """Independent bits: p(x_i given z) = Bernoulli(sigmoid(logit_i)).

    Refuses grey pixels: a Bernoulli "likelihood" of a value between 0 and 1 is not a density.

    Args:
        event_shape: Shape of one observation.

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
    remedy = (
        'binarise the data (Dataset(..., binarize="dynamic")), or use ContinuousBernoulli for '
        "values in [0, 1]"
    )

    @override
    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        return (smoothed_mean(x, 0.5).logit(),)

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.LogitBernoulli(logits=raw[0])


class ContinuousBernoulli(Likelihood):
    """Values in [0, 1] with density C(p) p^x (1 - p)^(1 - x): Bernoulli made a normalised density.

    A density on [0, 1]: its log-likelihood is not comparable with that of binarised data.

    Args:
        event_shape: Shape of one observation.

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

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.LogitContinuousBernoulli(raw[0])


DISPERSIONS = 1e-2, 1e3  # range of the starting values of a negative binomial


class _Counts(Likelihood):
    """Whole counts with the mean exp(eta_i)."""

    support = constraints.nonnegative_integer
    remedy = "counts are whole numbers 0, 1, 2, ...; use Gaussian or StudentT for measurements"

    @override
    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        return (smoothed_mean(x, 1.0).log(),)


class Poisson(_Counts):
    """Counts with the canonical link: p(x_i given z) = Poisson(exp(eta_i)).

    Variance equals the mean; overdispersed counts need `NegativeBinomial`.

    Args:
        event_shape: Shape of one observation.

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

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.LogRatePoisson(raw[0])


class NegativeBinomial(_Counts):
    """Overdispersed counts: mean mu_i = exp(eta_i), variance mu_i + mu_i^2 / r_i, r_i learned.

    A Gamma-Poisson mixture; r to infinity is `Poisson`.

    Args:
        event_shape: Shape of one observation.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    References:
        Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics,
        doi:10.1038/s41592-018-0229-2.

    Example:
        >>> likelihood = NegativeBinomial(3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).mean.shape
        torch.Size([5, 3])
    """

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__(event_shape)
        self.log_dispersion = nn.Parameter(torch.zeros(self.event_shape))

    @override
    def start_at(self, x: Tensor) -> None:
        super().start_at(x)
        mean = x.nanmean(0)
        excess = (x - mean).square().nanmean(0) - mean
        # r = mu^2 / (variance - mu) by moments; near-Poisson counts start at the largest.
        dispersion = torch.where(excess > 0, mean.square() / excess, torch.inf).clamp(*DISPERSIONS)
        with torch.no_grad():
            self.log_dispersion.copy_(torch.where(mean > 0, dispersion.log(), self.log_dispersion))

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.LogMeanNegativeBinomial(raw[0], self.log_dispersion)


class Categorical(Likelihood):
    """Unordered categories 0 .. C-1: p(x_i = c given z) = softmax(logits_i)_c.

    x holds category numbers, not indicators (one column per variable).

    Args:
        event_shape: Shape of one observation.
        num_categories: Number of categories C, the same for every element.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    References:
        Agresti (2013), Categorical data analysis, chapter 8 (the multinomial logit).

    Example:
        >>> likelihood = Categorical(3, num_categories=4)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).base_dist.probs.shape
        torch.Size([5, 3, 4])
    """

    def __init__(self, event_shape: int | Sequence[int], num_categories: int = 2) -> None:
        super().__init__(event_shape)
        num_categories = whole_number(num_categories, "num_categories", at_least=2)
        self.num_parameters = num_categories
        self.support = constraints.integer_interval(0, num_categories - 1)
        self.remedy = f"categories are numbered 0 to {num_categories - 1}"

    @override
    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        indicators = [(x == c).to(x).where(~x.isnan(), x) for c in range(self.num_parameters)]
        return tuple(smoothed_mean(each, 1 / self.num_parameters).log() for each in indicators)

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=torch.stack(raw, dim=-1))

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_categories={self.num_parameters}"
