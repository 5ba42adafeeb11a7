"""Likelihoods of counts with an upper end: successes among trials, and parts of a total."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, override

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppl_vae.families import densities
from ppl_vae.families.likelihoods.counts import DISPERSIONS
from ppl_vae.families.likelihoods.likelihood import Likelihood
from ppl_vae.families.missing import smoothed_mean
from ppl_vae.runtime.checks import shown, whole_number

__all__ = ["BetaBinomial", "Binomial", "DirichletMultinomial", "Multinomial"]

ROUNDING = 1e-6  # relative, of totals in float32


def log_concentration(x: Tensor, total: Tensor, shares: Tensor, dims: tuple[int, ...]) -> Tensor:
    """log c by moments: E (x - n p)^2 = n p (1 - p) (1 + (n - 1) / (1 + c)), summed over `dims`."""
    spread = total * shares * (1 - shares) + 0 * x  # NaN where x is missing
    excess = (x - total * shares).square() - spread
    correlation = excess.nansum(dims) / ((total - 1) * spread).nansum(dims)
    # Counts that are not overdispersed start at the largest.
    found = torch.where(correlation > 0, 1 / correlation - 1, torch.inf)
    return found.clamp(*DISPERSIONS).log()


class Trials(Likelihood):
    """Successes among a number of trials that is the same in every row; the link is the logit."""

    total: Tensor

    def __init__(self, event_shape: int | Sequence[int], total: int | Sequence[int]) -> None:
        super().__init__(event_shape)
        trials = np.asarray(total)
        for each in trials.flatten().tolist():
            whole_number(each, "total")
        if trials.shape not in ((), tuple(self.event_shape)):
            raise ValueError(
                f"total has shape {trials.shape}: give one number of trials, or one for each "
                f"feature, {tuple(self.event_shape)}"
            )
        known = torch.as_tensor(trials, dtype=torch.get_default_dtype())
        self.register_buffer("total", known, persistent=False)
        self.trials = f"{trials.min()}"
        if trials.min() < trials.max():
            self.trials += f" to {trials.max()}"
        self.remedy = f"x counts the successes among total={self.trials} trials"

    @property
    def support(self) -> Any:  # type: ignore[override]
        """0 to the number of trials, which follows the device and the type of the model."""
        return constraints.integer_interval(0, self.total)

    def shares(self, x: Tensor) -> Tensor:
        """The share of successes at each feature, with one further row at a half."""
        return smoothed_mean(x / self.total, 0.5)

    @override
    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.shares(x).logit(),)

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, total={self.trials}"


class Binomial(Trials):
    """Successes among n_i trials: p(x_i given z) = Binomial(n_i, sigmoid(logit_i)).

    Given z the trials of a row are independent; `BetaBinomial` is for those that vary more.

    Args:
        event_shape: Shape of one observation.
        total: Number of trials n, one for all or one for each feature.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `total` is not a whole number, at least 1, or has another shape.

    References:
        McCullagh and Nelder (1989), Generalized linear models, chapter 4.

    Example:
        >>> likelihood = Binomial(3, total=10)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).mean.shape
        torch.Size([5, 3])
    """

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.LogitBinomial(self.total, logits=raw[0])


class BetaBinomial(Trials):
    """Overdispersed successes: p(x_i given z) = Binomial(n_i, q), q ~ Beta(c_i p_i, c_i (1 - p_i)).

    p_i = sigmoid(logit_i) and the concentration c_i is learned; the variance is that of the
    binomial times (n_i + c_i) / (1 + c_i). One trial cannot be overdispersed: c_i is then unknown.

    Args:
        event_shape: Shape of one observation.
        total: Number of trials n, one for all or one for each feature.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `total` is not a whole number, at least 1, or has another shape.

    References:
        Skellam (1948), A probability distribution derived from the binomial distribution by
        regarding the probability of success as variable between the sets of trials, JRSS B 10.

    Example:
        >>> likelihood = BetaBinomial(3, total=[10, 10, 20])
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).mean[0].shape
        torch.Size([3])
    """

    def __init__(self, event_shape: int | Sequence[int], total: int | Sequence[int]) -> None:
        super().__init__(event_shape, total)
        self.log_concentration = nn.Parameter(torch.zeros(self.event_shape))

    @override
    def start_at(self, x: Tensor, exposure: Tensor | None = None) -> None:
        super().start_at(x)
        found = log_concentration(x, self.total, self.shares(x), (0,))
        with torch.no_grad():
            known = (~x.isnan()).any(0)
            self.log_concentration.copy_(torch.where(known, found, self.log_concentration))

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.LogitBetaBinomial(raw[0], self.log_concentration.clone(), self.total)


class Composition(Likelihood):
    """Counts along the last dim as parts of their total, on which p(x given z) is conditional.

    They have one joint density. The total is that of x itself where there is an x, else the
    exposure of the row or `total`.
    """

    support = constraints.independent(constraints.nonnegative_integer, 1)
    independent = False
    remedy = (
        "x holds counts 0, 1, 2, ..., and is missing in all parts of a total or in none; use "
        "Poisson for counts without a common total"
    )
    takes_exposure = True
    measure = "counting, given totals"  # which log p(x) of independent counts is not

    def __init__(self, event_shape: int | Sequence[int], *, total: int | None = None) -> None:
        super().__init__(event_shape)
        self.total = None if total is None else whole_number(total, "total")

    @abstractmethod
    def law(self, logits: Tensor, total: Tensor | None) -> dist.TorchDistribution:
        """p(x) of counts with this total."""

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        total = None if self.total is None else raw[0].new_tensor(self.total)
        return self.law(raw[0], total)

    @override
    def exposed(self, exposure: Tensor, *raw: Tensor) -> dist.TorchDistribution:
        return self.law(raw[0], exposure.squeeze(-1))

    @override
    def exposure_in(self, x: Tensor) -> Tensor:
        missing = x.isnan().all(-1, keepdim=True)
        return torch.where(missing, self.total or 0, x.nan_to_num().sum(-1, keepdim=True))

    @override
    def check_exposure(self, x: Tensor, exposure: Tensor, name: str | int) -> None:
        """Raise ValueError unless the exposure of each row, (N, 1, ...), is the total of x."""
        total = x.sum(-1, keepdim=True)  # NaN where x is missing
        wrong = (total - exposure).abs() > ROUNDING * exposure.abs()
        if wrong.any():
            row = int(wrong.nonzero()[0, 0])
            found = shown(total[row].flatten()[0])
            raise ValueError(
                f"exposure={name!r} is {shown(exposure[row].flatten()[0])} at row {row}, where x "
                f"adds up to {found}: the exposure of a {type(self).__name__} is the total of x"
            )

    def shares(self, x: Tensor) -> Tensor:
        """Shares of the sum over rows, with one further count that is divided equally."""
        counts = x.nansum(0) + 1 / x.shape[-1]
        return counts / counts.sum(-1, keepdim=True)

    @override
    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.shares(x).log(),)

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, total={self.total}"


class Multinomial(Composition):
    """Parts of a total n: p(x given z, n) = Multinomial(n, softmax(logits)).

    One density of all entries of the last dim, such as reads by species or votes by party. The
    total n is taken from x itself, so that it carries no information about z; draws without x
    need `total`, or `Model(..., exposure=)`, the column of context that holds it.

    Args:
        event_shape: Shape of one observation; the last dim has the parts of a total.
        total: The total of rows that are drawn without x; None where it is not the same for all.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `total` is not a whole number, at least 1; a draw whose total is not known.

    References:
        McCullagh and Nelder (1989), Generalized linear models, section 5.4; Miao et al. (2016),
        Neural variational inference for text processing, arXiv:1511.06038.

    Example:
        >>> likelihood = Multinomial(3, total=10)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).sample().sum(-1)
        tensor([10., 10., 10., 10., 10.])
    """

    @override
    def law(self, logits: Tensor, total: Tensor | None) -> dist.TorchDistribution:
        return densities.SoftmaxMultinomial(logits, total)


class DirichletMultinomial(Composition):
    """Overdispersed parts of a total n: Multinomial(n, q), q ~ Dirichlet(c softmax(logits)).

    The concentration c is learned; the variance of each part is that of the multinomial times (n +
    c) / (1 + c).

    Args:
        event_shape: Shape of one observation; the last dim has the parts of a total.
        total: The total of rows that are drawn without x, as in `Multinomial`.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `total` is not a whole number, at least 1; a draw whose total is not known.

    References:
        Mosimann (1962), On the compound multinomial distribution, Biometrika 49.

    Example:
        >>> likelihood = DirichletMultinomial(3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).log_prob(torch.ones(5, 3)).shape
        torch.Size([5])
    """

    def __init__(self, event_shape: int | Sequence[int], *, total: int | None = None) -> None:
        super().__init__(event_shape, total=total)
        self.log_concentration = nn.Parameter(torch.zeros(self.event_shape[:-1]))

    @override
    def start_at(self, x: Tensor, exposure: Tensor | None = None) -> None:
        super().start_at(x)
        totals = x.sum(-1, keepdim=True)
        found = log_concentration(x, totals, self.shares(x), (0, -1))
        with torch.no_grad():
            known = (~x.isnan()).any(0).any(-1)
            self.log_concentration.copy_(torch.where(known, found, self.log_concentration))

    @override
    def law(self, logits: Tensor, total: Tensor | None) -> dist.TorchDistribution:
        return densities.SoftmaxDirichletMultinomial(logits, self.log_concentration.clone(), total)
