"""A site's distribution with its batch dims where the library has them."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import kl_divergence, register_kl

from ppl_vae.programs.forms.layout import Layout

__all__ = ["Relaid", "relaid"]

# The parameters of the families that stay what they are, each with its number of event dims.
LEAVES: dict[type, dict[str, int]] = {
    dist.Normal: {"loc": 0, "scale": 0},
    dist.LogNormal: {"loc": 0, "scale": 0},
    dist.Laplace: {"loc": 0, "scale": 0},
    dist.StudentT: {"df": 0, "loc": 0, "scale": 0},
    dist.Gamma: {"concentration": 0, "rate": 0},
    dist.Beta: {"concentration1": 0, "concentration0": 0},
    dist.Exponential: {"rate": 0},
    dist.Poisson: {"rate": 0},
    dist.Bernoulli: {"logits": 0},
    dist.Categorical: {"logits": 1},
    dist.OneHotCategorical: {"logits": 1},
    dist.NegativeBinomial: {"total_count": 0, "logits": 0},
    dist.Dirichlet: {"concentration": 1},
    dist.MultivariateNormal: {"loc": 1, "scale_tril": 2},
}


class Relaid(dist.TorchDistribution):
    """A distribution of any family in the library's layout.

    Args:
        base: The program's distribution.
        layout: Where its dims are.
        right: Number of its batch dims that belong to the event.

    Example:
        >>> layout = Layout(dim=-1, rows=2, copies=3, place=-2, rank=1)
        >>> Relaid(dist.Gumbel(torch.zeros(6), 1.0), layout).batch_shape
        torch.Size([3, 2])
    """

    arg_constraints: Any = {}

    def __init__(self, base: Any, layout: Layout, right: int = 0) -> None:
        self.base = base
        self.layout = layout
        self.right = right
        shape = base.batch_shape
        outer = layout.shape_in_library(shape[: len(shape) - right])
        self.has_rsample = base.has_rsample
        self.has_enumerate_support = base.has_enumerate_support
        inner = shape[len(shape) - right :]
        super().__init__(outer + inner, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """That of the program's distribution."""
        return self.base.support

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self._outer(self.base.mean, len(self.event_shape))

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self._outer(self.base.variance, len(self.event_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        drawn = self.base.sample(sample_shape)
        return self._outer(drawn, len(self.event_shape), len(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a path derivative."""
        drawn = self.base.rsample(sample_shape)
        return self._outer(drawn, len(self.event_shape), len(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, of the library's batch shape."""
        others = None if self.layout.index is None else self.base.sample()
        inner = self.layout.to_program(value, self.right + len(self.event_shape), others)
        return self._outer(self.base.log_prob(inner))

    def cdf(self, value: Tensor) -> Tensor:
        """Distribution function."""
        return self._outer(self.base.cdf(self.layout.to_program(value, self.right)))

    def entropy(self) -> Tensor:
        """The entropy."""
        return self._outer(self.base.entropy())

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values, the first dim."""
        values = self.base.enumerate_support(expand=False)
        values = values.reshape(-1, *[1] * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The distribution itself where it has this shape."""
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        return dist.ExpandedDistribution(self, torch.Size(batch_shape))

    def _outer(self, values: Tensor, event_dim: int = 0, lead: int = 0) -> Tensor:
        return self.layout.to_library(values, self.right + event_dim, lead)


@register_kl(Relaid, Relaid)
def _kl_of_relaid(q: Relaid, p: Relaid) -> Tensor:
    if q.layout != p.layout or q.right != p.right:
        raise NotImplementedError
    return q.layout.to_library(kl_divergence(q.base, p.base), q.right)


def relaid(fn: Any, layout: Layout, right: int = 0) -> Any:
    """The distribution in the library's layout, of its own family where that is simple.

    Args:
        fn: The program's distribution, of the full batch shape of its site.
        layout: Where its dims are.
        right: Number of its batch dims that belong to the event.

    Example:
        >>> layout = Layout(dim=-1, rows=2, copies=3, place=-2, rank=1)
        >>> relaid(dist.Normal(torch.zeros(6, 4), 1.0).to_event(1), layout).base_dist
        Normal(loc: torch.Size([3, 2, 4]), scale: torch.Size([3, 2, 4]))
    """
    if isinstance(fn, torch.distributions.Independent):
        inner = fn.reinterpreted_batch_ndims
        found = relaid(fn.base_dist, layout, right + inner).to_event(inner)
    elif isinstance(fn, dist.MaskedDistribution):
        found = relaid(fn.base_dist, layout, right)
        mask = fn._mask
        if isinstance(mask, Tensor):
            mask = layout.to_library(mask.expand(fn.batch_shape), right)
        found = found.mask(mask)
    elif type(fn) in LEAVES:
        shape = fn.batch_shape
        parameters = {
            name: layout.to_library(_full(getattr(fn, name), shape, dims), right + dims)
            for name, dims in LEAVES[type(fn)].items()
        }
        found = type(fn)(**parameters, validate_args=False)
    elif isinstance(fn, dist.Delta):
        value = layout.to_library(fn.v, right + fn.event_dim)
        log_density = layout.to_library(fn.log_density, right)
        found = dist.Delta(value, log_density=log_density, event_dim=fn.event_dim)
    elif isinstance(fn, dist.Unit):
        found = dist.Unit(layout.to_library(fn.log_factor, right), validate_args=False)
    else:
        return Relaid(fn, layout, right)
    if found.has_rsample != fn.has_rsample:
        found.has_rsample = fn.has_rsample
    return found


def _full(parameter: Tensor, shape: Any, event_dims: int) -> Tensor:
    """A parameter expanded to the batch shape."""
    event = parameter.shape[parameter.dim() - event_dims :]
    return parameter.expand(*shape, *event)
