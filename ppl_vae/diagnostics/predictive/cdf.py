"""The entries of x one by one: which site holds them, and where each lies in its distribution."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from scipy import special
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.datatree.sampler import is_observation
from ppl_vae.programs.traces import Program, Site, sample_sites
from ppl_vae.programs.validation import require_x_itself


def check_observed(model: Program, data: Dataset) -> None:
    """Raise unless something is observed, and is x itself."""
    if bool(data.x.isnan().all()):
        raise ValueError(
            f"x of shape {tuple(data.x.shape)} is missing throughout: there is nothing to hold "
            "against the model"
        )
    require_x_itself(model, data.x, data.context)


def site_of_x(trace: poutine.Trace, size: int) -> Site:
    """The observed site that holds all `size` values of a datum: "x" if it does, else the first
    that does.
    """
    sites = {site["name"]: site for site in sample_sites(trace) if is_observation(site)}
    fitting = {name: site for name, site in sites.items() if site["fn"].event_shape.numel() == size}
    if not fitting:
        raise ValueError(
            f"none of the observed sites {list(sites)} holds all {size} values of a datum: nothing "
            "to compare x with"
        )
    return fitting.get("x") or next(iter(fitting.values()))


def below_and_at(distribution: Any, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """P(X < x) and P(X = x) of every entry; from one draw where the distribution has no such
    function.

    Args:
        distribution: Batch shape (K, B), event shape `event`.
        x: Values without NaN, (B, *event).

    Returns:
        Two arrays (K, B, *event).
    """
    entry = distribution
    while isinstance(entry, dist.Independent | dist.MaskedDistribution):
        entry = entry.base_dist
    try:
        if entry.event_shape:
            raise NotImplementedError(
                f"the entries of a {type(entry).__name__} are not independent"
            )
        below = _below(entry, x)
        at = entry.log_prob(x).exp() if entry.support.is_discrete else torch.zeros_like(below)
    except NotImplementedError:
        draw = distribution.sample()
        below, at = draw < x, draw == x
    shape = (*distribution.batch_shape, *x.shape[1:])
    return _array(below, shape), _array(at, shape)


def _below(entry: Any, x: Tensor) -> Tensor:
    """P(X < x), elementwise."""
    for family, function in CLOSED_FORMS.items():
        if isinstance(entry, family):
            return function(entry, x)
    return _sum_of_pmf(entry, x) if entry.support.is_discrete else entry.cdf(x)


def _sum_of_pmf(entry: Any, x: Tensor) -> Tensor:
    """P(X < x) for values 0, 1, 2, ...: as many evaluations as the largest x."""
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for value in range(int(x.max())):
        total = total + entry.log_prob(torch.full_like(x, value)).exp() * (value < x)
    return total + torch.zeros_like(x)


def _poisson(entry: Any, x: Tensor) -> Tensor:
    return torch.special.gammaincc(x.double(), entry.rate.double())


def _negative_binomial(entry: Any, x: Tensor) -> Tensor:
    return _scipy(special.betainc, entry.total_count, x, torch.sigmoid(-entry.logits))


def _student_t(entry: Any, x: Tensor) -> Tensor:
    return _scipy(special.stdtr, entry.df, (x - entry.loc) / entry.scale)


def _scipy(function: Callable[..., np.ndarray], *values: Tensor) -> Tensor:
    """SciPy's functions take arrays."""
    return torch.as_tensor(function(*(value.double().cpu().numpy() for value in values)))


CLOSED_FORMS = {
    torch.distributions.Poisson: _poisson,
    torch.distributions.NegativeBinomial: _negative_binomial,
    torch.distributions.StudentT: _student_t,
}


def _array(values: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    return values.double().cpu().broadcast_to(shape).numpy()
