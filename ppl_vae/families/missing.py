"""NaN is missing: what a likelihood makes of data with holes."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import pyro.distributions as dist
from torch import Tensor


def smoothed_mean(x: Tensor, prior_mean: float) -> Tensor:
    """Mean over rows with one more row at `prior_mean`: finite on the link's scale even where all rows are zero."""
    return (x.nansum(0) + prior_mean) / (1 + (~x.isnan()).sum(0))


_may_miss: ContextVar[bool | None] = ContextVar("may_miss", default=None)  # whether NaN is in x; None is not known


@contextmanager
def missing_values(exist: bool) -> Iterator[None]:
    """Say once, of all data, whether any are missing, so that no batch need be looked at."""
    token = _may_miss.set(exist)
    try:
        yield
    finally:
        _may_miss.reset(token)


def observed_part(distribution: dist.Independent, x: Tensor) -> tuple[dist.Independent, Tensor]:
    """The likelihood of what was observed: missing elements (NaN) contribute 0 to log p(x given z).

    Zero lies in the support of every family here, so it stands in for the missing values without a NaN gradient.
    """
    may_miss = _may_miss.get()
    if may_miss is False:
        return distribution, x
    missing = x.isnan()
    if may_miss is None and not missing.any():
        return distribution, x
    masked = distribution.base_dist.mask(~missing).to_event(distribution.reinterpreted_batch_ndims)
    return masked, x.masked_fill(missing, 0.0)
