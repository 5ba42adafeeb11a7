"""Counts with a known total: laws of independent counts, given their sum.

Poisson counts with means n p_i, given that their sum is n, are multinomial; negative binomial ones
with the dispersions c p_i are Dirichlet-multinomial. Hence with f the law of each,

    log p(x) = sum_i log f(x_i; n p_i) - log f(n; n),

in which no logarithm of a factorial or of a Gamma function appears. Two categories make a binomial
and a beta-binomial.
"""

from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from ppl_vae.families.densities.counts import log_negative_binomial, log_poisson

__all__ = [
    "LogitBetaBinomial",
    "LogitBinomial",
    "SoftmaxDirichletMultinomial",
    "SoftmaxMultinomial",
]

LEAST = -1e30  # of a log-weight, so that the difference of two is a number


def log_multinomial(log_shares: Tensor, x: Tensor) -> Tensor:
    """log p(x given its sum), over the last dim."""
    total = x.sum(-1)
    positive = total.clamp(min=1)
    joint = log_poisson(log_shares, x, positive[..., None]).sum(-1)
    return total.clamp(max=1) * (joint - log_poisson(torch.zeros_like(positive), total, positive))


def log_dirichlet_multinomial(log_shares: Tensor, log_concentration: Tensor, x: Tensor) -> Tensor:
    """log p(x given its sum), over the last dim; the concentration is the sum of the parameters."""
    total = x.sum(-1)
    positive = total.clamp(min=1)
    zero = torch.zeros_like(total)
    joint = log_negative_binomial(
        zero[..., None], log_concentration[..., None], x, positive[..., None], log_shares
    )
    of_sum = log_negative_binomial(zero, log_concentration, total, positive)
    return total.clamp(max=1) * (joint.sum(-1) - of_sum)


def log_gamma_draws(log_shape: Tensor) -> Tensor:
    """Logarithms of draws of Gamma(a, 1), which may be too small for a float: log G + log(U) / a.

    References:
        Marsaglia and Tsang (2000), A simple method for generating gamma variables, section 6.
    """
    a = log_shape.exp().clamp(min=torch.finfo(log_shape.dtype).tiny)
    uniform = torch.rand_like(a).clamp(min=torch.finfo(a.dtype).tiny)
    gamma = dist.Gamma(a + 1, torch.ones_like(a), validate_args=False).rsample()
    return (gamma.log() + uniform.log() / a).clamp(min=LEAST)


def divided(total: Tensor, log_weights: Tensor) -> Tensor:
    """A multinomial draw: the total is divided between two halves of the categories, and so on.

    References:
        Devroye (1986), Non-uniform random variate generation, section XI.1.
    """
    num_categories = log_weights.shape[-1]
    depth = (num_categories - 1).bit_length()
    level = pad(log_weights.clamp(min=LEAST), (0, 2**depth - num_categories), value=LEAST)
    gaps = []
    for _ in range(depth):
        left, right = level.unflatten(-1, (-1, 2)).unbind(-1)
        gaps.append(left - right)
        level = torch.logaddexp(left, right)
    counts = total[..., None].expand(level.shape)
    for gap in reversed(gaps):
        first = LogitBinomial(counts, logits=gap).sample()
        counts = torch.stack([first, counts - first], dim=-1).flatten(-2)
    return counts[..., :num_categories]


class LogitBinomial(dist.Binomial):
    """Binomial with the success probability sigmoid(logits).

    torch's version subtracts logarithms of factorials, which are of order 10^8 at 10^7 trials.

    Example:
        >>> LogitBinomial(10**6, logits=torch.tensor(0.0)).log_prob(torch.tensor(5e5))
        tensor(-7.1335)
    """

    @property
    def variance(self) -> Tensor:
        """n p (1 - p)."""
        return self.mean * torch.sigmoid(-self.logits)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return log_multinomial(*_two(self.logits, self.total_count, value))

    @override
    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            total = self.total_count.expand(shape)
            # The rarer outcome, whose probability is not rounded at the size of 1.
            rare = torch.binomial(total, torch.sigmoid(-self.logits.abs()).expand(shape))
            return torch.where(self.logits > 0, total - rare, rare)


def _two(logits: Tensor, total: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities and counts of success and failure."""
    log_shares = torch.stack([logsigmoid(logits), logsigmoid(-logits)], dim=-1)
    return log_shares, torch.stack(torch.broadcast_tensors(value, total - value), dim=-1)


class LogitBetaBinomial(dist.TorchDistribution):
    """Binomial whose success probability is Beta(c p, c (1 - p)), p = sigmoid(logits).

    The mean is n p and the variance n p (1 - p) (n + c) / (1 + c); c to infinity is the binomial.
    Pyro's version subtracts logarithms of Gamma functions.

    Args:
        logits: log(p / (1 - p)).
        log_concentration: log c.
        total: Number of trials n.

    Example:
        >>> law = LogitBetaBinomial(torch.zeros(()), torch.zeros(()), torch.tensor(4.0))
        >>> law.log_prob(torch.arange(5.0)).exp()
        tensor([0.2734, 0.1562, 0.1406, 0.1562, 0.2734])
    """

    arg_constraints = {"logits": constraints.real, "log_concentration": constraints.real}

    def __init__(
        self,
        logits: Tensor,
        log_concentration: Tensor,
        total: Tensor,
        *,
        validate_args: bool | None = None,
    ) -> None:
        shape = torch.broadcast_shapes(logits.shape, log_concentration.shape, total.shape)
        self.logits = logits.expand(shape)
        self.log_concentration = log_concentration.expand(shape)
        self.total_count = total.to(logits).expand(shape)
        super().__init__(shape, validate_args=validate_args)

    @override
    def expand(
        self, batch_shape: Any, _instance: "LogitBetaBinomial | None" = None
    ) -> "LogitBetaBinomial":
        new = self._get_checked_instance(LogitBetaBinomial, _instance)
        held = (self.logits, self.log_concentration, self.total_count)
        parts = (each.expand(batch_shape) for each in held)
        LogitBetaBinomial.__init__(new, *parts, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """0 to n."""
        return constraints.integer_interval(0, self.total_count)

    @property
    def mean(self) -> Tensor:
        """n p."""
        return self.total_count * torch.sigmoid(self.logits)

    @property
    def variance(self) -> Tensor:
        """n p (1 - p) (1 + (n - 1) / (1 + c))."""
        excess = (self.total_count - 1) * torch.sigmoid(-self.log_concentration)
        return self.mean * torch.sigmoid(-self.logits) * (1 + excess)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_shares, counts = _two(self.logits, self.total_count, value)
        return log_dirichlet_multinomial(log_shares, self.log_concentration, counts)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, by that of the probability."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            log_c = self.log_concentration.expand(shape)
            successes = log_gamma_draws(log_c + logsigmoid(self.logits))
            failures = log_gamma_draws(log_c + logsigmoid(-self.logits))
            return LogitBinomial(self.total_count, logits=successes - failures).sample()


class SoftmaxMultinomial(dist.TorchDistribution):
    """Counts of categories with the probabilities softmax(logits), given their sum.

    The density takes the sum from the counts; draws and moments need `total`. torch's version draws
    only for one total, and subtracts logarithms of factorials.

    Args:
        logits: Log-probabilities up to a constant, (*batch, D).
        total: Sum of the counts, (*batch); None where it is not known.

    Example:
        >>> SoftmaxMultinomial(torch.zeros(2)).log_prob(torch.tensor([1.0, 1.0])).exp()
        tensor(0.5000)
    """

    arg_constraints = {"logits": constraints.real_vector}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(
        self, logits: Tensor, total: Tensor | None = None, *, validate_args: bool | None = None
    ) -> None:
        self.logits = logits.log_softmax(-1)
        self._total = None if total is None else total.to(logits).expand(logits.shape[:-1])
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    @override
    def expand(
        self, batch_shape: Any, _instance: "SoftmaxMultinomial | None" = None
    ) -> "SoftmaxMultinomial":
        new = self._get_checked_instance(SoftmaxMultinomial, _instance)
        shape = torch.Size(batch_shape)
        new.logits = self.logits.expand(shape + self.event_shape)
        new._total = None if self._total is None else self._total.expand(shape)
        dist.TorchDistribution.__init__(new, shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def total_count(self) -> Tensor:
        """The sum of the counts."""
        if self._total is None:
            raise ValueError(
                "the total of each row is not known here: give total= to the likelihood, or name "
                'the column of context that holds it, Model(..., exposure="...")'
            )
        return self._total

    @property
    def marginals(self) -> Any:
        """The law of each count alone: a binomial."""
        return LogitBinomial(self.total_count[..., None], logits=self._log_odds)

    @property
    def _log_odds(self) -> Tensor:
        return self.logits - (-torch.expm1(self.logits)).log()

    @property
    def mean(self) -> Tensor:
        """n p."""
        return self.total_count[..., None] * self.logits.exp()

    @property
    def variance(self) -> Tensor:
        """That of each count alone."""
        return self.marginals.variance

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return log_multinomial(self.logits, value)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with these totals."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            return divided(self.total_count.expand(shape), self._weights(shape))

    def _weights(self, batch_shape: torch.Size) -> Tensor:
        """Log-probabilities of the categories, of as many draws."""
        return self.logits.expand(batch_shape + self.event_shape)


class SoftmaxDirichletMultinomial(SoftmaxMultinomial):
    """Multinomial counts with the probabilities Dirichlet(c p), p = softmax(logits).

    A count alone is beta-binomial with the concentration c; c to infinity is the multinomial.

    Args:
        logits: Logarithms of the mean probabilities up to a constant, (*batch, D).
        log_concentration: log c, (*batch).
        total: Sum of the counts, (*batch); None where it is not known.

    Example:
        >>> law = SoftmaxDirichletMultinomial(torch.zeros(2), torch.tensor(2.0).log())
        >>> law.log_prob(torch.tensor([[3.0, 0.0], [2.0, 1.0]])).exp()
        tensor([0.2500, 0.2500])
    """

    def __init__(
        self,
        logits: Tensor,
        log_concentration: Tensor,
        total: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.log_concentration = log_concentration.expand(logits.shape[:-1])
        super().__init__(logits, total, validate_args=validate_args)

    @override
    def expand(
        self, batch_shape: Any, _instance: "SoftmaxMultinomial | None" = None
    ) -> "SoftmaxMultinomial":
        new = self._get_checked_instance(SoftmaxDirichletMultinomial, _instance)
        new.log_concentration = self.log_concentration.expand(batch_shape)
        return super().expand(batch_shape, _instance=new)

    @property
    def marginals(self) -> Any:
        """The law of each count alone: a beta-binomial."""
        return LogitBetaBinomial(
            self._log_odds, self.log_concentration[..., None], self.total_count[..., None]
        )

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return log_dirichlet_multinomial(self.logits, self.log_concentration, value)

    @override
    def _weights(self, batch_shape: torch.Size) -> Tensor:
        parameters = self.log_concentration[..., None] + self.logits
        return log_gamma_draws(parameters.expand(batch_shape + self.event_shape))
