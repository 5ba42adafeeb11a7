"""Distribution functions of the entries of x, and their averages over draws of z."""

from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from scipy import special
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.predictive.entries import EntriesOfX
from ppl_vae.diagnostics.predictive.hiding import Predicted
from ppl_vae.evidence import reduce_log_weights
from ppl_vae.families.densities import Columnwise, Hurdle
from ppl_vae.families.densities.series import by_scipy
from ppl_vae.programs.observed.functions_of_x import require_x_itself
from ppl_vae.programs.traces import Program, Site

__all__ = ["elementwise"]

Averages = tuple[np.ndarray, np.ndarray]


def check_observed(model: Program, data: Dataset) -> None:
    """Raise unless an entry of x is observed, and the model observes x itself."""
    if bool(data.x.isnan().all()):
        raise ValueError(
            f"x of shape {tuple(data.x.shape)} has no observed entry: give rows with observed "
            "entries to compare with the model"
        )
    require_x_itself(model, data)


def refuse_mechanism(model: Program) -> None:
    """Raise ValueError if whether entries are observed depends on their values."""
    if getattr(model, "missingness", None) is not None:
        raise ValueError(
            "PIT values are for p(x given z), but in this model whether an entry is observed "
            "depends on its value: use predictive_check, whose replicates draw their own masks"
        )


def elementwise(distribution: Any) -> Any:
    """The law of each entry, masked ones too, alone or given those that are observed.

    A distribution whose entries have a joint density gives it by its attribute `marginals`.

    Args:
        distribution: p(x given z), (K, B) by *event.

    Example:
        >>> elementwise(dist.Normal(torch.zeros(4, 3), 1.0).mask(False).to_event(1)).batch_shape
        torch.Size([4, 3])
    """
    entry = distribution
    while isinstance(entry, dist.Independent | dist.MaskedDistribution):
        entry = entry.base_dist
    return getattr(entry, "marginals", entry)


def below_and_at(distribution: Any, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """P(X < x) and P(X = x) of every entry; indicators from one draw if there is no formula.

    A distribution with a density at some points and a probability at others gives the probability
    by its method `point_mass`.

    Args:
        distribution: Batch shape (K, B), event shape `event`.
        x: Values without NaN, (B, *event).

    Returns:
        Two arrays (K, B, *event).
    """
    entry = elementwise(distribution)
    try:
        at = _at(entry, x)
        below = _below(entry, x, at)
    except NotImplementedError:
        draw = distribution.sample()
        below = draw < x
        at = draw == x
    shape = (*distribution.batch_shape, *distribution.event_shape)
    lower, mass = (each.double().cpu().broadcast_to(shape).numpy() for each in (below, at))
    return lower, mass


def _at(entry: Any, x: Tensor) -> Tensor:
    """P(X = x), elementwise."""
    if isinstance(entry, Columnwise):
        return entry.each(_at, x)
    if hasattr(entry, "point_mass"):
        return entry.point_mass(x)
    return entry.log_prob(x).exp() if entry.support.is_discrete else torch.zeros_like(x)


def _below(entry: Any, x: Tensor, at: Tensor) -> Tensor:
    """P(X < x), elementwise, given P(X = x); NotImplementedError if there is no formula."""
    if isinstance(entry, Columnwise):
        return entry.each(lambda part, value: _below(part, value, _at(part, value)), x)
    if entry.event_shape:
        raise NotImplementedError(f"the entries of a {type(entry).__name__} are dependent")
    try:
        return (entry.cdf(x) - at).clamp(min=0)
    except NotImplementedError:
        return _below_by_kind(entry, x)


def _below_by_kind(entry: Any, x: Tensor) -> Tensor:
    """P(X < x) of distributions for which torch has no distribution function."""
    match entry:
        case torch.distributions.Poisson():
            return torch.special.gammaincc(x.double(), entry.rate.double())
        case torch.distributions.NegativeBinomial():
            return by_scipy(special.betainc, entry.total_count, x, torch.sigmoid(-entry.logits))
        case torch.distributions.StudentT():
            return by_scipy(special.stdtr, entry.df, (x - entry.loc) / entry.scale)
        case torch.distributions.Binomial():
            more = entry.total_count - x + 1
            below = by_scipy(special.betainc, more, x.clamp(min=1), torch.sigmoid(-entry.logits))
            return below * (x > 0).cpu()
        case dist.ZeroInflatedDistribution():
            return _below_beside_zeros(entry, x)
    if not entry.support.is_discrete:
        raise NotImplementedError(f"{type(entry).__name__} has no distribution function")
    # The values are 0, 1, 2, ...: sum their probabilities up to the largest x.
    total = torch.zeros_like(x)
    for value in range(int(x.max())):
        total = total + entry.log_prob(torch.full_like(x, value)).exp() * (value < x)
    return total


def _below_beside_zeros(entry: Any, x: Tensor) -> Tensor:
    """P(X < x) of counts with a separate probability of zero."""
    law = entry.base_dist
    below = _below(law, x, _at(law, x)).double().cpu()
    gate = entry.gate.double().cpu()
    if isinstance(entry, Hurdle):
        hazard = entry.hazard.double().cpu()
        below = (below - torch.exp(-hazard)) / -torch.expm1(-hazard)
    return (gate + (1 - gate) * below) * (x > 0).cpu()


def best_averages(found: list[Predicted], part: Dataset, entries: EntriesOfX) -> Averages:
    """Averages of the proposal with the largest ESS, row by row.

    Values (6, B, *event) are P(X < x) and P(X = x) by all draws, P(X = x) by each half of the
    draws, the variance of P(X < x) + P(X = x) / 2 between draws, and the ESS; k-hat is (B,).
    """
    averages = [_averages(traces, log_weights, part, entries) for traces, log_weights in found]
    values, k_hats = (np.stack(each) for each in zip(*averages, strict=True))
    ess = values[:, -1].reshape(*values.shape[:1], len(part), -1)[..., 0]
    best = np.nan_to_num(ess).argmax(0)
    rows = np.arange(len(part))
    return np.moveaxis(values[best, :, rows], 0, 1), k_hats[best, rows]


def _averages(
    traces: list[poutine.Trace], log_weights: Tensor, part: Dataset, entries: EntriesOfX
) -> Averages:
    """The same for one proposal, whose draws follow one another in the traces."""
    x = part.x.nan_to_num()
    probabilities = []
    for trace in traces:
        probabilities.append(_of_entries(trace, x, entries))
    below, at = (np.concatenate(each) for each in zip(*probabilities, strict=True))
    log_w = log_weights.cpu().numpy()
    evidence = reduce_log_weights(log_w)
    # The draws of even and of odd number: each half has its share of every trace.
    halves = slice(0, None, 2), slice(min(1, len(log_w) - 1), None, 2)
    means = [
        _mean(log_w, below),
        _mean(log_w, at),
        *(_mean(log_w[half], at[half]) for half in halves),
    ]
    between = _mean(log_w, np.square(below + at / 2)) - np.square(means[0] + means[1] / 2)
    ess = np.broadcast_to(evidence.ess.reshape(-1, *[1] * len(part.event_shape)), x.shape)
    parts = (each.reshape(x.shape) for each in (*means, between))
    return np.stack([*parts, ess]), evidence.pareto_k


def _of_entries(
    trace: poutine.Trace, x: Tensor, entries: EntriesOfX
) -> tuple[np.ndarray, np.ndarray]:
    """P(X < x) and P(X = x) of all entries of a row, (K, B, size)."""
    found: list[dict[str, Tensor]] = [{}, {}]
    for name in entries.places:
        site: Site = trace.nodes[name]
        for part, values in zip(found, below_and_at(site["fn"], entries.at(x, site)), strict=True):
            part[name] = torch.from_numpy(values)
    below, at = (entries.put(part, trace).numpy() for part in found)
    return below, at


def _mean(log_weights: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Weighted mean over the particles."""
    weights = special.softmax(log_weights.astype(np.float64), axis=0)
    return np.einsum("kb,kb...->b...", weights, probabilities).clip(0, 1)
