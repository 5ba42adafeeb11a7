"""Values that are recorded coarsely: clamped to limits, or rounded."""

from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

__all__ = ["Coarsened", "Grid", "Levels", "LevelsMixture", "Recorded"]


class Recorded(constraints.Constraint):
    """Values whose interval, once clamped to the limits, meets a support.

    Example:
        >>> below = Recorded(constraints.positive, torch.tensor(0.5), torch.tensor(torch.inf), 0.0)
        >>> below.check(torch.tensor([0.0, 1.0]))
        tensor([True, True])
    """

    def __init__(
        self, base: constraints.Constraint, lower: Tensor, upper: Tensor, half: Tensor | float
    ) -> None:
        self.base_constraint = base
        self.limits = lower, upper
        self.half = half
        super().__init__()

    @override
    def check(self, value: Tensor) -> Tensor:
        clamped = value.clamp(*(limit.to(value) for limit in self.limits))
        half = torch.as_tensor(self.half).to(value)
        return self.base_constraint.check(clamped + half) & ~value.isinf()


class Coarsened(dist.TorchDistribution):
    """x = Y rounded to the grid of the width, then clamped to [lower, upper]; Y ~ base.

    The grid has a finite limit among its values, or else 0.

    With h half the width (0 without), F the distribution function of Y and p its density,

        P(x) = F(lower + h) where x <= lower,    1 - F(upper - h) where x >= upper,
               F(x + h) - F(x - h) between them, or p(x) without a width.

    Limits of infinity are none. Mean and variance are those of Y.

    Args:
        base: The distribution of Y, with `log_cdf`, `log_survival` and `log_around`.
        lower: Lower limit, broadcast to the batch shape; None for none.
        upper: Upper limit.
        width: Width of the intervals that x is rounded to.

    References:
        Heitjan and Rubin (1991), Ignorability and coarse data, Annals of Statistics 19.

    Example:
        >>> from ppl_vae.families.densities.real import StandardisedNormal
        >>> base = StandardisedNormal(torch.zeros(2), torch.ones(2))
        >>> Coarsened(base, lower=torch.tensor(0.0)).log_prob(torch.tensor([0.0, 1.0]))
        tensor([-0.6931, -1.4189])
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self,
        base: Any,
        lower: Tensor | None = None,
        upper: Tensor | None = None,
        width: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        infinite = base.mean.new_tensor(torch.inf)
        self.base = base
        self.lower = -infinite if lower is None else lower
        self.upper = infinite if upper is None else upper
        self.width = width
        super().__init__(base.batch_shape, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new = self._get_checked_instance(Coarsened, _instance)
        base = self.base.expand(batch_shape)
        Coarsened.__init__(new, base, self.lower, self.upper, self.width, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """All that may have been recorded."""
        return Recorded(self.base.support, self.lower, self.upper, self.half)

    @property
    def half(self) -> Tensor | float:
        """Half the width."""
        return 0.0 if self.width is None else 0.5 * self.width

    @property
    def anchor(self) -> Tensor:
        """A value of the grid: a limit, or 0."""
        above = torch.where(self.upper.isinf(), 0.0, self.upper)
        return torch.where(self.lower.isinf(), above, self.lower)

    @property
    def mean(self) -> Tensor:
        """Mean of Y."""
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        """Variance of Y."""
        return self.base.variance

    def clamped(self, value: Tensor) -> Tensor:
        """The value within the limits."""
        return value.clamp(self.lower, self.upper)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        inside = self.clamped(value)
        if self.width is None:
            found = self.base.log_prob(inside)
        else:
            found = self.base.log_around(inside, self.half)
        below = self.base.log_cdf(_finite(self.lower) + self.half)
        above = self.base.log_survival(_finite(self.upper) - self.half)
        found = torch.where(value <= self.lower, below, found)
        return torch.where(value >= self.upper, above, found)

    def cdf(self, value: Tensor) -> Tensor:
        """P(x <= value), of a recorded value."""
        found = self.base.log_cdf(self.clamped(value) + self.half).exp()
        return torch.where(value >= self.upper, 1.0, found)

    def point_mass(self, value: Tensor) -> Tensor:
        """P(x = value), of a recorded value."""
        probability = self.log_prob(value).exp()
        if self.width is not None:
            return probability
        at_a_limit = (value <= self.lower) | (value >= self.upper)
        return torch.where(at_a_limit, probability, 0.0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of what is recorded."""
        with torch.no_grad():
            value = self.base.sample(sample_shape)
            if self.width is not None:
                value = ((value - self.anchor) / self.width).round() * self.width + self.anchor
            return self.clamped(value)


def _finite(limit: Tensor) -> Tensor:
    """The limits, and a positive number that stands in where there is none."""
    return torch.where(limit.isinf(), 1.0, limit)


class Grid(constraints.Constraint):
    """The values 0, 1 / (L - 1), ..., 1, as float32 rounds them.

    Example:
        >>> Grid(256).check(torch.tensor([2 / 255, 0.01]))
        tensor([ True, False])
    """

    is_discrete = True
    lower_bound = 0.0
    upper_bound = 1.0

    def __init__(self, num_levels: int) -> None:
        self.num_levels = num_levels
        super().__init__()

    @override
    def check(self, value: Tensor) -> Tensor:
        number = value * (self.num_levels - 1)
        rounding = 4 * (self.num_levels - 1) * torch.finfo(torch.float32).eps
        return (value >= 0) & (value <= 1) & ((number - number.round()).abs() <= rounding)


class Levels(Coarsened):
    """Y rounded to the values 0, 1 / (L - 1), ..., 1; the lowest and the highest are open-ended.

    Args:
        base: The distribution of Y.
        num_levels: Number of levels L.

    References:
        Salimans et al. (2017), PixelCNN++, arXiv:1701.05517, eq. 2.

    Example:
        >>> from ppl_vae.families.densities.real import Logistic
        >>> p = Levels(Logistic(torch.zeros(()), torch.tensor(1e-6)), 256)
        >>> p.log_prob(torch.tensor([0.0, 1.0])).exp(), p.mean
        (tensor([1., 0.]), tensor(0.))
    """

    has_enumerate_support = True

    def __init__(self, base: Any, num_levels: int, *, validate_args: bool | None = None) -> None:
        zero = base.mean.new_zeros(())
        self.num_levels = num_levels
        super().__init__(
            base, zero, zero + 1, zero + 1 / (num_levels - 1), validate_args=validate_args
        )

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new = self._get_checked_instance(Levels, _instance)
        Levels.__init__(new, self.base.expand(batch_shape), self.num_levels, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """The levels."""
        return Grid(self.num_levels)

    @property
    def mean(self) -> Tensor:
        """Mean of the levels."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """Variance of the levels."""
        return self._moments()[1]

    def _moments(self) -> tuple[Tensor, Tensor]:
        """By E k = sum_k P(above k) and E k^2 = sum_k (2 k + 1) P(above k), k = 0 to L - 2."""
        first = torch.zeros_like(self.base.mean)
        second = torch.zeros_like(first)
        last = self.num_levels - 1
        for k in range(last):
            above = self.base.log_survival(torch.full_like(first, (k + 0.5) / last)).exp()
            first = first + above
            second = second + (2 * k + 1) * above
        mean = first / last
        return mean, (second / last**2 - mean * mean).clamp(min=0)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The levels, in a new first dim."""
        like = self.base.mean
        # Divided, so that each level is rounded as k / 255 of an image is.
        levels = torch.arange(self.num_levels, dtype=like.dtype, device=like.device)
        values = levels / (self.num_levels - 1)
        values = values.reshape(-1, *(1 for _ in self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values


class LevelsMixture(dist.MixtureSameFamily):
    """A mixture of `Levels`, which it states as its support.

    Example:
        >>> from ppl_vae.families.densities.real import Logistic
        >>> parts = Levels(Logistic(torch.tensor([0.0, 1.0]), torch.tensor(1e-6)), 3)
        >>> LevelsMixture(dist.Categorical(torch.ones(2)), parts).mean
        tensor(0.5000)
    """

    has_enumerate_support = True

    @property
    def support(self) -> Any:
        """The levels."""
        return self.component_distribution.support

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The levels, in a new first dim."""
        return self.component_distribution.enumerate_support(expand)[..., 0]
