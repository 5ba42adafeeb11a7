"""NaN is missing: what a likelihood makes of data with holes."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import pyro.distributions as dist
from torch import Tensor

__all__ = ["missing_values", "observed_part", "smoothed_mean"]

_may_miss: ContextVar[bool | None] = ContextVar("may_miss", default=None)  # None: not known, look at each batch


@contextmanager
def missing_values(exist: bool) -> Iterator[None]:
    """Say once, of all data, whether any are missing, so that no batch need be looked at.

    No paper.

    Args:
        exist: Whether there may be NaN in the data that are evaluated within.

    Example:
        >>> import torch
        >>> with missing_values(False):
        ...     observed_part(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(1), torch.zeros(1, 2))[1]
        tensor([[0., 0.]])
    """
    token = _may_miss.set(exist)
    try:
        yield
    finally:
        _may_miss.reset(token)


def observed_part(distribution: dist.Independent, x: Tensor) -> tuple[dist.Independent, Tensor]:
    """The likelihood of what was observed: missing elements (NaN) contribute 0 to log p(x given z).

    Zero lies in the support of every family here, so it stands in for the missing values without a NaN gradient.

    Args:
        distribution: p(x given z), all elements.
        x: Data, (B, *event).

    Returns:
        The distribution with the missing elements masked, and x with zeros in their place.

    References:
        Mattei and Frellsen (2019), MIWAE, arXiv:1812.02633, section 3.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, float("nan")]])
        >>> part, values = observed_part(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(1), x)
        >>> values, part.log_prob(values).round(decimals=3)
        (tensor([[0., 0.]]), tensor([-0.9190]))
    """
    may_miss = _may_miss.get()
    if may_miss is False:
        return distribution, x
    missing = x.isnan()
    if may_miss is None and not missing.any():
        return distribution, x
    masked = distribution.base_dist.mask(~missing).to_event(distribution.reinterpreted_batch_ndims)
    return masked, x.masked_fill(missing, 0.0)


def smoothed_mean(x: Tensor, prior_mean: float) -> Tensor:
    """Mean over rows with one more row at `prior_mean`: finite on the link's scale even where all rows are zero.

    No paper.

    Args:
        x: Data, (N, *event); NaN is left out.
        prior_mean: Value of the further row.

    Example:
        >>> import torch
        >>> smoothed_mean(torch.zeros(3, 1), 1.0)
        tensor([0.2500])
    """
    return (x.nansum(0) + prior_mean) / (1 + (~x.isnan()).sum(0))
