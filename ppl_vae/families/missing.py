"""NaN is missing: the likelihood of what was observed."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import transform_to

from ppl_vae.families.densities import Columnwise
from ppl_vae.families.densities.columnwise import ColumnwiseSupport
from ppl_vae.families.entries import entries_of

__all__ = [
    "completed",
    "discrete_entries",
    "observed_part",
    "outside_of",
    "smoothed_mean",
    "stand_in",
]


def observed_part(distribution: Any, x: Tensor, may_miss: bool | None = None) -> tuple[Any, Tensor]:
    """The likelihood of the observed elements: missing ones (NaN) add 0 to log p(x given z).

    A value inside the support replaces each missing one (`stand_in`), so that its gradient is zero
    too: log p(0) of a positive value is infinite, and the gradient of an infinite number is NaN
    even behind a mask. Entries with one joint density (a composition, say) are missing all together
    or not at all, unless the distribution has a method `given`, which gives the density of the
    observed ones.

    Args:
        distribution: p(x given z), all elements.
        x: Data, (B, *event).
        may_miss: Whether x may hold NaN; None looks at x, which a recorded training step cannot do.

    Returns:
        The distribution with the missing elements masked, and x with values of the support in their
        place.

    Raises:
        ValueError: Entries with one joint density are partly missing (checked where `may_miss` is
            None).

    References:
        Mattei and Frellsen (2019), MIWAE, arXiv:1812.02633, section 3.

    Example:
        >>> import torch
        >>> x = torch.tensor([[2.0, float("nan")]])
        >>> part, values = observed_part(dist.LogNormal(0.0, 1.0).expand([1, 2]).to_event(1), x)
        >>> values, part.log_prob(values).round(decimals=3)
        (tensor([[2., 1.]]), tensor([-1.8520]))
    """
    if may_miss is False:
        return distribution, x
    missing = x.isnan()
    if may_miss is None and not missing.any():
        return distribution, x
    entry, num_plates = entries_of(distribution)
    values = torch.where(missing, _stand_in_of(entry, x), x)
    if hasattr(entry, "given"):
        return entry.given(values, ~missing).to_event(num_plates), values
    if entry.event_dim:
        whole = missing.flatten(-entry.event_dim)
        missing = whole.any(-1)
        if may_miss is None and (missing & ~whole.all(-1)).any():
            raise ValueError(
                f"x is partly missing where the entries of {type(entry).__name__} have one joint "
                "density: make all entries of such a row NaN, or use a likelihood of independent "
                "entries"
            )
    return entry.mask(~missing).to_event(num_plates), values


def completed(distribution: Any) -> Tensor:
    """A draw of every element of x, of missing ones given those that are observed.

    Elements that are independent given z are drawn as they are; a distribution with a method
    `given` draws the missing ones by its method `completed`.

    Args:
        distribution: What `observed_part` returns, or any distribution of x given z.

    Example:
        >>> import torch
        >>> from ppl_vae.families.densities import FactorNormal
        >>> p = FactorNormal(torch.zeros(2), 1e3 * torch.ones(2, 1), torch.ones(2))
        >>> part, _ = observed_part(p, torch.tensor([[9.0, float("nan")]]))
        >>> bool((completed(part)[0, 1] - 9.0).abs() < 9.0)
        True
    """
    entry = distribution
    while isinstance(entry, dist.Independent | dist.MaskedDistribution):
        entry = entry.base_dist
    if hasattr(entry, "completed"):
        return entry.completed()
    return distribution.sample()


def discrete_entries(support: Any, num_entries: int) -> list[bool]:
    """Which entries of x are discrete, by the support of their distribution.

    Args:
        support: A constraint of torch or Pyro, elementwise or of the last dims of x.
        num_entries: Number of entries of one row.

    Example:
        >>> discrete_entries(dist.constraints.nonnegative_integer, 2)
        [True, True]
    """
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if not isinstance(support, ColumnwiseSupport):
        return [support.is_discrete] * num_entries
    found = {
        column: part.is_discrete
        for part, place in zip(support.supports, support.places, strict=True)
        for column in place
    }
    return [found[column] for column in range(num_entries)]


def _stand_in_of(entry: Any, x: Tensor) -> Tensor:
    """`stand_in` of a distribution's support; a transformed one takes its base's, transformed."""
    if isinstance(entry, Columnwise):
        return entry.each(_stand_in_of, x)
    if entry.event_shape or not isinstance(entry, torch.distributions.TransformedDistribution):
        return stand_in(entry.support, x)
    value = _stand_in_of(entry.base_dist, x)
    for transform in entry.transforms:
        value = transform(value)
    return value.detach()


def stand_in(support: Any, x: Tensor) -> Tensor:
    """A value inside this support, where every density of the family is finite; it broadcasts to x.

    The image of zero under torch's map from the real line to the support: 0 for real values, 1 for
    positive ones, the middle of an interval, equal shares. For whole numbers the bound, for counts
    of categories all in the first one.

    Args:
        support: A constraint of torch or Pyro, elementwise or of the last dims of x.
        x: A tensor with the wanted float type, device and event.

    Example:
        >>> import torch
        >>> stand_in(dist.constraints.positive, torch.zeros(2))
        tensor(1.)
        >>> stand_in(dist.constraints.simplex, torch.zeros(4))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    while hasattr(support, "base_constraint"):  # independent elements, or a mixture's components
        support = support.base_constraint
    event = x.shape[x.dim() - support.event_dim :]
    if not support.is_discrete:
        transform = transform_to(support)
        found = transform(x.new_zeros(transform.inverse_shape(event))).detach()
        # NaN on a sphere, where zero has no direction.
        return found.nan_to_num(nan=max(event.numel(), 1) ** -0.5)
    if support.event_dim:  # one category holds everything
        first = torch.arange(event[-1], device=x.device) == 0
        return first * torch.as_tensor(getattr(support, "upper_bound", 1)).to(x)
    bound = getattr(support, "lower_bound", getattr(support, "upper_bound", 0))
    return torch.as_tensor(bound).to(x)


def outside_of(support: Any, x: Tensor) -> Tensor:
    """Which values are infinite, or neither missing nor in the support; joint entries together.

    Args:
        support: A constraint of torch or Pyro, elementwise or of the last dims of x.
        x: Data, (N, *event).

    Example:
        >>> import torch
        >>> shares = torch.tensor([[0.5, 0.5], [0.5, float("nan")]])
        >>> outside_of(dist.constraints.simplex, shares).tolist()
        [[False, False], [True, True]]
    """
    joint = tuple(range(-support.event_dim, 0))
    missing = x.isnan()
    infinite = x.isinf()
    if joint:
        missing = missing.all(joint, keepdim=True)
        infinite = infinite.any(joint, keepdim=True)
    inside = support.check(x).reshape(missing.shape)
    return (infinite | ~(inside | missing)).expand_as(x)


def smoothed_mean(x: Tensor, prior_mean: float) -> Tensor:
    """Mean over rows and one further row at `prior_mean`, so that its link is finite.

    Args:
        x: Data, (N, *event); NaN is left out.
        prior_mean: Value of the further row.

    Example:
        >>> import torch
        >>> smoothed_mean(torch.zeros(3, 1), 1.0)
        tensor([0.2500])
    """
    return (x.nansum(0) + prior_mean) / (1 + (~x.isnan()).sum(0))
