"""A warning of posterior collapse: latents that carry no information about x for many epochs."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.traces import Program, log_terms
from ppl_vae.runtime.seeding import seeded
from ppl_vae.training.warnings import examined

__all__ = ["collapse_warning", "mean_rate", "shares_information"]

LIMIT = 0.1  # nats
PATIENCE = 5  # epochs


def mean_rate(
    model: Program,
    guide: Program,
    args: tuple[Tensor, ...],
    seed: int = 0,
    weights: Tensor | None = None,
    rates: Callable[..., Tensor] | None = None,
) -> float:
    """Mean of log q(z given x) - log p(z) over rows, one draw each: an estimate of the rate, nats.

    It is NaN for programs without log-weights (with sites marked for enumeration, or without a free
    dim for a plate of particles).

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        args: The arguments of both: x, or x and context.
        seed: Seed of the draws.
        weights: Weights of the rows, (B,); None weights them equally.
        rates: `rate_of_rows` of model and guide in another form, such as a recorded one.

    References:
        Alemi et al. (2018), Fixing a broken ELBO, arXiv:1711.00464, section 2.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=100)
        >>> mean_rate(bed.model, bed.guide, (bed.x,)) > 1.0
        True
    """
    try:
        with seeded(seed):
            found = rate_of_rows(model, guide, *args) if rates is None else rates(*args)
    except Exception:  # diagnostics never end `fit`
        return math.nan
    if weights is not None:
        found = found * (weights / weights.mean())
    return found.mean().item()


def rate_of_rows(model: Program, guide: Program, *args: Tensor) -> Tensor:
    """log q(z given x) - log p(z) of one draw for each row, (B,)."""
    with evaluating(model, guide):
        terms = log_terms(model, guide, *args)
        return (terms.log_q - terms.log_prior).double().mean(0)


def shares_information(
    model: Program, guide: Program, args: tuple[Tensor, ...], seed: int = 0
) -> bool:
    """Whether latents outside the data plate carry information: a row's own may then carry none.

    One draw of log q(g) - log p(g), which is 0 if the guide has left the prior as it was.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        args: The arguments of both: x, or x and context.
        seed: Seed of the draw.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=100)
        >>> shares_information(bed.model, bed.guide, (bed.x,))
        False
    """
    found = examined(model, guide, args, seed, lambda terms: -terms.log_global.item())
    return not isinstance(found, Exception) and found > LIMIT


def collapse_warning(
    rates: Sequence[float],
    kl_weights: Sequence[float],
    *,
    limit: float = LIMIT,
    patience: int = PATIENCE,
) -> str | None:
    """The warning due after an epoch: the rate has been below a limit for so many epochs.

    It is given once: when the last `patience` epochs at full KL weight are all below the limit, and
    the epoch before them is not. Epochs at a smaller weight do not count.

    Args:
        rates: Rate per observation after each epoch, nats.
        kl_weights: Weight of the KL in each epoch.
        limit: Rate below which z carries almost no information, nats.
        patience: Number of epochs.

    Returns:
        The warning, or None.

    References:
        Lucas et al. (2019), Don't blame the ELBO! A linear VAE perspective on posterior collapse,
        arXiv:1911.02469.

    Example:
        >>> collapse_warning([3.0, 0.01, 0.01], [1.0, 1.0, 1.0], patience=2)
        'posterior collapse: the rate has been below 0.1 nats per row for 2 epochs, ...'
        >>> collapse_warning([0.01, 0.01, 0.01], [1.0, 1.0, 1.0], patience=2)  # given before
    """
    if not kl_weights or kl_weights[-1] < 1:
        return None
    dead = [rate < limit for rate, weight in zip(rates, kl_weights, strict=True) if weight >= 1]
    streak = dead[::-1].index(False) if False in dead else len(dead)
    if streak != patience:
        return None
    return (
        f"posterior collapse: the rate has been below {limit:g} nats per row for "
        f"{patience} epochs, so z carries no information about x: warm up the KL "
        "(kl_warmup_epochs), or use a less flexible decoder, or one with less noise"
    )
