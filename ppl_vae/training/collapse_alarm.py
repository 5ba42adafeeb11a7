"""The alarm for posterior collapse during training: latents that say nothing of x, epoch after
epoch.
"""

from collections.abc import Sequence

from torch import Tensor

from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.traces import Program, log_terms
from ppl_vae.runtime.seeding import seeded

__all__ = ["collapse_warning", "mean_rate"]

LIMIT = 0.1  # nats
PATIENCE = 5  # epochs


def mean_rate(model: Program, guide: Program, args: tuple[Tensor, ...], seed: int = 0) -> float:
    """Mean of log q(z given x) - log p(z) over some data, one draw each: an estimate of the rate,
    in nats per datum.

    NaN for programs without log-weights (sites marked for enumeration, or no room for a plate of
    particles).

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        args: What both are called with: x, or x and context.
        seed: Seed of the draws.

    References:
        Alemi et al. (2018), Fixing a broken ELBO, arXiv:1711.00464, section 2.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=100)
        >>> mean_rate(bed.model, bed.guide, (bed.x,)) > 1.0
        True
    """
    try:
        with evaluating(model, guide), seeded(seed):
            terms = log_terms(model, guide, *args)
    except Exception:  # whatever a program cannot do here: a diagnostic never ends a training
        return float("nan")
    return (terms.log_q - terms.log_prior).double().mean().item()


def collapse_warning(
    rates: Sequence[float],
    kl_weights: Sequence[float],
    *,
    limit: float = LIMIT,
    patience: int = PATIENCE,
) -> str | None:
    """What to warn of after the last epoch: that the rate has been below a limit for so many
    epochs, all latents dead.

    Said once, when the last `patience` epochs at full KL weight are all below and no earlier one in
    a row with them. Epochs at a smaller weight do not count.

    Args:
        rates: Rate per datum after each epoch, nats.
        kl_weights: Weight of the KL in each epoch.
        limit: Below this rate z carries nothing to speak of, nats.
        patience: For how many epochs.

    Returns:
        The warning, or None.

    References:
        Lucas et al. (2019), Don't blame the ELBO! A linear VAE perspective on posterior collapse,
        arXiv:1911.02469.

    Example:
        >>> collapse_warning([3.0, 0.01, 0.01], [1.0, 1.0, 1.0], patience=2)
        'posterior collapse: the rate has been below 0.1 nats per datum for 2 epochs, so z ...'
        >>> collapse_warning([0.01, 0.01, 0.01], [1.0, 1.0, 1.0], patience=2) is None  # said an epoch ago
        True
    """
    if not kl_weights or kl_weights[-1] < 1:
        return None
    dead = [rate < limit for rate, weight in zip(rates, kl_weights, strict=True) if weight >= 1]
    streak = dead[::-1].index(False) if False in dead else len(dead)
    if streak != patience:
        return None
    return (
        f"posterior collapse: the rate has been below {limit:g} nats per datum for {patience} "
        "epochs, so z says "
        "nothing of x: warm the KL up (kl_warmup_epochs), or take a decoder with less power, or "
        "with less noise"
    )
